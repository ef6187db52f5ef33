// Instantiates every formula as loops. Compiled once per instruction set, with FASTLOSS_KERNELS
// naming the table and FASTLOSS_ISA the set. Everything here has internal linkage: see
// core/config.h.
#include "cpu/kernels.h"

#include <new>

#include "cpu/ctc_loops.h"
#include "cpu/lane_loops.h"
#include "cpu/map_loops.h"
#include "cpu/memory_loops.h"
#include "cpu/row_loops.h"

namespace fastloss::cpu {
namespace {

template <class F, class T>
void construct(const double* parameters, void* functor) {
  static_assert(sizeof(F) <= functor_bytes && std::is_trivially_copyable_v<F>);
  new (functor) F(parameters);
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
    k.sums = make_map_sums<T, F>();
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

template <class T, template <class> class... Loss, template <class> class... First,
          template <class> class... Second>
kernel_set<T> make_set(loss_list<Loss...> all, pair_list<loss_pair<First, Second>...>) {
  return {
      {make_kernel<Loss<T>, T>()...},
      {{index_of<First>(all), index_of<Second>(all), make_map_sums<T, First<T>, Second<T>>()}...},
      make_memory_loops<T>(),
      make_ctc_loops<T>()};
}

}  // namespace

const kernel_table& FASTLOSS_KERNELS() {
  static const kernel_table table{FASTLOSS_ISA, make_set<float>(all_losses{}, fused_pairs{}),
                                  make_set<double>(all_losses{}, fused_pairs{})};
  return table;
}

}  // namespace fastloss::cpu
