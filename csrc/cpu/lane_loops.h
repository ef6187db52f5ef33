// A row loss over many rows at once: one row in each vector lane, so that rows that are shorter
// than a vector keep it full, and sums need no reduction across lanes. Part of kernels.cpp.
#pragma once

#include <utility>

#include "cpu/row_loops.h"

namespace fastloss::cpu {
namespace {

// Calls body(lane) for every lane. What a body declares lives in a function of its own: GCC keeps a
// variable of a simd loop in memory, one copy per lane, where it is more than a number.
template <class T, class Body>
FASTLOSS_HD void for_each_lane(Body body) {
#pragma omp simd
  for (int k = 0; k < lanes<T>; ++k) body(k);
}

// The stats of every lane, field by field: a functor's stats are numbers of type T throughout. No
// phase reads what none before it has set.
template <class F, class T>
class lane_stats {
  static constexpr int fields = sizeof(typename F::stats) / sizeof(T);
  using each_field = std::make_integer_sequence<int, fields>;
  alignas(cache_line) T values_[fields][lanes<T>];

  template <int... I>
  FASTLOSS_HD void get(T* to, int k, std::integer_sequence<int, I...>) const {
    ((to[I] = values_[I][k]), ...);
  }
  template <int... I>
  FASTLOSS_HD void set(const T* from, int k, std::integer_sequence<int, I...>) {
    ((values_[I][k] = from[I]), ...);
  }

