// Loops that know no formula. Part of kernels.cpp, so compiled once per instruction set.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <cstring>
#include <utility>

#include "cpu/convert_loops.h"

namespace fastloss::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

template <class T, int N>
struct packet_of {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <class T, int N>
using packet = typename packet_of<T, N>::type;

// A vector from and to memory, by way of a variable: GCC copies the elements of an array of
// vectors, and what is larger than a register, in parts, for which whoever loads all of it has to
// wait.
template <class Vector>
FASTLOSS_HD Vector load_vector(const void* from) {
  Vector x;
  std::memcpy(&x, from, sizeof x);
  return x;
}
template <class Vector>
FASTLOSS_HD void store_vector(Vector x, void* to) {
  std::memcpy(to, &x, sizeof x);
}

// The lanes of a sum in a loop, in vectors: an array of numbers would stay in memory, where every
// addition waits for the one before to arrive.
class sums_in_registers {
 public:
  FASTLOSS_HD explicit sums_in_registers(const lane_sums& from) {
#pragma GCC unroll 16
    for (int k = 0; k < count; ++k) sums_[k] = load_vector<vector>(from.lane + k * width);
  }
  // x[0] to x[sum_lanes - 1], one to each lane
  template <class T>
  FASTLOSS_HD void add(const T* x) {
    double wide[sum_lanes];
#pragma omp simd
    for (int k = 0; k < sum_lanes; ++k) wide[k] = double(x[k]);
#pragma GCC unroll 16
    for (int k = 0; k < count; ++k) sums_[k] += load_vector<vector>(wide + k * width);
  }
  FASTLOSS_HD void store(lane_sums& to) const {
#pragma GCC unroll 16
    for (int k = 0; k < count; ++k) store_vector(sums_[k], to.lane + k * width);
  }

 private:
  static constexpr int width = vector_bytes / sizeof(double), count = sum_lanes / width;
  using vector = packet<double, width>;
  vector sums_[count];
};

template <bool Weighted, class T>
FASTLOSS_HD double weighted_term(const T* x, const T* w, std::int64_t i) {
  if constexpr (Weighted)
    return w[i] == 0 ? 0.0 : double(x[i]) * double(w[i]);
  else
    return double(x[i]);
}

template <bool Weighted, class T>
FASTLOSS_HD double sum_of_terms(const T* x, const T* w, std::int64_t n) {
  constexpr int width = sum_lanes;
  lane_sums all{};
  sums_in_registers sums(all);
  std::int64_t i = 0;
  for (; i + width <= n; i += width) {
    double terms[width];
#pragma omp simd
    for (int k = 0; k < width; ++k) terms[k] = weighted_term<Weighted>(x, w, i + k);
    sums.add(terms);
  }
  sums.store(all);
  for (; i < n; ++i) all.lane[i % width] += weighted_term<Weighted>(x, w, i);
  return all.total();
}

template <class T>
double weighted_sum(const T* x, const T* w, std::int64_t n) {
  return w ? sum_of_terms<true>(x, w, n) : sum_of_terms<false>(x, w, n);
}

// Of fewer terms than there are lanes, and in the same order; `half` is the largest power of two
// below their number.
template <bool Weighted, class T>
FASTLOSS_HD double sum_of_short_row(const T* x, const T* w, std::int64_t n, std::int64_t half) {
  double terms[sum_lanes];
  for (std::int64_t i = 0; i < n; ++i) terms[i] = weighted_term<Weighted>(x, w, i);
  for (; half > 0; n = half, half /= 2)
    for (std::int64_t k = 0; k + half < n; ++k) terms[k] += terms[k + half];
  return terms[0];
}

template <bool Weighted, class T>
FASTLOSS_HD void sum_rows(const T* x, const T* w, std::int64_t rows, std::int64_t cols,
                          double* sums) {
  if (cols == 1) {
#pragma omp simd
    for (std::int64_t r = 0; r < rows; ++r) sums[r] = weighted_term<Weighted>(x, w, r);
    return;
  }
  std::int64_t half = 1;
  while (2 * half < cols) half *= 2;
  for (std::int64_t r = 0; r < rows; ++r, x += cols, w += Weighted ? cols : 0)
    sums[r] = cols < sum_lanes ? sum_of_short_row<Weighted>(x, w, cols, half)
                               : sum_of_terms<Weighted>(x, w, cols);
}

template <class T>
void row_sums(const T* x, const T* w, std::int64_t rows, std::int64_t cols, double* sums) {
  w ? sum_rows<true>(x, w, rows, cols, sums) : sum_rows<false>(x, w, rows, cols, sums);
}

template <class T>
void multiply(const T* x, std::int64_t n, T* product) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const T both = x[i] * product[i];
    product[i] = x[i] == 0 ? T(0) : (product[i] == 0 ? T(0) : both);
  }
}

