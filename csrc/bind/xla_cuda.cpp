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

// A plan. The scratch memory: the workspace, the class weights, and a value that nobody asked for.
void execute_plan(const XLA_FFI_CallFrame& frame, const xla::call& c,
                  const operation::get_output& output) {
  const operation& op = c.what();
  const std::vector<array> inputs = c.inputs();
  fitted call = op.fit(inputs);
  if (const array* u = op.find(inputs, "upstream")) call.upstream_on_device(*u);
  const auto value = op.place_outputs(call, inputs, output);
  if (op.reduces() && value && value->type != call.compute_type())
    throw argument_error("value: expected the type that the loss is computed in");

  const std::vector<double>& weights = op.loss_plan()->class_weight;
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

void execute_ctc(const XLA_FFI_CallFrame& frame, const xla::call& c,
                 const operation::get_output& output) {
  const operation& op = c.what();
  const std::vector<array> inputs = c.inputs();
  ctc_request checked = op.fit_ctc(inputs);
  op.place_outputs(checked, inputs, output);
  ctc_samples samples;
  samples.frames = checked.max_frames;
  samples.classes = checked.classes;
  samples.max_labels = checked.max_labels;
  samples.blank = checked.blank;
  samples.label_length = as_view(*op.find(inputs, "label_length"));
  samples.logit_length = as_view(*op.find(inputs, "logit_length"));
  request r;
  r.rows = checked.batch;
  r.cols = samples.frames * samples.classes;
  r.compute = checked.compute;
  r.y_pred = checked.y_pred;
  r.y_true = as_view(inputs[0]);
  if (const array* u = op.ctc_upstream(inputs)) r.row_upstream = as_view(*u);
  r.grad_pred = checked.grad;
  const std::size_t value_at = rounded(workspace_bytes(r, samples));
  const bool wants_values = checked.values.data;
  const scratch memory(frame, value_at + (wants_values ? 0 : r.rows * sizeof(double)));
  r.values = wants_values ? checked.values
                          : as_view(contiguous(memory.data() + value_at, r.compute, {r.rows}));
  enqueue(r, samples, nullptr, memory.data(), stream_of(frame));
}

void execute(const XLA_FFI_CallFrame& frame) {
  const xla::call c(frame);
  const auto output = [&c](std::size_t i, const shape& sizes) { return c.output(i, sizes); };
  (c.what().loss_plan() ? execute_plan : execute_ctc)(frame, c, output);
}

}  // namespace

XLA_FFI_Error* xla_handler(XLA_FFI_CallFrame* frame) { return xla::handle(frame, execute); }

}  // namespace fastloss::cuda