 public:
  FASTLOSS_HD typename F::stats at(int k) const {
    typename F::stats stats;
    get(reinterpret_cast<T*>(&stats), k, each_field{});
    return stats;
  }
  FASTLOSS_HD void put(int k, const typename F::stats& stats) {
    set(reinterpret_cast<const T*>(&stats), k, each_field{});
  }
};

// The label of each lane, with what lies there.
template <class T>
struct lane_labels {
  alignas(cache_line) T p[lanes<T>], kept[lanes<T>];
};

template <class F, class T, int Phase>
FASTLOSS_HD void accumulate_lanes(const F& f, const lane_block<T>& rows, lane_labels<T>& hot,
                                  lane_stats<F, T>& stats) {
  constexpr int width = lanes<T>, used = F::terms_used[Phase];
  constexpr int run = 4;  // classes that are added in the compute type before they are in double
  alignas(cache_line) double total[3][width];
  alignas(cache_line) T sum[3][width];
  for (int j = 0; j < used; ++j)
    for_each_lane<T>([&](int k) __attribute__((always_inline)) { total[j][k] = 0; });
  if constexpr (sees_label<F>(Phase)) {
    for_each_lane<T>([&](int k) __attribute__((always_inline)) {
      row_terms<T> r = terms_of<Phase>(f, rows.label_value[k], hot.p[k], hot.kept, k, stats.at(k));
      total[0][k] = r.a;
      if constexpr (used > 1) total[1][k] = r.b;
      if constexpr (used > 2) total[2][k] = r.c;
    });
  } else if constexpr (is_max<F>(Phase)) {
    for (int k = 0; k < width; ++k) sum[0][k] = sum[1][k] = -math::infinity<T>;
    for (std::int64_t c = 0; c < rows.classes; ++c) {
      const T *p = rows.p + c * rows.p_stride,
              *t = F::sparse ? nullptr : rows.t + c * rows.t_stride;
      for_each_lane<T>([&](int k) __attribute__((always_inline)) {
        row_terms<T> r = terms_of<Phase>(f, target<F>(t, k), p[k], rows.kept, k, stats.at(k));
        sum[0][k] = sum[0][k] < r.a ? r.a : sum[0][k];
        if constexpr (used > 1) sum[1][k] = sum[1][k] < r.b ? r.b : sum[1][k];
      });
    }
    for (int k = 0; k < width; ++k) {
      total[0][k] = sum[0][k];
      total[1][k] = sum[1][k];
    }
  } else {
    auto classes = [&](auto to) __attribute__((always_inline)) {
      for (std::int64_t first = 0; first < rows.classes; first += run) {
        const std::int64_t last = first + run < rows.classes ? first + run : rows.classes;
        for (int j = 0; j < used; ++j)
          for (int k = 0; k < width; ++k) sum[j][k] = 0;
        for (std::int64_t c = first; c < last; ++c) {
          const T *p = rows.p + c * rows.p_stride,
                  *t = F::sparse ? nullptr : rows.t + c * rows.t_stride;
          T* kept = F::keeps ? rows.kept + c * width : nullptr;
          if constexpr (asks_for_predictions<F>(Phase))
            prefetch<to.value>(rows.next_p + c * width, width);
          if constexpr (asks_for_targets<F>(Phase))
            prefetch<to.value>(rows.next_t + c * width, width);
          for_each_lane<T>([&](int k) __attribute__((always_inline)) {
            row_terms<T> r = terms_of<Phase>(f, target<F>(t, k), p[k], kept, k, stats.at(k));
            sum[0][k] += r.a;
            if constexpr (used > 1) sum[1][k] += r.b;
            if constexpr (used > 2) sum[2][k] += r.c;
          });
        }
        for (int j = 0; j < used; ++j)
          for (int k = 0; k < width; ++k) total[j][k] += sum[j][k];
      }
    };
    constexpr bool asks = asks_for_predictions<F>(Phase) || asks_for_targets<F>(Phase);
    if (asks && cache_that_keeps<T>(rows.classes * width) == cache::second)
      classes(std::integral_constant<cache, cache::second>{});
    else
      classes(std::integral_constant<cache, cache::first>{});
  }
  // Each operation of a vector waits for the one before, so all vectors are done side by side.
  constexpr int vector = cache_line / sizeof(T);
#pragma GCC unroll 4
  for (int first = 0; first < width; first += vector) {
    auto finish = [&](int k) __attribute__((always_inline)) {
      typename F::stats s = stats.at(k);
      auto sum_of = [&](int j) { return j < used ? T(total[j][k]) : T(0); };
      f.finish(phase<Phase>{}, row_terms<T>{sum_of(0), sum_of(1), sum_of(2)}, s);
      stats.put(k, s);
    };
#pragma omp simd
    for (int k = 0; k < vector; ++k) finish(first + k);
  }
}

template <class F, class T>
FASTLOSS_HD void gather_labels(const lane_block<T>& rows, lane_labels<T>& hot) {
  for (int k = 0; k < lanes<T>; ++k) {
    const std::int64_t c = rows.label[k] < 0 ? 0 : rows.label[k];
    hot.p[k] = rows.p[c * rows.p_stride + k];
    if constexpr (F::keeps) hot.kept[k] = rows.kept[c * lanes<T> + k];
  }
}

template <class F, class T, int Wants>
FASTLOSS_HD void lane_gradients(const F& f, const lane_block<T>& rows, const lane_labels<T>& hot,
                                const lane_stats<F, T>& stats) {
  constexpr int width = lanes<T>;
  auto scaled = [&](int k, T x) __attribute__((always_inline)) {
    T s = rows.scale[k];
    return s == 0 ? T(0) : s * x;
  };
  for (std::int64_t c = 0; c < rows.classes; ++c) {
    const T *p = rows.p + c * rows.p_stride, *t = F::sparse ? nullptr : rows.t + c * rows.t_stride;
    T* kept = F::keeps ? rows.kept + c * width : nullptr;
    T *d_pred = rows.d_pred + c * rows.d_pred_stride,
      *d_true = rows.d_true + c * rows.d_true_stride;
    for_each_lane<T>([&](int k) __attribute__((always_inline)) {
      gradient_terms<T> r = gradient_of(f, target<F>(t, k), p[k], kept, k, stats.at(k));
      if constexpr (Wants & wants_pred) d_pred[k] = scaled(k, r.d_pred);
      if constexpr (Wants & wants_true) d_true[k] = scaled(k, r.d_true);
    });
  }
  if constexpr (F::sparse) {
    alignas(cache_line) T of_label[width];
    for_each_lane<T>([&](int k) __attribute__((always_inline)) {
      of_label[k] =
          scaled(k, gradient_of(f, rows.label_value[k], hot.p[k], hot.kept, k, stats.at(k)).d_pred);
    });
    for (int k = 0; k < width; ++k)
      if (rows.label[k] >= 0) rows.d_pred[rows.label[k] * rows.d_pred_stride + k] = of_label[k];
  }
}

template <class F, class T, int Wants>
void in_lanes(const void* functor, const lane_block<T>& block) {
  const F f = *static_cast<const F*>(functor);
  const lane_block<T> rows = block;
  lane_stats<F, T> stats;
  lane_labels<T> hot;
  auto run = [&](auto index) __attribute__((always_inline)) {
    constexpr int Phase = decltype(index)::value;
    if constexpr (F::sparse && Phase == F::target_phase) gather_labels<F>(rows, hot);
    accumulate_lanes<F, T, Phase>(f, rows, hot, stats);
  };
  run(std::integral_constant<int, 0>{});
  if constexpr (F::phases > 1) run(std::integral_constant<int, 1>{});
  if constexpr (F::phases > 2) run(std::integral_constant<int, 2>{});
  for_each_lane<T>([&](int k) __attribute__((always_inline)) {
    T w = rows.weight[k];
    rows.loss[k] = w == 0 ? T(0) : w * f.loss(stats.at(k));
  });
  if constexpr (Wants != wants_value) lane_gradients<F, T, Wants>(f, rows, hot, stats);
}

}  // namespace
}  // namespace fastloss::cpu
