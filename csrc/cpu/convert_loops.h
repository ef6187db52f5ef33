// Loops that convert adjacent elements of arrays. Part of kernels.cpp, so compiled once per
// instruction set; and of load.cpp, for labels, and view.cpp, for a single number.
#pragma once

#include <cstring>

#include "core/storage.h"
#include "cpu/kernels.h"

namespace fastloss::cpu {
namespace {

// Elements may be unaligned.
template <class Stored, class T>
void from_stored(const char* from, std::int64_t n, T* out) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    Stored x;
    std::memcpy(&x, from + i * std::int64_t(sizeof x), sizeof x);
    out[i] = from_storage<T>(x);
  }
}

template <class Stored, class T>
void to_stored(const T* block, std::int64_t n, char* to) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const Stored x = to_storage<Stored>(block[i]);
    std::memcpy(to + i * std::int64_t(sizeof x), &x, sizeof x);
  }
}

// One for each dtype, in its order.
template <class T>
constexpr conversion_from<T> conversions_from[] = {
    from_stored<std::uint8_t, T>,  from_stored<std::int8_t, T>,   from_stored<std::uint8_t, T>,
    from_stored<std::int16_t, T>,  from_stored<std::uint16_t, T>, from_stored<std::int32_t, T>,
    from_stored<std::uint32_t, T>, from_stored<std::int64_t, T>,  from_stored<std::uint64_t, T>,
    from_stored<float16, T>,       from_stored<bfloat16, T>,      from_stored<float, T>,
    from_stored<double, T>};

// To the floating ones, from float16 on.
template <class T>
constexpr conversion_to<T> conversions_to[] = {to_stored<float16, T>, to_stored<bfloat16, T>,
                                               to_stored<float, T>, to_stored<double, T>};

}  // namespace
}  // namespace fastloss::cpu
