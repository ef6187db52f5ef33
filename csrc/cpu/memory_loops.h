// Loops that know no formula. Part of kernels.cpp, so compiled once per instruction set.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "cpu/kernels.h"

namespace fastloss::cpu {
namespace {

// Independent double sums: the same bits whatever the vector width. Many, because additions to one
// register wait for each other.
template <class T>
double weighted_sum(const T* x, const T* w, std::int64_t n) {
  constexpr int width = 32;
  double sums[width] = {};
  std::int64_t i = 0;
  if (w) {
    for (; i + width <= n; i += width)
#pragma omp simd
      for (int k = 0; k < width; ++k)
        sums[k] += w[i + k] == 0 ? 0.0 : double(x[i + k]) * double(w[i + k]);
    for (; i < n; ++i) sums[i % width] += w[i] == 0 ? 0.0 : double(x[i]) * double(w[i]);
  } else {
    for (; i + width <= n; i += width)
#pragma omp simd
      for (int k = 0; k < width; ++k) sums[k] += double(x[i + k]);
    for (; i < n; ++i) sums[i % width] += double(x[i]);
  }
  for (int half = width / 2; half > 0; half /= 2)
    for (int k = 0; k < half; ++k) sums[k] += sums[k + half];
  return sums[0];
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

// Lines that are not whole are written as usual.
template <class T>
void stream(const T* from, std::int64_t n, T* to) {
  std::int64_t i = 0;
#if defined(__SSE2__)
#if defined(__AVX512F__)
  using packet = __m512i;
  auto write = [](void* at, packet x) __attribute__((always_inline)) {
    _mm512_stream_si512(static_cast<packet*>(at), x);
  };
#elif defined(__AVX2__)
  using packet = __m256i;
  auto write = [](void* at, packet x) __attribute__((always_inline)) {
    _mm256_stream_si256(static_cast<packet*>(at), x);
  };
#else
  using packet = __m128i;
  auto write = [](void* at, packet x) __attribute__((always_inline)) {
    _mm_stream_si128(static_cast<packet*>(at), x);
  };
#endif
  constexpr std::int64_t line = cache_line / sizeof(T), step = sizeof(packet) / sizeof(T);
  while (i < n && reinterpret_cast<std::uintptr_t>(to + i) % cache_line != 0) to[i] = from[i], ++i;
  for (; i + line <= n; i += line)
    for (std::int64_t k = 0; k < line; k += step) {
      packet x;
      std::memcpy(&x, from + i + k, sizeof x);
      write(to + i + k, x);
    }
#endif
  for (; i < n; ++i) to[i] = from[i];
}

// Transposes four by four: `from` has columns that are `from_step` apart, `to` rows likewise.
template <class T>
FASTLOSS_HD void transpose_4x4(const T* from, std::int64_t from_step, T* to, std::int64_t to_step) {
  typedef T quad __attribute__((vector_size(4 * sizeof(T))));
  quad a, b, c, d;
  std::memcpy(&a, from, sizeof a);
  std::memcpy(&b, from + from_step, sizeof b);
  std::memcpy(&c, from + 2 * from_step, sizeof c);
  std::memcpy(&d, from + 3 * from_step, sizeof d);
  const quad ab_low = {a[0], b[0], a[1], b[1]}, ab_high = {a[2], b[2], a[3], b[3]};
  const quad cd_low = {c[0], d[0], c[1], d[1]}, cd_high = {c[2], d[2], c[3], d[3]};
  a = quad{ab_low[0], ab_low[1], cd_low[0], cd_low[1]};
  b = quad{ab_low[2], ab_low[3], cd_low[2], cd_low[3]};
  c = quad{ab_high[0], ab_high[1], cd_high[0], cd_high[1]};
  d = quad{ab_high[2], ab_high[3], cd_high[2], cd_high[3]};
  std::memcpy(to, &a, sizeof a);
  std::memcpy(to + to_step, &b, sizeof b);
  std::memcpy(to + 2 * to_step, &c, sizeof c);
  std::memcpy(to + 3 * to_step, &d, sizeof d);
}

// Calls body(first column, count as a constant) so that blocks of 4 columns, or the 1 to 3 that a
// narrow array has, cover all n; the last two blocks of four may overlap.
template <class Body>
FASTLOSS_HD void for_each_column_block(std::int64_t n, Body body) {
  if (n == 1) return body(0, std::integral_constant<int, 1>{});
  if (n == 2) return body(0, std::integral_constant<int, 2>{});
  if (n == 3) return body(0, std::integral_constant<int, 3>{});
  for (std::int64_t c = 0; c + 4 < n; c += 4) body(c, std::integral_constant<int, 4>{});
  body(n - 4, std::integral_constant<int, 4>{});
}

template <class T>
void to_lanes(const T* rows, std::int64_t n, T* out) {
  for_each_column_block(n, [&](std::int64_t c, auto count) __attribute__((always_inline)) {
    if constexpr (count == 4) {
      for (int k = 0; k < lanes<T>; k += 4)
        transpose_4x4(rows + k * n + c, n, out + c * lanes<T> + k, lanes<T>);
    } else {
      for (int k = 0; k < lanes<T>; ++k)
        for (int j = 0; j < count; ++j) out[j * lanes<T> + k] = rows[k * count + j];
    }
  });
}

template <class T>
void from_lanes(const T* in, std::int64_t n, T* rows) {
  for_each_column_block(n, [&](std::int64_t c, auto count) __attribute__((always_inline)) {
    if constexpr (count == 4) {
      for (int k = 0; k < lanes<T>; k += 4)
        transpose_4x4(in + c * lanes<T> + k, lanes<T>, rows + k * n + c, n);
    } else {
      for (int k = 0; k < lanes<T>; ++k)
        for (int j = 0; j < count; ++j) rows[k * count + j] = in[j * lanes<T> + k];
    }
  });
}

template <class T>
memory_loops<T> make_memory_loops() {
  return {weighted_sum<T>, all_zero_or_one<T>, all_below, stream<T>, to_lanes<T>, from_lanes<T>};
}

}  // namespace
}  // namespace fastloss::cpu
