#include "bind/xla_cuda.h"

#include <stdexcept>
#include <string>

#include "cuda/device.h"
#include "cuda/driver.h"

namespace fastloss::cuda {
namespace {

stream_handle stream_of(const XLA_FFI_CallFrame& frame) {
  XLA_FFI_Stream_Get_Args args{sizeof args, nullptr, frame.ctx, nullptr};
  xla::expect_success(frame.api, frame.api->Stream_Get(&args));
  return args.stream;
}

// Memory of the device. XLA hands it on to what comes later on the same stream, so that it may go
// before the work that uses it is done.
class scratch {
 public:
  scratch(const XLA_FFI_CallFrame& frame, std::size_t bytes) : frame_(frame), bytes_(bytes) {
    constexpr std::size_t alignment = 16;  // the most that XLA takes; it gives more
    XLA_FFI_DeviceMemory_Allocate_Args args{sizeof args, nullptr,   frame.ctx,
                                            bytes,       alignment, nullptr};
    xla::expect_success(frame.api, frame.api->DeviceMemory_Allocate(&args));
    data_ = static_cast<char*>(args.data);
  }
  scratch(const scratch&) = delete;
  ~scratch() {
    XLA_FFI_DeviceMemory_Free_Args args{sizeof args, nullptr, frame_.ctx, bytes_, data_};
    try {
      xla::expect_success(frame_.api, frame_.api->DeviceMemory_Free(&args));
    } catch (const std::runtime_error&) {  // what was computed is right all the same
    }
  }
  char* data() const { return data_; }

 private:
  const XLA_FFI_CallFrame& frame_;
  std::size_t bytes_;
  char* data_ = nullptr;
};

constexpr std::size_t rounded(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

void execute(const XLA_FFI_CallFrame& frame) {
  const xla::call c(frame);
  const operation& op = c.what();
  const plan* p = op.loss_plan();
  if (!p) throw argument_error("ctc: XLA has no kernel of it for GPUs");
  fitted call = op.fit(c.inputs());
  if (const array* u = op.find(c.inputs(), "upstream")) call.upstream_on_device(*u);
  const auto value = op.place_outputs(
      call, c.inputs(), [&c](std::size_t i, const shape& sizes) { return c.output(i, sizes); });
  if (op.reduces() && value && value->type != call.compute_type())
    throw argument_error("value: expected the type that the loss is computed in");

  // The scratch memory: the workspace, the class weights, and a value that nobody asked for.
  const std::vector<double>& weights = p->class_weight;
  const std::size_t weight_bytes = weights.size() * sizeof(double);
  const std::size_t value_bytes =
      value ? 0 : sizeof(double) * (op.reduces() ? 1 : call.value_count());
  const std::size_t weights_at = rounded(workspace_bytes(call.as_request()));
  const std::size_t value_at = weights_at + rounded(weight_bytes);
  const stream_handle stream = stream_of(frame);
  const scratch memory(frame, value_at + value_bytes);
  if (weight_bytes) {
    copy_to_device(memory.data() + weights_at, weights.data(), weight_bytes, stream);
    call.class_weight_on_device(memory.data() + weights_at);
  }
  char* const value_data = value ? value->data : memory.data() + value_at;
  if (!op.reduces() && !value)
    call.values(contiguous(value_data, call.compute_type(), call.value_shape()));
  enqueue(call.as_request(), value_data, memory.data(), stream);
}

}  // namespace

XLA_FFI_Error* xla_handler(XLA_FFI_CallFrame* frame) { return xla::handle(frame, execute); }

}  // namespace fastloss::cuda
