// A row loss over one row at a time: elements in vector lanes. Part of kernels.cpp.
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>

#include "cpu/memory_loops.h"

namespace fastloss::cpu {
namespace {

// Partial sums in the compute type run over this many elements before they are added in double.
constexpr std::int64_t sum_block = 256;

template <class F>
constexpr bool is_max(int phase) {
  return phase == 0 && F::first_phase_is_max;
}

// The phases of a sparse loss that see the label alone.
template <class F>
constexpr bool sees_label(int phase) {
  return F::sparse && phase >= F::target_phase;
}

// The phases of a row in which it asks for the elements of the next one: for predictions in that of
// the exponentials, or else the last one over whole rows, which take longest; for targets in the
// last one.
template <class F>
constexpr bool asks_for_predictions(int phase) {
  return phase == (F::sparse || F::keeps == 1 ? int(F::first_phase_is_max) : F::phases - 1);
}
template <class F>
constexpr bool asks_for_targets(int phase) {
  return !F::sparse && phase == F::phases - 1;
}

// Of class losses, that is over at once where most targets are zero. Rows one by one then ask for
// targets while they write a gradient, those of one block for the next row's.
template <class F>
constexpr bool asks_for_targets_late = asks_for_targets<F>(F::target_phase);

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
  if constexpr (F::keeps && Phase >= F::keeps) {
    if constexpr (Phase == F::keeps) kept[i] = f.keep(t, p, stats);
    return f.terms(phase<Phase>{}, t, p, kept[i], stats);
  } else {
    return f.terms(phase<Phase>{}, t, p, stats);
  }
}

// op(x[0], op(x[1], ...)) of a power of two of elements, the second half of them onto the first one
// until one is left.
template <int N, class T, class Op>
FASTLOSS_HD T folded(T* x, Op op) {
  if constexpr (N > 1) {
    constexpr int half = N / 2;
#pragma omp simd
    for (int k = 0; k < half; ++k) x[k] = op(x[k], x[k + half]);
    return folded<half>(x, op);
  }
  return x[0];
}

// Whether n elements, a number of whole vectors, are all zero, as most targets of a one-hot row
// are.
template <class T>
FASTLOSS_HD bool all_zero(const T* x, std::int64_t n) {
  using bits = typename math::format<T>::bits;
  constexpr int width = cache_line / sizeof(T);
  bits any[width] = {};
  for (std::int64_t i = 0; i < n; i += width) {
#pragma omp simd
    for (int k = 0; k < width; ++k) any[k] |= math::bit_cast<bits>(x[i + k]) << 1;  // not the sign
  }
  return folded<width>(any, [](bits x, bits y) { return x | y; }) == 0;
}

template <class F, class T>
FASTLOSS_HD gradient_terms<T> gradient_of(const F& f, T t, T p, const T* kept, std::int64_t i,
                                          const typename F::stats& stats) {
  if constexpr (F::keeps)
    return f.gradient(t, p, kept[i], stats);
  else
    return f.gradient(t, p, stats);
}

// The last vector of a row, where its elements do not fill one of their own: in a longer row it
// begins before them, and they are its last lanes; a shorter row is copied and made up to a full
// one. One at a time, they would take longer than hundreds of others.
template <class T>
struct last_vector {
  static constexpr int width = cache_line / sizeof(T);
  std::int64_t first;  // element; less than zero in a short row
  int rest;            // the last lanes, whose elements are in no vector before
  const T *t, *p;
  T* kept;
  alignas(cache_line) T counts[width], copies[3][width];

  FASTLOSS_HD last_vector(const T* t_, const T* p_, T* kept_, std::int64_t n)
      : first(n - width), rest(static_cast<int>(n % width)) {
    for (int k = 0; k < width; ++k) counts[k] = k < width - rest ? T(0) : T(1);
    t = in_row(t_, 0);
    p = in_row(p_, 1);
    kept = in_row(kept_, 2);
  }
  // Puts results where the elements of the row belong.
  FASTLOSS_HD void put(const T* from, T* row) const {
    for (int k = width - rest; k < width; ++k) row[first + k] = from[k];
  }

