// What is compiled for the device: for every loss, functions that enqueue its kernels.
#pragma once

#include "cuda/arguments.h"
#include "losses/list.h"

namespace fastloss::cuda {

using stream_handle = void*;  // cudaStream_t

struct loss_kernel {
  using launch = void (*)(const double* parameters, const arguments&, const geometry&,
                          stream_handle);
  launch map = nullptr;         // of a map loss
  launch rows = nullptr;        // of the others: whole rows,
  launch split_rows = nullptr;  // and parts of rows, one launch per phase and one more
  int phases = 0;
  int sweeps = 0;      // phases that look at all columns
  int kept_bytes = 0;  // per column, if a row is kept
  bool averages = false, label_signs = false;

  const loss_kernel* variant = nullptr;
  bool (*has_variant_for)(const double* parameters) = nullptr;
  const loss_kernel& chosen_for(const double* parameters) const {
    return variant && has_variant_for(parameters) ? variant->chosen_for(parameters) : *this;
  }
};

struct kernel_set {
  loss_kernel losses[all_losses::size];
  void (*divisor)(const arguments&, const geometry&, bool with_weight, bool by_element,
                  stream_handle);
  void (*labels)(const arguments&, const geometry&, stream_handle);
  void (*ctc)(const arguments&, const ctc_arguments&, const geometry&, stream_handle);
  std::size_t ctc_described_bytes;  // of what is kept of a frame
  // Zeroes memory of the device.
  void (*clear)(void* memory, std::size_t bytes, stream_handle);
};

// What the kernels of float and of double are called by.
const kernel_set& kernels_f32();
const kernel_set& kernels_f64();

}  // namespace fastloss::cuda