template <class T>
void scale(T by, std::int64_t n, T* x) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) x[i] = x[i] == 0 ? T(0) : by * x[i];
}

template <class T>
bool all_zero_or_one(const T* x, std::int64_t n) {
  T others = 0;
#pragma omp simd reduction(+ : others)
  for (std::int64_t i = 0; i < n; ++i) others += x[i] == T(0) ? T(0) : (x[i] == T(1) ? T(0) : T(1));
  return others == 0;
}

inline bool all_below(const std::int64_t* x, std::int64_t n, std::int64_t limit) {
  std::int64_t others = 0;
#pragma omp simd reduction(+ : others)
  for (std::int64_t i = 0; i < n; ++i)
    others += (x[i] < 0 ? std::int64_t(1) : std::int64_t(0)) +
              (x[i] >= limit ? std::int64_t(1) : std::int64_t(0));
  return others == 0;
}

template <class T>
inline constexpr std::int64_t line = cache_line / sizeof(T);

// Writes a cache line past the caches; `to` is aligned to it.
template <class T>
FASTLOSS_HD void stream_line(const T* from, T* to) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), load_vector<__m512i>(from));
#elif defined(__AVX2__)
  for (int k = 0; k < line<T>; k += line<T> / 2)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + k), load_vector<__m256i>(from + k));
#elif defined(__SSE2__)
  for (int k = 0; k < line<T>; k += line<T> / 4)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + k), load_vector<__m128i>(from + k));
#else
  std::memcpy(to, from, cache_line);
#endif
}

// Lines that are not whole are written as usual.
template <class T>
void stream(const T* from, std::int64_t n, T* to) {
  std::int64_t i = 0;
  while (i < n && reinterpret_cast<std::uintptr_t>(to + i) % cache_line != 0) to[i] = from[i], ++i;
  for (; i + line<T> <= n; i += line<T>) stream_line(from + i, to + i);
  for (; i < n; ++i) to[i] = from[i];
}

template <class T>
void add(const T* x, std::int64_t n, T* sum) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) sum[i] += x[i];
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define FASTLOSS_SHUFFLES
#endif
#endif

#if defined(FASTLOSS_SHUFFLES)
// Four adjacent numbers from each of N / 4 places that are `step` apart.
template <class T, int N, int... I>
FASTLOSS_HD packet<T, N> load_quads(const T* from, std::int64_t step,
                                    std::integer_sequence<int, I...>) {
  if constexpr (N == 4) {
    return load_vector<packet<T, 4>>(from);
  } else {
    using half = std::make_integer_sequence<int, N / 2>;
    return __builtin_shufflevector(load_quads<T, N / 2>(from, step, half{}),
                                   load_quads<T, N / 2>(from + N / 8 * step, step, half{}), I...);
  }
}
template <class T, int N, int... I>
FASTLOSS_HD void store_quads(packet<T, N> x, T* to, std::int64_t step,
                             std::integer_sequence<int, I...>) {
  if constexpr (N == 4) {
    store_vector(x, to);
  } else {
    using half = std::make_integer_sequence<int, N / 4>;
    store_quads<T, N / 2>(__builtin_shufflevector(x, x, I...), to, step, half{});
    store_quads<T, N / 2>(__builtin_shufflevector(x, x, (N / 2 + I)...), to + N / 8 * step, step,
                          half{});
  }
}

