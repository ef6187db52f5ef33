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

}  // namespace fastloss::cuda
