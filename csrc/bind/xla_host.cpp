// The handler of custom calls for the CPU, and how handlers come into a TensorFlow.
#include <dlfcn.h>

#include <mutex>
#include <set>
#include <stdexcept>
#include <string>

#include "bind/tensorflow.h"
#include "bind/xla.h"

namespace fastloss {
namespace {

void execute(const XLA_FFI_CallFrame& frame) {
  const xla::call c(frame);
  c.what().run_again(c.inputs_and_outputs(),
                     [&c](std::size_t i, const shape& sizes) { return c.output(i, sizes); });
}

XLA_FFI_ByteSpan span(const std::string& s) { return {s.data(), s.size()}; }

void add_handler(const std::string& path, const std::string& target, const std::string& platform,
                 XLA_FFI_Handler* handler) {
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
      sizeof args, nullptr, span(target), span(platform), nullptr, nullptr, nullptr, handler, 0};
  xla::expect_success(api, api->Handler_Register(&args));
}

}  // namespace

XLA_FFI_Error* xla_handler(XLA_FFI_CallFrame* frame) { return xla::handle(frame, execute); }

void register_xla_handler(const std::string& path, const std::string& target,
                          const std::string& platform, XLA_FFI_Handler* handler) {
  static std::mutex mutex;
  static std::set<std::pair<std::string, std::string>> registered;
  const std::lock_guard<std::mutex> lock(mutex);
  if (registered.count({target, platform})) return;
  add_handler(path, target, platform, handler);
  registered.emplace(target, platform);
}

}  // namespace fastloss
