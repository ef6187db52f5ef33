// The handler that XLA's CPU executables call: XLA's foreign function interface, version 0.1, which
// later versions accept.
#include <dlfcn.h>

#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "bind/tensorflow.h"
#include "operation.h"

// The part of xla/ffi/api/c_api.h that is used here.
extern "C" {
struct XLA_FFI_Error;
struct XLA_FFI_Extension_Base {
  size_t struct_size;
  int type;  // 1: metadata
  XLA_FFI_Extension_Base* next;
};
struct XLA_FFI_Api_Version {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  int major_version, minor_version;
};
struct XLA_FFI_Error_Create_Args {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  const char* message;
  int code;  // as absl::StatusCode
};
struct XLA_FFI_Error_GetMessage_Args {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  XLA_FFI_Error* error;
  const char* message;
};
struct XLA_FFI_Error_Destroy_Args {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  XLA_FFI_Error* error;
};
struct XLA_FFI_Buffer {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  int type;
  void* data;
  int64_t rank;
  int64_t* dims;
};
struct XLA_FFI_ByteSpan {
  const char* ptr;
  size_t len;
};
struct XLA_FFI_Args {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  int64_t size;
  int* types;
  void** args;
};
struct XLA_FFI_Attrs {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  int64_t size;
  int* types;
  XLA_FFI_ByteSpan** names;
  void** attrs;
};
struct XLA_FFI_Api;
struct XLA_FFI_CallFrame {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  const XLA_FFI_Api* api;
  void* ctx;
  int stage;
  XLA_FFI_Args args;
  XLA_FFI_Args rets;
  XLA_FFI_Attrs attrs;
};
using XLA_FFI_Handler = XLA_FFI_Error*(XLA_FFI_CallFrame*);
struct XLA_FFI_Handler_Register_Args {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  XLA_FFI_ByteSpan name, platform;
  XLA_FFI_Handler *instantiate, *prepare, *initialize, *execute;
  uint32_t traits;
};
struct XLA_FFI_Metadata {
  size_t struct_size;
  XLA_FFI_Api_Version api_version;
  uint32_t traits;
};
struct XLA_FFI_Metadata_Extension {
  XLA_FFI_Extension_Base base;
  XLA_FFI_Metadata* metadata;
};
struct XLA_FFI_Api {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  XLA_FFI_Api_Version api_version;
  const void* internal_api;
  XLA_FFI_Error* (*Error_Create)(XLA_FFI_Error_Create_Args*);
  void (*Error_GetMessage)(XLA_FFI_Error_GetMessage_Args*);
  void (*Error_Destroy)(XLA_FFI_Error_Destroy_Args*);
  XLA_FFI_Error* (*Handler_Register)(XLA_FFI_Handler_Register_Args*);
};
}