// In each group of four: a0 b0 a1 b1 (First = 0) or a2 b2 a3 b3 (First = 2).
template <int First, class P, int... I>
FASTLOSS_HD P interleave(P a, P b, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  return __builtin_shufflevector(a, b, (I / 4 * 4 + First + I % 4 / 2 + I % 2 * n)...);
}
// In each group of four: a0 a1 b0 b1 (First = 0) or a2 a3 b2 b3 (First = 2).
template <int First, class P, int... I>
FASTLOSS_HD P join(P a, P b, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  return __builtin_shufflevector(a, b, (I / 4 * 4 + First + I % 2 + I % 4 / 2 * n)...);
}

// Each group of four of the four packets as a matrix that is transposed.
template <class P, class Indices>
FASTLOSS_HD void transpose_quads(P (&x)[4], Indices all) {
  const P ab_low = interleave<0>(x[0], x[1], all), ab_high = interleave<2>(x[0], x[1], all);
  const P cd_low = interleave<0>(x[2], x[3], all), cd_high = interleave<2>(x[2], x[3], all);
  x[0] = join<0>(ab_low, cd_low, all);
  x[1] = join<2>(ab_low, cd_low, all);
  x[2] = join<0>(ab_high, cd_high, all);
  x[3] = join<2>(ab_high, cd_high, all);
}

// Calls body(first column) so that blocks of four columns cover all n >= 4; the last two may
// overlap.
template <class Body>
FASTLOSS_HD void for_each_four(std::int64_t n, Body body) {
  for (std::int64_t c = 0; c + 4 < n; c += 4) body(c);
  body(n - 4);
}
#endif

template <class T>
void to_lanes(const T* rows, std::int64_t n, T* out) {
#if defined(FASTLOSS_SHUFFLES)
  constexpr int width = vector_bytes / sizeof(T) < 4 ? 4 : vector_bytes / sizeof(T);
  constexpr std::make_integer_sequence<int, width> all{};
  if (n >= 4)
    return for_each_four(n, [&](std::int64_t c) __attribute__((always_inline)) {
#pragma GCC unroll 1
      for (int k = 0; k < lanes<T>; k += width) {
        packet<T, width> x[4];
        for (int j = 0; j < 4; ++j) x[j] = load_quads<T, width>(rows + (k + j) * n + c, 4 * n, all);
        transpose_quads(x, all);
        for (int j = 0; j < 4; ++j) store_vector(x[j], out + (c + j) * lanes<T> + k);
      }
    });
#endif
  for (int k = 0; k < lanes<T>; ++k)
    for (std::int64_t c = 0; c < n; ++c) out[c * lanes<T> + k] = rows[k * n + c];
}

template <class T>
void from_lanes(const T* in, std::int64_t n, T* rows) {
#if defined(FASTLOSS_SHUFFLES)
  constexpr int width = vector_bytes / sizeof(T) < 4 ? 4 : vector_bytes / sizeof(T);
  constexpr std::make_integer_sequence<int, width> all{};
  constexpr std::make_integer_sequence<int, width / 2> half{};
  if (n >= 4)
    return for_each_four(n, [&](std::int64_t c) __attribute__((always_inline)) {
#pragma GCC unroll 1
      for (int k = 0; k < lanes<T>; k += width) {
        packet<T, width> x[4];
        for (int j = 0; j < 4; ++j)
          x[j] = load_vector<packet<T, width>>(in + (c + j) * lanes<T> + k);
        transpose_quads(x, all);
        for (int j = 0; j < 4; ++j)
          store_quads<T, width>(x[j], rows + (k + j) * n + c, 4 * n, half);
      }
    });
#endif
  for (int k = 0; k < lanes<T>; ++k)
    for (std::int64_t c = 0; c < n; ++c) rows[k * n + c] = in[c * lanes<T> + k];
}

template <class T>
memory_loops<T> make_memory_loops() {
  return {weighted_sum<T>,    row_sums<T>,   multiply<T>,         scale<T>,
          all_zero_or_one<T>, all_below,     stream<T>,           add<T>,
          to_lanes<T>,        from_lanes<T>, conversions_from<T>, conversions_to<T>};
}

}  // namespace
}  // namespace fastloss::cpu
