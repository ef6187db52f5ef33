// Instantiates every formula as loops. Compiled once per instruction set, with FASTLOSS_KERNELS
// naming the table and FASTLOSS_ISA the set. Everything here has internal linkage: see
// core/config.h.
#include "cpu/kernels.h"

#include <new>

#include "cpu/ctc_loops.h"
#include "cpu/lane_loops.h"
#include "cpu/memory_loops.h"
#include "cpu/row_loops.h"

namespace fastloss::cpu {
namespace {

template <class F, class T>
void construct(const double* parameters, void* functor) {
  static_assert(sizeof(F) <= functor_bytes && std::is_trivially_copyable_v<F>);
  new (functor) F(parameters);
}

template <class F, class T, int Wants>
void map_loop(const void* functor, const T* t, const T* p, const T* scale, T* loss, T* d_pred,
              T* d_true, std::int64_t n) {
  const F f = *static_cast<const F*>(functor);
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    map_terms<T> r = f(t[i], p[i]);
    T s = scale[i];
    loss[i] = r.loss;
    if constexpr (Wants & wants_pred) d_pred[i] = s == 0 ? T(0) : s * r.d_pred;
    if constexpr (Wants & wants_true) d_true[i] = s == 0 ? T(0) : s * r.d_true;
  }
}

enum class gradients { none, stored, streamed, added, added_streamed };

template <class F, class T, gradients Gradients>
void map_sum_loop(const void* functor, const T* t, const T* p, T scale, const T* before, T* d_pred,
                  std::int64_t n, lane_sums& all) {
  constexpr int width = sum_lanes;
  constexpr bool writes = Gradients != gradients::none,
                 adds = Gradients == gradients::added || Gradients == gradients::added_streamed,
                 streams =
                     Gradients == gradients::streamed || Gradients == gradients::added_streamed;
  const F f = *static_cast<const F*>(functor);
  double sums[width];
  std::memcpy(sums, all.lane, sizeof sums);
  alignas(cache_line) T loss[width], out[width];
  auto one = [&](std::int64_t first, int k) __attribute__((always_inline)) {
    map_terms<T> r = f(t[first + k], p[first + k]);
    loss[k] = r.loss;
    if constexpr (adds)
      out[k] = before[first + k] + scale * r.d_pred;
    else if constexpr (writes)
      out[k] = scale * r.d_pred;
  };
  std::int64_t i = 0;
  for (; i + width <= n; i += width) {
#pragma omp simd
    for (int k = 0; k < width; ++k) one(i, k);
#pragma omp simd
    for (int k = 0; k < width; ++k) sums[k] += double(loss[k]);
    if constexpr (writes && !streams) std::memcpy(d_pred + i, out, sizeof out);
    if constexpr (streams)
      for (int k = 0; k < width; k += line<T>) stream_line(out + k, d_pred + i + k);
  }
  const int rest = static_cast<int>(n - i);
#pragma omp simd
  for (int k = 0; k < rest; ++k) one(i, k);
  for (int k = 0; k < rest; ++k) {
    sums[k] += double(loss[k]);
    if constexpr (writes) d_pred[i + k] = out[k];
  }
  std::memcpy(all.lane, sums, sizeof sums);
}

template <class F, class T>
loss_kernel<T> make_kernel() {
  loss_kernel<T> k{};
  k.construct = construct<F, T>;
  k.averages = F::averages;
  k.label_signs = F::label_signs;
  if constexpr (F::loss_kind == kind::map) {
    k.map[0] = map_loop<F, T, 0>;
    k.map[1] = map_loop<F, T, 1>;
    k.map[2] = map_loop<F, T, 2>;
    k.map[3] = map_loop<F, T, 3>;
    k.map_sum = map_sum_loop<F, T, gradients::none>;
    k.map_sum_gradient = map_sum_loop<F, T, gradients::stored>;
    k.map_sum_stream = map_sum_loop<F, T, gradients::streamed>;
    k.map_sum_add = map_sum_loop<F, T, gradients::added>;
    k.map_sum_add_stream = map_sum_loop<F, T, gradients::added_streamed>;
  } else {
    static_assert(F::phases <= max_phases);
    k.phases = F::phases;
    k.first_phase_is_max = F::first_phase_is_max;
    k.accumulate[0] = accumulate<F, T, 0>;
    k.finish[0] = finish<F, T, 0>;
    if constexpr (F::phases > 1) {
      k.accumulate[1] = accumulate<F, T, 1>;
      k.finish[1] = finish<F, T, 1>;
    }
    if constexpr (F::phases > 2) {
      k.accumulate[2] = accumulate<F, T, 2>;
      k.finish[2] = finish<F, T, 2>;
    }
    k.keeps = F::keeps;
    k.reads_label_alone = F::sparse && F::target_phase == 0;
    k.scales_with_target = F::scales_with_target;
    k.summarize = summarize<F, T>;
    k.row_loss = row_loss<F, T>;
    k.gradient[1] = row_gradient<F, T, 1>;
    k.in_lanes[0] = in_lanes<F, T, 0>;
    k.in_lanes[1] = in_lanes<F, T, 1>;
    if constexpr (!F::sparse) {
      k.gradient[2] = row_gradient<F, T, 2>;
      k.gradient[3] = row_gradient<F, T, 3>;
      k.in_lanes[2] = in_lanes<F, T, 2>;
      k.in_lanes[3] = in_lanes<F, T, 3>;
    }
  }
  if constexpr (!std::is_void_v<typename F::variant>) {
    static const loss_kernel<T> variant = make_kernel<typename F::variant, T>();
    k.variant = &variant;
    k.has_variant_for = F::has_variant_for;
  }
  if constexpr (!std::is_void_v<typename F::of_labels> &&
                !std::is_same_v<typename F::of_labels, F>) {
    static const loss_kernel<T> of_labels = make_kernel<typename F::of_labels, T>();
    k.of_labels = &of_labels;
  }
  return k;
}

template <class T, template <class> class... Loss>
kernel_set<T> make_set(loss_list<Loss...>) {
  return {{make_kernel<Loss<T>, T>()...}, make_memory_loops<T>(), make_ctc_loops<T>()};
}

}  // namespace

const kernel_table& FASTLOSS_KERNELS() {
  static const kernel_table table{FASTLOSS_ISA, make_set<float>(all_losses{}),
                                  make_set<double>(all_losses{})};
  return table;
}

}  // namespace fastloss::cpu
