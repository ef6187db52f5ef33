// Operations registered with a TensorFlow that the process has loaded. Nothing of TensorFlow is
// needed at build time: its C API and XLA's are looked up by name.
#pragma once

#include <string>

#include "bind/xla.h"

namespace fastloss {

// Both throw std::runtime_error that says what is missing. Once registered, they do nothing.

// Registers the ops `tensorflow_loss_op` and `tensorflow_scale_op` with the library at `path`
// (libtensorflow_framework), for the CPU.
void register_tensorflow_ops(const std::string& path);

// Registers a handler of custom calls to `target` on `platform` ("Host" or "CUDA") with the XLA in
// the library at `path` (libtensorflow_cc).
void register_xla_handler(const std::string& path, const std::string& target,
                          const std::string& platform, XLA_FFI_Handler* handler);

// The one for the CPU.
XLA_FFI_Error* xla_handler(XLA_FFI_CallFrame* frame);

// The messages for a graph with an op or a custom call that is not registered hold little more than
// its name; so the names say what to do.
inline constexpr const char* tensorflow_loss_op = "Import_fastloss_tensorflow>Loss";
inline constexpr const char* tensorflow_scale_op = "Import_fastloss_tensorflow>ScaleGradient";
inline constexpr const char* xla_target = "import_fastloss_tensorflow";

}  // namespace fastloss
