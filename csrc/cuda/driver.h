// Runs a request whose arrays are in the memory of a device.
#pragma once

#include "api.h"
#include "cuda/kernels.h"

namespace fastloss::cuda {

// What `enqueue` needs for this request, in bytes; 256-byte alignment will do.
std::size_t workspace_bytes(const request& r);

// Enqueues the request on a stream of the current device; waits for nothing and allocates nothing,
// so that it can be captured in a graph. The reduced value goes to `value`, a number of type
// r.compute in the memory of the device; with reduction::none it is not used. All arrays, the class
// weights included, and the workspace must live until the stream is through. A row with a label out
// of range has a loss of NaN and a gradient of zero. Throws argument_error, before anything is
// enqueued, for strides of more than eight axes, and runtime_error for what CUDA reports.
void enqueue(const request& r, void* value, void* workspace, stream_handle stream);

// Connectionist temporal classification. Of a request, the rows are samples and the columns frames
// of classes; y_true is rows x max_labels, and the loss and its parameters are not looked at.
struct ctc_samples {
  std::int64_t frames = 0, classes = 0, max_labels = 0;
  std::int64_t blank = 0;                          // in [0, classes)
  std::optional<view> label_length, logit_length;  // on the rows; without them, all labels that are
                                                   // not blank, and all frames
};

// The same for CTC. A sample with a label or a length out of range has a loss of NaN and a gradient
// of zero.
std::size_t workspace_bytes(const request& r, const ctc_samples& samples);
void enqueue(const request& r, const ctc_samples& samples, void* value, void* workspace,
             stream_handle stream);

}  // namespace fastloss::cuda
