// The handler for CUDA as the XLA of a CPU can call it, which has neither a stream nor memory of a
// device to hand over. For tests only.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "bind/xla_cuda.h"
#include "cuda/kernels.h"

namespace fastloss::cuda {
extern stream_handle last_stream;
}

namespace {

constexpr std::uintptr_t stream = 0x57;  // what the emulation is to see
std::size_t in_use = 0, calls = 0;

XLA_FFI_Error* get_stream(XLA_FFI_Stream_Get_Args* args) {
  args->stream = reinterpret_cast<void*>(stream);
  return nullptr;
}
XLA_FFI_Error* allocate(XLA_FFI_DeviceMemory_Allocate_Args* args) {
  args->data = std::malloc(args->size);
  std::memset(args->data, 0xff, args->size);  // NaN: nobody may count on zeros
  in_use += args->size;
  return nullptr;
}
XLA_FFI_Error* free_memory(XLA_FFI_DeviceMemory_Free_Args* args) {
  std::memset(args->data, 0xff, args->size);
  std::free(args->data);
  in_use -= args->size;
  return nullptr;
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED XLA_FFI_Error* xla_handler_on_host(XLA_FFI_CallFrame* frame) {
  if (!frame->api) return fastloss::cuda::xla_handler(frame);  // XLA only asks what it is
  static std::mutex one_at_a_time;  // XLA calls from several threads; the emulation is of one
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  XLA_FFI_Api api{};
  // An older or newer XLA has a smaller or larger table; what comes after ours is not used.
  std::memcpy(&api, frame->api,
              sizeof api < frame->api->struct_size ? sizeof api : frame->api->struct_size);
  api.Stream_Get = get_stream;
  api.DeviceMemory_Allocate = allocate;
  api.DeviceMemory_Free = free_memory;
  XLA_FFI_CallFrame with_device = *frame;
  with_device.api = &api;
  fastloss::cuda::last_stream = nullptr;
  XLA_FFI_Error* const error = fastloss::cuda::xla_handler(&with_device);
  calls += fastloss::cuda::last_stream == reinterpret_cast<void*>(stream);
  return error;
}

// Bytes of scratch memory that were not given back, and calls that launched on the stream of XLA.
EXPORTED std::size_t xla_scratch_in_use() { return in_use; }
EXPORTED std::size_t xla_calls() { return calls; }
