// From what arrays hold to what is computed with, and back.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "core/half.h"

namespace fastloss {

template <class Stored>
constexpr bool is_half = std::is_same_v<Stored, float16> || std::is_same_v<Stored, bfloat16>;

// Conversion to an integer saturates; a NaN becomes the smallest.
template <class T, class Stored>
FASTLOSS_HD T from_storage(Stored x) {
  constexpr bool to_integer = std::is_same_v<T, std::int64_t>;
  if constexpr (is_half<Stored>) {
    return from_storage<T>(widen(x));
  } else if constexpr (to_integer && std::is_floating_point_v<Stored>) {
    constexpr T low = std::numeric_limits<T>::min(), high = std::numeric_limits<T>::max();
    return x >= Stored(9.2e18) ? high : (x > Stored(-9.2e18) ? static_cast<T>(x) : low);
  } else if constexpr (to_integer && std::is_same_v<Stored, std::uint64_t>) {
    constexpr Stored high = std::numeric_limits<T>::max();
    return static_cast<T>(x > high ? high : x);
  } else {
    return static_cast<T>(x);
  }
}

template <class Stored, class T>
FASTLOSS_HD Stored to_storage(T x) {
  if constexpr (is_half<Stored>) {
    Stored out;
    narrow(static_cast<float>(x), out);
    return out;
  } else {
    return static_cast<Stored>(x);
  }
}

}  // namespace fastloss
