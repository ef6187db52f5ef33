// Fills the table of kernels.h. `Device` enqueues: launch(body, geometry, stream) and clear.
#pragma once

#include <algorithm>

#include "cuda/ctc_kernel.h"
#include "cuda/divisor_kernels.h"
#include "cuda/kernels.h"
#include "cuda/map_kernel.h"
#include "cuda/row_kernels.h"

namespace fastloss::cuda {

template <class Device, class Kernel, class F>
void launch(const double* parameters, const arguments& a, const geometry& g, stream_handle s) {
  Device::launch(Kernel{F(parameters), a, g}, g, s);
}

template <class Device, class F, class T>
loss_kernel make_kernel() {
  loss_kernel k;
  k.averages = F::averages;
  k.label_signs = F::label_signs;
  if constexpr (F::loss_kind == kind::map) {
    k.map = launch<Device, map_kernel<F, T>, F>;
  } else {
    static_assert(sizeof(typename F::stats) <= stats_bytes);
    k.rows = launch<Device, row_kernel<F, T>, F>;
    k.split_rows = launch<Device, split_row_kernel<F, T>, F>;
    k.phases = F::phases;
    k.sweeps = F::sparse ? std::min(F::phases, F::target_phase) : F::phases;
    k.kept_bytes = row_of<F, T>::arrays * sizeof(T);
  }
  if constexpr (!std::is_void_v<typename F::variant>) {
    static const loss_kernel variant = make_kernel<Device, typename F::variant, T>();
    k.variant = &variant;
    k.has_variant_for = F::has_variant_for;
  }
  return k;
}

template <class Device, class T, template <class> class... Loss>
kernel_set make_kernels(loss_list<Loss...>) {
  return {{make_kernel<Device, Loss<T>, T>()...},
          [](const arguments& a, const geometry& g, bool with_weight, bool by_element,
             stream_handle s) {
            Device::launch(divisor_kernel<T>{a, g, with_weight, by_element}, g, s);
          },
          [](const arguments& a, const geometry& g, stream_handle s) {
            Device::launch(label_kernel<T>{a, g}, g, s);
          },
          [](const arguments& a, const ctc_arguments& q, const geometry& g, stream_handle s) {
            Device::launch(ctc_kernel<T>{a, q, g}, g, s);
          },
          sizeof(ctc_described<T>),
          Device::clear};
}

}  // namespace fastloss::cuda
