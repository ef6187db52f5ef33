// A row loss over one row at a time: elements in vector lanes. Part of kernels.cpp.
#pragma once

#include <limits>

#include "cpu/kernels.h"

namespace fastloss::cpu {
namespace {

// Partial sums in the compute type run over this many elements before they are added in double.
constexpr std::int64_t sum_block = 128;

template <class F>
constexpr bool is_max(int phase) {
  return phase == 0 && F::first_phase_is_max;
}

// In a sparse loss, phases before this one do not look at the target; the others see the label
// alone.
template <class F>
constexpr int target_phase() {
  if constexpr (F::sparse)
    return F::target_phase;
  else
    return max_phases;
}

// The target of element i: the dense row, or zero in a sparse row (its label is done apart).
template <class F, class T>
FASTLOSS_HD T target(const T* t, std::int64_t i) {
  if constexpr (F::sparse)
    return T(0);
  else
    return t[i];
}

// The terms of element i; what the functor keeps of it is at kept[i], if it keeps something.
template <int Phase, class F, class T>
FASTLOSS_HD row_terms<T> terms_of(const F& f, T t, T p, T* kept, std::int64_t i,
                                  const typename F::stats& stats) {
  if constexpr (F::keeps && Phase > 0) {
    if constexpr (Phase == 1) kept[i] = f.keep(p, stats);
    return f.terms(phase<Phase>{}, t, p, kept[i], stats);
  } else {
    return f.terms(phase<Phase>{}, t, p, stats);
  }
}

template <class F, class T>
FASTLOSS_HD gradient_terms<T> gradient_of(const F& f, T t, T p, const T* kept, std::int64_t i,
                                          const typename F::stats& stats) {
  if constexpr (F::keeps)
    return f.gradient(t, p, kept[i], stats);
  else
    return f.gradient(t, p, stats);
}

// The last elements of a row, fewer than fill a vector, made up to a full one: one at a time, they
// would take longer than hundreds of others.
template <class T>
struct tail {
  static constexpr int width = cache_line / sizeof(T);
  std::int64_t n;
  alignas(cache_line) T t[width], p[width], kept[width], counts[width];
  FASTLOSS_HD tail(const T* t_, const T* p_, const T* kept_, std::int64_t n) : n(n) {
    fill(p_, p);
    if (t_) fill(t_, t);
    if (kept_) fill(kept_, kept);
    for (int k = 0; k < width; ++k) counts[k] = k < n ? T(1) : T(0);
  }
  FASTLOSS_HD void fill(const T* from, T* to) const {
    for (int k = 0; k < width; ++k) to[k] = from[k < n ? k : 0];
  }
  FASTLOSS_HD void copy(const T* from, T* to) const {
    for (int k = 0; k < n; ++k) to[k] = from[k];
  }
};

template <class F, class T, int Phase>
FASTLOSS_HD void accumulate_row(const F& f, const typename F::stats& stats, const T* t,
                                one_hot<T> hot, const T* p, T* kept, std::int64_t n, double* sums) {
  constexpr int used = F::terms_used[Phase];
  auto terms = [&](std::int64_t i, T target) __attribute__((always_inline)) {
    return terms_of<Phase>(f, target, p[i], kept, i, stats);
  };
  if constexpr (Phase >= target_phase<F>()) {
    if (hot.position < 0 || hot.position >= n) return;
    row_terms<T> r = terms(hot.position, hot.value);
    sums[0] += r.a;
    if constexpr (used > 1) sums[1] += r.b;
    if constexpr (used > 2) sums[2] += r.c;
  } else if constexpr (is_max<F>(Phase)) {
    // Several maxima, because comparisons with one register wait for each other.
    constexpr int width = cache_line / sizeof(T);
    T a[2 * width], b[2 * width];
    for (int k = 0; k < 2 * width; ++k) a[k] = b[k] = -math::infinity<T>;
    auto window = [&](std::int64_t i) __attribute__((always_inline)) {
#pragma omp simd
      for (int k = 0; k < 2 * width; ++k) {
        row_terms<T> r = terms(i + k, target<F>(t, i + k));
        a[k] = a[k] < r.a ? r.a : a[k];
        if constexpr (used > 1) b[k] = b[k] < r.b ? r.b : b[k];
      }
    };
    for (std::int64_t i = 0; i + 2 * width <= n; i += 2 * width) window(i);
    if (n >= 2 * width) {
      window(n - 2 * width);
    } else {
      for (std::int64_t i = 0; i < n; ++i) {
        row_terms<T> r = terms(i, target<F>(t, i));
        a[0] = a[0] < r.a ? r.a : a[0];
        if constexpr (used > 1) b[0] = b[0] < r.b ? r.b : b[0];
      }
    }
    for (int half = width; half > 0; half /= 2)
      for (int k = 0; k < half; ++k) {
        a[k] = a[k] < a[k + half] ? a[k + half] : a[k];
        if constexpr (used > 1) b[k] = b[k] < b[k + half] ? b[k + half] : b[k];
      }
    sums[0] = sums[0] < a[0] ? a[0] : sums[0];
    if constexpr (used > 1) sums[1] = sums[1] < b[0] ? b[0] : sums[1];
  } else {
    for (std::int64_t first = 0; first < n; first += sum_block) {
      std::int64_t last = first + sum_block < n ? first + sum_block : n;
      if constexpr (Phase == (F::first_phase_is_max ? 1 : 0)) {  // what follows this row or block
        prefetch(p + n + first, last - first);
        if constexpr (!F::sparse) prefetch(t + n + first, last - first);
      }
      T a = 0, b = 0, c = 0;
      const std::int64_t whole = last - (last - first) % tail<T>::width;
#pragma omp simd reduction(+ : a, b, c)
      for (std::int64_t i = first; i < whole; ++i) {
        row_terms<T> r = terms(i, target<F>(t, i));
        a += r.a;
        if constexpr (used > 1) b += r.b;
        if constexpr (used > 2) c += r.c;
      }
      if (whole < last) {
        tail<T> rest(F::sparse ? nullptr : t + whole, p + whole, nullptr, last - whole);
        if constexpr (F::keeps && Phase > 1) rest.fill(kept + whole, rest.kept);
        auto term = [&](int k) __attribute__((always_inline)) {
          return terms_of<Phase>(f, F::sparse ? T(0) : rest.t[k], rest.p[k], rest.kept, k, stats);
        };
#pragma omp simd reduction(+ : a, b, c)
        for (int k = 0; k < tail<T>::width; ++k) {
          row_terms<T> r = term(k);
          a += rest.counts[k] == 0 ? T(0) : r.a;
          if constexpr (used > 1) b += rest.counts[k] == 0 ? T(0) : r.b;
          if constexpr (used > 2) c += rest.counts[k] == 0 ? T(0) : r.c;
        }
        if constexpr (F::keeps && Phase == 1) rest.copy(rest.kept, kept + whole);
      }
      sums[0] += a;
      sums[1] += b;
      sums[2] += c;
    }
  }
}

template <class F, class T, int Phase>
void accumulate(const void* functor, const void* stats_, const T* t, one_hot<T> hot, const T* p,
                T* kept, std::int64_t n, double* sums) {
  const F f = *static_cast<const F*>(functor);
  const auto stats = *static_cast<const typename F::stats*>(stats_);
  accumulate_row<F, T, Phase>(f, stats, t, hot, p, kept, n, sums);
}

template <class F, class T, int Phase>
void finish(const void* functor, const double* sums, void* stats) {
  static_assert(sizeof(typename F::stats) <= stats_bytes);
  const F f = *static_cast<const F*>(functor);
  f.finish(phase<Phase>{}, row_terms<T>{T(sums[0]), T(sums[1]), T(sums[2])},
           *static_cast<typename F::stats*>(stats));
}

template <class F, class T>
void summarize(const void* functor, const T* t, one_hot<T> hot, const T* p, T* kept, std::int64_t n,
               void* stats_) {
  const F f = *static_cast<const F*>(functor);
  typename F::stats stats{};
  auto run = [&](auto index) __attribute__((always_inline)) {
    constexpr int Phase = decltype(index)::value;
    constexpr double start = is_max<F>(Phase) ? -math::infinity<double> : 0;
    double sums[3] = {start, start, start};
    accumulate_row<F, T, Phase>(f, stats, t, hot, p, kept, n, sums);
    f.finish(phase<Phase>{}, row_terms<T>{T(sums[0]), T(sums[1]), T(sums[2])}, stats);
  };
  run(std::integral_constant<int, 0>{});
  if constexpr (F::phases > 1) run(std::integral_constant<int, 1>{});
  if constexpr (F::phases > 2) run(std::integral_constant<int, 2>{});
  *static_cast<typename F::stats*>(stats_) = stats;
}

template <class F, class T>
T row_loss(const void* functor, const void* stats) {
  return static_cast<const F*>(functor)->loss(*static_cast<const typename F::stats*>(stats));
}

template <class F, class T, int Wants>
void row_gradient(const void* functor, const void* stats_, const T* t, one_hot<T> hot, const T* p,
                  const T* kept, T scale, T* d_pred, T* d_true, std::int64_t n) {
  const F f = *static_cast<const F*>(functor);
  const auto stats = *static_cast<const typename F::stats*>(stats_);
  auto at = [&](std::int64_t i, T target) __attribute__((always_inline)) {
    return gradient_of(f, target, p[i], kept, i, stats);
  };
  // The gradient may be written over p.
  const bool has_label = F::sparse && hot.position >= 0 && hot.position < n;
  const T of_label = has_label ? scale * at(hot.position, hot.value).d_pred : T(0);
  const std::int64_t whole = n - n % tail<T>::width;
#pragma omp simd
  for (std::int64_t i = 0; i < whole; ++i) {
    gradient_terms<T> r = at(i, target<F>(t, i));
    if constexpr (Wants & wants_pred) d_pred[i] = scale * r.d_pred;
    if constexpr (Wants & wants_true) d_true[i] = scale * r.d_true;
  }
  if (whole < n) {
    tail<T> rest(F::sparse ? nullptr : t + whole, p + whole, F::keeps ? kept + whole : nullptr,
                 n - whole);
    alignas(cache_line) T by_pred[tail<T>::width], by_true[tail<T>::width];
    auto one = [&](int k) __attribute__((always_inline)) {
      gradient_terms<T> r =
          gradient_of(f, F::sparse ? T(0) : rest.t[k], rest.p[k], rest.kept, k, stats);
      by_pred[k] = scale * r.d_pred;
      by_true[k] = scale * r.d_true;
    };
#pragma omp simd
    for (int k = 0; k < tail<T>::width; ++k) one(k);
    if constexpr (Wants & wants_pred) rest.copy(by_pred, d_pred + whole);
    if constexpr (Wants & wants_true) rest.copy(by_true, d_true + whole);
  }
  if (has_label) d_pred[hot.position] = of_label;
}

}  // namespace
}  // namespace fastloss::cpu