 private:
  template <class U>
  FASTLOSS_HD U* in_row(U* row, int which) {
    if (first >= 0 || !row) return row ? row + first : row;
    for (int k = 0; k < width; ++k) copies[which][k] = row[first + k < 0 ? 0 : first + k];
    return copies[which];
  }
};

template <class F, class T, int Phase>
FASTLOSS_HD void accumulate_row(const F& f, const typename F::stats& stats, const T* t,
                                one_hot<T> hot, const T* p, T* kept, std::int64_t n,
                                std::int64_t next, double* sums) {
  constexpr int used = F::terms_used[Phase];
  if constexpr (sees_label<F>(Phase)) {
    if (hot.position < 0 || hot.position >= n) return;
    const std::int64_t i = hot.position;
    row_terms<T> r = terms_of<Phase>(f, hot.value, p[i], kept, i, stats);
    sums[0] += r.a;
    if constexpr (used > 1) sums[1] += r.b;
    if constexpr (used > 2) sums[2] += r.c;
  } else if constexpr (is_max<F>(Phase)) {
    // Two vectors of maxima, because comparisons with one register wait for each other.
    constexpr std::integral_constant<int, cache_line / sizeof(T)> one;
    constexpr std::integral_constant<int, 2 * one> two;
    auto larger = [](T x, T y) { return x < y ? y : x; };
    T a[two], b[two];
    for (int k = 0; k < two; ++k) a[k] = b[k] = -math::infinity<T>;
    auto window = [&](auto size, const T* t, const T* p) __attribute__((always_inline)) {
#pragma omp simd
      for (int k = 0; k < size; ++k) {
        row_terms<T> r = f.terms(phase<Phase>{}, target<F>(t, k), p[k], stats);
        a[k] = larger(a[k], r.a);
        if constexpr (used > 1) b[k] = larger(b[k], r.b);
      }
    };
    if (n < two) {
      const last_vector<T> last(F::sparse ? nullptr : t, p, nullptr, n);
      if (n > one) window(one, t, p);
      window(one, last.t, last.p);
    } else {
      auto from = [&](std::int64_t i) __attribute__((always_inline)) {
        window(two, F::sparse ? nullptr : t + i, p + i);
      };
      for (std::int64_t i = 0; i + two <= n; i += two) from(i);
      from(n - two);
    }
    sums[0] = larger(T(sums[0]), folded<two>(a, larger));
    if constexpr (used > 1) sums[1] = larger(T(sums[1]), folded<two>(b, larger));
  } else {
    constexpr int width = cache_line / sizeof(T);
    alignas(cache_line) double totals[used][width];
    for (int j = 0; j < used; ++j)
#pragma omp simd
      for (int k = 0; k < width; ++k) totals[j][k] = 0;
    T a[width], b[width], c[width];
    auto begin = [&]() __attribute__((always_inline)) {
#pragma omp simd
      for (int k = 0; k < width; ++k) a[k] = b[k] = c[k] = 0;
    };
    auto end = [&]() __attribute__((always_inline)) {
#pragma omp simd
      for (int k = 0; k < width; ++k) {
        totals[0][k] += double(a[k]);
        if constexpr (used > 1) totals[1][k] += double(b[k]);
        if constexpr (used > 2) totals[2][k] += double(c[k]);
      }
    };
    auto ask_ahead = [&](std::int64_t i, std::int64_t size) __attribute__((always_inline)) {
      if constexpr (asks_for_predictions<F>(Phase)) prefetch(p + next + i, size);
      if constexpr (asks_for_targets<F>(Phase) && !asks_for_targets_late<F>)
        prefetch(t + next + i, size);
    };
    const std::int64_t whole = n - n % width;
    for (std::int64_t first = 0; first < whole; first += sum_block) {
      const std::int64_t last = first + sum_block < whole ? first + sum_block : whole;
      if constexpr (Phase >= F::target_phase) {
        if (t[first] == 0 && all_zero(t + first, last - first)) {
          if constexpr (Phase == F::keeps) std::fill(kept + first, kept + last, T(0));
          ask_ahead(first, last - first);
          continue;
        }
      }
      begin();
      for (std::int64_t i = first; i < last; i += width) {
        ask_ahead(i, width);
#pragma omp simd
        for (int k = 0; k < width; ++k) {
          row_terms<T> r = terms_of<Phase>(f, target<F>(t, i + k), p[i + k], kept, i + k, stats);
          a[k] += r.a;
          if constexpr (used > 1) b[k] += r.b;
          if constexpr (used > 2) c[k] += r.c;
        }
      }
      end();
    }
    if (whole < n) {
      last_vector<T> last(F::sparse ? nullptr : t, p, F::keeps ? kept : nullptr, n);
      begin();
#pragma omp simd
      for (int k = 0; k < width; ++k) {
        row_terms<T> r = terms_of<Phase>(f, target<F>(last.t, k), last.p[k], last.kept, k, stats);
        a[k] += last.counts[k] == 0 ? T(0) : r.a;
        if constexpr (used > 1) b[k] += last.counts[k] == 0 ? T(0) : r.b;
        if constexpr (used > 2) c[k] += last.counts[k] == 0 ? T(0) : r.c;
      }
      end();
      if constexpr (F::keeps && Phase == F::keeps)
        if (last.kept == last.copies[2]) last.put(last.kept, kept);
    }
    for (int j = 0; j < used; ++j)
      sums[j] += folded<width>(totals[j], [](double x, double y) { return x + y; });
  }
}

template <class F, class T, int Phase>
void accumulate(const void* functor, const void* stats_, const T* t, one_hot<T> hot, const T* p,
                T* kept, std::int64_t n, double* sums) {
  const F f = *static_cast<const F*>(functor);
  const auto stats = *static_cast<const typename F::stats*>(stats_);
  accumulate_row<F, T, Phase>(f, stats, t, hot, p, kept, n, n, sums);
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
               std::int64_t next, void* stats_) {
  const F f = *static_cast<const F*>(functor);
  typename F::stats stats{};
  auto run = [&](auto index) __attribute__((always_inline)) {
    constexpr int Phase = decltype(index)::value;
    constexpr double start = is_max<F>(Phase) ? -math::infinity<double> : 0;
    double sums[3] = {start, start, start};
    accumulate_row<F, T, Phase>(f, stats, t, hot, p, kept, n, next, sums);
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
                  const T* kept, T scale, T* d_pred, bool streams, T* d_true, std::int64_t n) {
  const F f = *static_cast<const F*>(functor);
  const auto stats = *static_cast<const typename F::stats*>(stats_);
  auto at = [&](std::int64_t i, T target) __attribute__((always_inline)) {
    return gradient_of(f, target, p[i], kept, i, stats);
  };
  // The gradient may be written over p.
  const bool has_label = F::sparse && hot.position >= 0 && hot.position < n;
  const T of_label = has_label ? scale * at(hot.position, hot.value).d_pred : T(0);
  constexpr int width = cache_line / sizeof(T);
  alignas(cache_line) T by_pred[width], by_true[width];
  const last_vector<T> last(F::sparse ? nullptr : t, p, F::keeps ? const_cast<T*>(kept) : nullptr,
                            n);
  if (n % width != 0) {
#pragma omp simd
    for (int k = 0; k < width; ++k) {
      gradient_terms<T> r = gradient_of(f, target<F>(last.t, k), last.p[k], last.kept, k, stats);
      by_pred[k] = scale * r.d_pred;
      by_true[k] = scale * r.d_true;
    }
  }
  auto whole_vectors = [&](auto streamed) __attribute__((always_inline)) {
    for (std::int64_t i = 0; i + width <= n; i += width) {
      if constexpr (asks_for_targets_late<F>) prefetch(t + n + i, width);
      alignas(cache_line) T out[width];
#pragma omp simd
      for (int k = 0; k < width; ++k) {
        gradient_terms<T> r = at(i + k, target<F>(t, i + k));
        if constexpr (Wants & wants_pred) out[k] = scale * r.d_pred;
        if constexpr (Wants & wants_true) d_true[i + k] = scale * r.d_true;
      }
      if constexpr (Wants & wants_pred) {
        if constexpr (streamed.value) {
          if (has_label && hot.position - i < width && hot.position >= i)
            out[hot.position - i] = of_label;
          stream_line(out, d_pred + i);
        } else {
#pragma omp simd
          for (int k = 0; k < width; ++k) d_pred[i + k] = out[k];
        }
      }
    }
  };
  if (streams)
    whole_vectors(std::true_type{});
  else
    whole_vectors(std::false_type{});
  if (n % width != 0) {
    if constexpr (Wants & wants_pred) last.put(by_pred, d_pred);
    if constexpr (Wants & wants_true) last.put(by_true, d_true);
  }
  if (has_label && !(streams && hot.position < n - n % width)) d_pred[hot.position] = of_label;
}

}  // namespace
}  // namespace fastloss::cpu
