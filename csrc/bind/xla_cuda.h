// The handler of custom calls for CUDA.
#pragma once

#include "bind/xla.h"

namespace fastloss::cuda {

// Enqueues the loss on the stream that XLA hands over, with scratch memory from XLA's allocator.
// Waits for nothing; the device is the one that XLA has made current.
XLA_FFI_Error* xla_handler(XLA_FFI_CallFrame* frame);

}  // namespace fastloss::cuda
