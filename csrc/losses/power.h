// Powers of the focal losses: the square of the default gamma = 2, and any other.
#pragma once

#include "core/math.h"

namespace fastloss {

// m^gamma b for a base m in two parts, and its slope m^gamma by_b + gamma m^(gamma-1) b by_m, given
// the slopes of b and m. A power multiplies the relative error of its base by gamma, so the part of
// m that rounding has lost counts.
template <class T>
struct square {
  FASTLOSS_HD explicit square(double) {}
  struct at {
    math::two_parts<T> m;
    FASTLOSS_HD T times(T b) const { return m.hi * (m.hi * b + 2 * m.lo * b); }
    FASTLOSS_HD T slope(T b, T by_b, T by_m) const {
      T grown = m.hi * by_b, half = 2 * (b * by_m) + grown;  // 2 b may overflow
      return m.hi * half + m.lo * (half + grown);
    }
  };
  struct at_rounded {
    T m;
    FASTLOSS_HD T times(T b) const { return m * (m * b); }
    FASTLOSS_HD T slope(T b, T by_b, T by_m) const { return m * (2 * (b * by_m) + m * by_b); }
  };
  FASTLOSS_HD at of(math::two_parts<T> m) const { return {m}; }
  FASTLOSS_HD at_rounded of(T m) const { return {m}; }
};

template <class T>
struct any_power {
  T gamma;
  FASTLOSS_HD explicit any_power(double gamma) : gamma(T(gamma)) {}
  struct at {
    math::scaled<T> power, pull;  // m^gamma, gamma m^(gamma-1)
    FASTLOSS_HD T times(T b) const { return power.times(b); }
    FASTLOSS_HD T slope(T b, T by_b, T by_m) const {
      return (pull.value * by_m) * (pull.scale * b) + power.times(by_b);
    }
  };
  FASTLOSS_HD at of(math::two_parts<T> m) const {
    T size = math::abs(m.hi);
    auto log_m = math::log_in_two_parts(size, size > 0 ? m.lo / m.hi : T(0));
    // The slope is a power of its own: m^gamma may underflow where the slope does not. A power
    // below one has no finite slope at m = 0; 0 is used there.
    T less = gamma - 1;
    auto pull = math::pow_of_log(log_m, size > 0 ? less : math::abs(less));
    pull.value *= m.hi < 0 ? -gamma : gamma;
    return {math::pow_of_log(log_m, gamma), pull};
  }
  FASTLOSS_HD at of(T m) const { return of({m, T(0)}); }
};

}  // namespace fastloss