namespace fastloss {
namespace {

constexpr int execute_stage = 3, metadata_extension = 1, string_attribute = 4;
constexpr int invalid_argument = 3, internal_error = 13;

dtype type_of(int xla_type) {
  switch (xla_type) {
    case 1: return dtype::boolean;
    case 2: return dtype::i8;
    case 3: return dtype::i16;
    case 4: return dtype::i32;
    case 5: return dtype::i64;
    case 6: return dtype::u8;
    case 7: return dtype::u16;
    case 8: return dtype::u32;
    case 9: return dtype::u64;
    case 10: return dtype::f16;
    case 11: return dtype::f32;
    case 12: return dtype::f64;
    case 16: return dtype::bf16;
  }
  throw argument_error("expected arrays of real numbers");
}

array as_array(const void* buffer) {
  const auto* b = static_cast<const XLA_FFI_Buffer*>(buffer);
  return contiguous(b->data, type_of(b->type), shape(b->dims, b->dims + b->rank));
}

std::string attribute(const XLA_FFI_Attrs& attrs, const std::string& name) {
  for (int64_t i = 0; i < attrs.size; ++i) {
    if (attrs.types[i] != string_attribute ||
        name != std::string(attrs.names[i]->ptr, attrs.names[i]->len))
      continue;
    const auto* value = static_cast<const XLA_FFI_ByteSpan*>(attrs.attrs[i]);
    return {value->ptr, value->len};
  }
  throw argument_error("the call lacks the attribute " + name);
}

// Every call of an executable brings the line along; it is read once.
const operation& operation_of(const std::string& line) {
  static std::mutex mutex;
  static std::unordered_map<std::string, std::unique_ptr<operation>> known;
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<operation>& found = known[line];
  if (!found) found = std::make_unique<operation>(line);
  return *found;
}

// Inputs beyond those of the operation hold the shapes of the outputs, for XLA's shape inference.
void execute(const XLA_FFI_CallFrame& frame) {
  const operation& op = operation_of(attribute(frame.attrs, "call"));
  std::vector<array> inputs;
  if (frame.args.size < int64_t(op.input_count()) || frame.rets.size != int64_t(op.output_count()))
    throw argument_error("the call has other inputs and outputs than it says");
  for (std::size_t i = 0; i < op.input_count(); ++i) inputs.push_back(as_array(frame.args.args[i]));
  op.run(inputs, [&](std::size_t i, const shape& sizes) {
    array out = as_array(frame.rets.args[i]);
    if (out.sizes != sizes)
      throw argument_error("output " + std::to_string(i) + " has shape " + text(out.sizes) +
                           ", the loss makes " + text(sizes));
    return out;
  });
}

XLA_FFI_Error* error(const XLA_FFI_Api* api, int code, const char* message) {
  XLA_FFI_Error_Create_Args args{sizeof args, nullptr, message, code};
  return api->Error_Create(&args);
}

XLA_FFI_Error* handle(XLA_FFI_CallFrame* frame) {
  // With this extension XLA does not call, but asks.
  if (frame->extension_start && frame->extension_start->type == metadata_extension) {
    auto* asked = reinterpret_cast<XLA_FFI_Metadata_Extension*>(frame->extension_start)->metadata;
    asked->api_version.major_version = 0;
    asked->api_version.minor_version = 1;
    asked->traits = 0;
    return nullptr;
  }
  if (frame->stage != execute_stage) return nullptr;
  try {
    execute(*frame);
    return nullptr;
  } catch (const std::invalid_argument& e) {
    return error(frame->api, invalid_argument, e.what());
  } catch (const std::exception& e) {
    return error(frame->api, internal_error, e.what());
  }
}

XLA_FFI_ByteSpan span(const char* s) { return {s, std::char_traits<char>::length(s)}; }

bool register_handler(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOLOAD | RTLD_LAZY);
  if (!library) throw std::runtime_error("TensorFlow's library is not loaded: " + path);
  constexpr const char* symbol = "_ZN3xla3ffi12GetXlaFfiApiEv";  // xla::ffi::GetXlaFfiApi()
  const auto get = reinterpret_cast<const XLA_FFI_Api* (*)()>(dlsym(library, symbol));
  if (!get) throw std::runtime_error(std::string("this TensorFlow lacks ") + symbol);
  const XLA_FFI_Api* api = get();
  if (api->api_version.major_version != 0 || api->api_version.minor_version < 1)
    throw std::runtime_error("XLA's foreign function interface has version " +
                             std::to_string(api->api_version.major_version) + "." +
                             std::to_string(api->api_version.minor_version));
  XLA_FFI_Handler_Register_Args args{
      sizeof args, nullptr, span(xla_target), span("Host"), nullptr, nullptr, nullptr, handle, 0};
  if (XLA_FFI_Error* failed = api->Handler_Register(&args)) {
    XLA_FFI_Error_GetMessage_Args asked{sizeof asked, nullptr, failed, nullptr};
    api->Error_GetMessage(&asked);
    const std::string message = asked.message;
    XLA_FFI_Error_Destroy_Args gone{sizeof gone, nullptr, failed};
    api->Error_Destroy(&gone);
    throw std::runtime_error(message);
  }
  return true;
}

}  // namespace

void register_xla_handler(const std::string& path) {
  [[maybe_unused]] static const bool once = register_handler(path);
}

}  // namespace fastloss
