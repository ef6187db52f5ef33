#include "bind/xla.h"

#include <map>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>

namespace fastloss::xla {
namespace {

constexpr int execute_stage = 3, metadata_extension = 1, string_attribute = 4;
constexpr int invalid_argument = 3, resource_exhausted = 8, internal_error = 13;

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

operand as_operand(const void* buffer) {
  const auto* b = static_cast<const XLA_FFI_Buffer*>(buffer);
  return {static_cast<char*>(b->data), type_of(b->type), b->dims, std::size_t(b->rank)};
}

std::string_view text(const XLA_FFI_ByteSpan& span) { return {span.ptr, span.len}; }

std::string_view attribute(const XLA_FFI_Attrs& attrs, std::string_view name) {
  for (int64_t i = 0; i < attrs.size; ++i)
    if (attrs.types[i] == string_attribute && text(*attrs.names[i]) == name)
      return text(*static_cast<const XLA_FFI_ByteSpan*>(attrs.attrs[i]));
  throw argument_error("the call lacks the attribute " + std::string(name));
}

// Every call of an executable brings the line along; it is read once.
const operation& operation_of(std::string_view line) {
  static std::mutex mutex;
  static std::map<std::string, operation, std::less<>> known;
  const std::lock_guard<std::mutex> lock(mutex);
  auto found = known.find(line);
  if (found == known.end()) found = known.try_emplace(std::string(line), std::string(line)).first;
  return found->second;
}

XLA_FFI_Error* error(const XLA_FFI_Api* api, int code, const char* message) {
  XLA_FFI_Error_Create_Args args{sizeof args, nullptr, message, code};
  return api->Error_Create(&args);
}

}  // namespace

// Inputs beyond those of the operation hold the shapes of the outputs, for XLA's shape inference.
call::call(const XLA_FFI_CallFrame& frame)
    : frame_(frame), what_(operation_of(attribute(frame.attrs, "call"))) {
  if (frame.args.size < int64_t(what_.input_count()) ||
      frame.rets.size != int64_t(what_.output_count()))
    throw argument_error("the call has other inputs and outputs than it says");
}

std::vector<array> call::inputs() const {
  std::vector<array> all;
  for (std::size_t i = 0; i < what_.input_count(); ++i)
    all.push_back(as_array(as_operand(frame_.args.args[i])));
  return all;
}

std::vector<operand> call::inputs_and_outputs() const {
  std::vector<operand> all;
  all.reserve(what_.input_count() + what_.output_count());
  for (std::size_t i = 0; i < what_.input_count(); ++i)
    all.push_back(as_operand(frame_.args.args[i]));
  for (int64_t i = 0; i < frame_.rets.size; ++i) all.push_back(as_operand(frame_.rets.args[i]));
  return all;
}

array call::output(std::size_t i, const shape& sizes) const {
  array out = as_array(as_operand(frame_.rets.args[i]));
  if (out.sizes != sizes)
    throw argument_error("output " + std::to_string(i) + " has shape " + fastloss::text(out.sizes) +
                         ", the loss makes " + fastloss::text(sizes));
  return out;
}

XLA_FFI_Error* handle(XLA_FFI_CallFrame* frame, void (*execute)(const XLA_FFI_CallFrame&)) {
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
  } catch (const std::bad_alloc&) {
    return error(frame->api, resource_exhausted, "fastloss: not enough memory");
  } catch (const std::exception& e) {
    return error(frame->api, internal_error, e.what());
  }
}

void expect_success(const XLA_FFI_Api* api, XLA_FFI_Error* error) {
  if (!error) return;
  XLA_FFI_Error_GetMessage_Args asked{sizeof asked, nullptr, error, nullptr};
  api->Error_GetMessage(&asked);
  const std::string message = asked.message;
  XLA_FFI_Error_Destroy_Args gone{sizeof gone, nullptr, error};
  api->Error_Destroy(&gone);
  throw std::runtime_error(message);
}

}  // namespace fastloss::xla
