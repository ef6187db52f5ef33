// Operations registered with a TensorFlow that the process has loaded. Nothing of TensorFlow is
// needed at build time: its C API and XLA's are looked up by name.
#pragma once

#include <string>

namespace fastloss {

// Both throw std::runtime_error that says what is missing. Once registered, they do nothing.

// Registers the ops `tensorflow_loss_op` and `tensorflow_scale_op` with the library at `path`
// (libtensorflow_framework), for the CPU.
void register_tensorflow_ops(const std::string& path);

// Registers the handler `xla_target` of custom calls with the XLA in the library at `path`
// (libtensorflow_cc), for the CPU.
void register_xla_handler(const std::string& path);

// The messages for a graph with an op or a custom call that is not registered hold little more than
// its name; so the names say what to do.
inline constexpr const char* tensorflow_loss_op = "Import_fastloss_tensorflow>Loss";
inline constexpr const char* tensorflow_scale_op = "Import_fastloss_tensorflow>ScaleGradient";
inline constexpr const char* xla_target = "import_fastloss_tensorflow";

}  // namespace fastloss
