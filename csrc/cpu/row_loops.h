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

// Of class losses, that is over at once where most targets are zero. Rows one by one that are one
// block then ask for the next targets while they write a gradient; longer ones in the plain sum, if
// they have one.
template <class F>
constexpr bool asks_for_targets_late = asks_for_targets<F>(F::target_phase);
template <class F>
constexpr bool asks_for_targets_of_long_rows(int phase) {
  return asks_for_targets_late<F> && phase == 1 && !asks_for_predictions<F>(phase);
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

// A vector at an edge of a row, some of whose lanes hold elements that no whole vector holds; in a
// row of less than a vector it begins before the row, and what it holds of it is copied. One at a
// time, these elements would take longer than hundreds of others.
template <class T>
struct edge_vector {
  static constexpr int width = cache_line / sizeof(T);
  std::int64_t first;  // element of the row
  int begin, end;      // lanes
  const T *t, *p;
  T* kept;
  alignas(cache_line) T copies[3][width];

  FASTLOSS_HD edge_vector(const T* t_, const T* p_, T* kept_, std::int64_t first, int begin,
                          int end)
      : first(first), begin(begin), end(end) {
    t = in_row(t_, 0);
    p = in_row(p_, 1);
    kept = in_row(kept_, 2);
  }
  // The last `count` elements of n.
  static FASTLOSS_HD edge_vector last(const T* t, const T* p, T* kept, std::int64_t n,
                                      std::int64_t count) {
    return {t, p, kept, n - width, width - static_cast<int>(count), width};
  }
  // Puts results where the elements of the row belong.
  FASTLOSS_HD void put(const T* from, T* row) const {
    for (int k = begin; k < end; ++k) row[first + k] = from[k];
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
      const auto last = edge_vector<T>::last(F::sparse ? nullptr : t, p, nullptr, n, n);
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
    const cache to = cache_that_keeps<T>(n);
    auto ask_ahead = [&](std::int64_t i, std::int64_t size) __attribute__((always_inline)) {
      if constexpr (asks_for_predictions<F>(Phase)) prefetch(p + next + i, size, to);
      if constexpr (asks_for_targets<F>(Phase) && !asks_for_targets_late<F>)
        prefetch(t + next + i, size, to);
      if constexpr (asks_for_targets_of_long_rows<F>(Phase))
        if (to != cache::first) prefetch(t + next + i, size, to);
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
      const auto last =
          edge_vector<T>::last(F::sparse ? nullptr : t, p, F::keeps ? kept : nullptr, n, n - whole);
      begin();
#pragma omp simd
      for (int k = 0; k < width; ++k) {
        row_terms<T> r = terms_of<Phase>(f, target<F>(last.t, k), last.p[k], last.kept, k, stats);
        a[k] += k < last.begin ? T(0) : r.a;
        if constexpr (used > 1) b[k] += k < last.begin ? T(0) : r.b;
        if constexpr (used > 2) c[k] += k < last.begin ? T(0) : r.c;
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
  // What is streamed begins at a line; before and after it, there are edges.
  const std::int64_t head = streams && n >= width ? elements_to_line(d_pred) : 0;
  const std::int64_t end = n - (n - head) % width;
  alignas(cache_line) T by_pred[2][width], by_true[2][width];
  auto compute = [&](const edge_vector<T>& edge, int which) __attribute__((always_inline)) {
#pragma omp simd
    for (int k = 0; k < width; ++k) {
      gradient_terms<T> r = gradient_of(f, target<F>(edge.t, k), edge.p[k], edge.kept, k, stats);
      by_pred[which][k] = scale * r.d_pred;
      by_true[which][k] = scale * r.d_true;
    }
  };
  auto put = [&](const edge_vector<T>& edge, int which) __attribute__((always_inline)) {
    if constexpr (Wants & wants_pred) edge.put(by_pred[which], d_pred);
    if constexpr (Wants & wants_true) edge.put(by_true[which], d_true);
  };
  T* const kept_here = F::keeps ? const_cast<T*>(kept) : nullptr;
  const T* const targets = F::sparse ? nullptr : t;
  const edge_vector<T> first(targets, p, kept_here, 0, 0, static_cast<int>(head));
  const auto last = edge_vector<T>::last(targets, p, kept_here, n, n - end);
  if (head > 0) compute(first, 0);
  if (end < n) compute(last, 1);
  auto whole_vectors = [&](auto streamed) __attribute__((always_inline)) {
    for (std::int64_t i = head; i < end; i += width) {
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
  if (head > 0) put(first, 0);
  if (end < n) put(last, 1);
  const bool was_streamed = streams && hot.position >= head && hot.position < end;
  if (has_label && !was_streamed) d_pred[hot.position] = of_label;
}

}  // namespace
}  // namespace fastloss::cpu
