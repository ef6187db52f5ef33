// Elementary functions without branches, so that compilers vectorize the loops that call them.
//
// Each is accurate to about one unit in the last place for float and double, propagates NaN, and
// handles zero, infinities and subnormals. They rely on IEEE arithmetic: never compile this with
// -ffast-math (contraction into fused multiply-add is fine).
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "core/config.h"

namespace fastloss::math {

template <class T>
struct format;

template <>
struct format<float> {
  using integer = std::int32_t;
  using bits = std::uint32_t;  // wraps around where a NaN makes an exponent overflow
  static constexpr int mantissa_bits = 23, exponent_bias = 127;
  static constexpr integer sqrt_half = 0x3f3504f3;
  static constexpr integer split_mask = ~0xfff;  // keeps 12 bits: products of two are exact
  static constexpr integer lift = 120;
  static constexpr float round_shift = 0x1.8p23f;
  static constexpr float ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f;  // n * ln2_hi is exact
  static constexpr float exp_min = -170.0f, exp_max = 170.0f;  // 2^n in two normal factors
  static constexpr float expm1_min = -64.0f, expm1_max = 88.0f;
  static constexpr int relative_lift = 64;
  static constexpr float relative_min = -104.0f;
  static constexpr float exp_series[] = {0.49999994f, 0.166665211f, 0.04166824f, 0.00836866442f,
                                         0.00138228771f};
  static constexpr float log_cosh_series[] = {
      0.5f,           -0.0833330974f,   0.0222174488f, -0.00671350164f,
      0.00208252738f, -0.000560412591f, 8.78692081e-5f};
  static constexpr float atanh_series[] = {0.666666627f, 0.400009751f, 0.284984827f, 0.242863372f};
  static constexpr float log_series[] = {-0.499999881f, 0.333333254f,  -0.250016004f,
                                         0.200019956f,  -0.166087598f, 0.141813502f,
                                         -0.132448524f, 0.129075721f,  -0.0762125328f};
  static constexpr float log1p_series[] = {-0.499999315f,  0.333304763f,  -0.249582469f,
                                           0.196937501f,   -0.153508812f, 0.106732532f,
                                           -0.0575951859f, 0.0201689657f, -0.00331080309f};
  static constexpr float log1p_small_series[] = {-0.4999924f, 0.332954139f, -0.243265837f,
                                                 0.147670731f};
  static constexpr float log_rest_series[] = {-0.500000894f, -0.333263248f, -0.251868367f,
                                              -0.175879836f, -0.340024412f, 0.592076361f,
                                              -1.9704634f,   2.47585654f,   -1.74313509f};
};

template <>
struct format<double> {
  using integer = std::int64_t;
  using bits = std::uint64_t;
  static constexpr int mantissa_bits = 52, exponent_bias = 1023;
  static constexpr integer sqrt_half = 0x3fe6a09e667f3bcd;
  static constexpr integer split_mask = ~0x7ffffff;  // keeps 26 bits
  static constexpr integer lift = 1000;
  static constexpr double round_shift = 0x1.8p52;
  static constexpr double ln2_hi = 6.93147180369123816490e-01, ln2_lo = 1.90821492927058770002e-10;
  static constexpr double exp_min = -1400.0, exp_max = 1400.0;
  static constexpr double expm1_min = -64.0, expm1_max = 709.0;
  static constexpr int relative_lift = 512;
  static constexpr double relative_min = -746.0;
  static constexpr double exp_series[] = {
      0.50000000000000111,   0.16666666666666444,    0.041666666666527664,  0.0083333333334784307,
      0.0013888888944102856, 0.00019841269536089644, 2.4801492714488769e-5, 2.755756312927387e-6,
      2.7630361878955636e-7, 2.5006716425920898e-8};
  static constexpr double log_cosh_series[] = {0.5,
                                               -0.083333333333333204,
                                               0.022222222222208751,
                                               -0.0067460317455376034,
                                               0.0021869488443915456,
                                               -0.00073860285790696995,
                                               0.00025657982309932269,
                                               -9.0985860920133127e-5,
                                               3.2765604507286393e-5,
                                               -1.1920118038212316e-5,
                                               4.3335046590629449e-6,
                                               -1.5304003032732697e-6,
                                               4.9408572698118566e-7,
                                               -1.314787475738533e-7,
                                               2.4500095150712921e-8,
                                               -2.3068739442782183e-9};
  static constexpr double atanh_series[] = {
      0.66666666666666663, 0.40000000000004921, 0.28571428569412594, 0.22222222606727332,
      0.18181778375078775, 0.15386987982721079, 0.13252167902729631, 0.13234593846502171};
};

template <class T>
inline constexpr T infinity = std::numeric_limits<T>::infinity();

template <class To, class From>
FASTLOSS_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

FASTLOSS_HD float abs(float x) { return __builtin_fabsf(x); }
FASTLOSS_HD double abs(double x) { return __builtin_fabs(x); }
FASTLOSS_HD float with_sign_of(float x, float y) { return __builtin_copysignf(x, y); }
FASTLOSS_HD double with_sign_of(double x, double y) { return __builtin_copysign(x, y); }
FASTLOSS_HD float sqrt(float x) { return __builtin_sqrtf(x); }
FASTLOSS_HD double sqrt(double x) { return __builtin_sqrt(x); }

// 1 or -1; zeros and NaN as they are.
template <class T>
FASTLOSS_HD T sign(T x) {
  return abs(x) > 0 ? with_sign_of(T(1), x) : x;
}

template <class T>
FASTLOSS_HD T max(T a, T b) {  // a NaN in `a` survives
  return a < b ? b : a;
}

template <class T>
FASTLOSS_HD T clamp(T x, T low, T high) {  // a NaN in `x` survives
  T above = x < low ? low : x;
  return above > high ? high : above;
}

// A number in two parts: `lo` is what rounding it to `hi` has lost.
template <class T>
struct two_parts {
  T hi, lo;
};

// a + b for |a| >= |b|, or both far below one; or for a = 1 and b >= 0: where b is so large that
// `lo` is not exact, it hardly counts.
template <class T>
FASTLOSS_HD two_parts<T> add_smaller(T a, T b) {
  T sum = a + b;
  return {sum, b - (sum - a)};
}

template <class T>
FASTLOSS_HD two_parts<T> add_exactly(T a, T b) {
  T sum = a + b, of_b = sum - a;
  return {sum, (a - (sum - of_b)) + (b - of_b)};
}

#ifdef FASTLOSS_FMA
FASTLOSS_HD float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
FASTLOSS_HD double multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
template <class T>
FASTLOSS_HD T high_part(T a) {
  return bit_cast<T>(bit_cast<typename format<T>::integer>(a) & format<T>::split_mask);
}
#endif

template <class T>
FASTLOSS_HD two_parts<T> multiply_exactly(T a, T b) {
  T p = a * b;
#ifdef FASTLOSS_FMA
  return {p, multiply_add(a, b, -p)};
#else
  T ah = high_part(a), al = a - ah, bh = high_part(b), bl = b - bh;
  return {p, ((ah * bh - p) + ah * bl + al * bh) + al * bl};
#endif
}

// c + a b, rounded once where the processor can. Written as a sum, where c is a product as well, it
// is up to the compiler which of the two is not rounded.
template <class T>
FASTLOSS_HD T add_product(T c, T a, T b) {
#ifdef FASTLOSS_FMA
  return multiply_add(a, b, c);
#else
  return c + a * b;
#endif
}

// c - a b, for a product that is near c
template <class T>
FASTLOSS_HD T remainder(T c, T a, T b) {
#ifdef FASTLOSS_FMA
  return multiply_add(-a, b, c);
#else
  auto p = multiply_exactly(a, b);
  return (c - p.hi) - p.lo;
#endif
}

// Polynomials, fitted by tools/fit_series.py:
// (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2,
template <class T>
struct exponential_series {
  static constexpr int terms = sizeof format<T>::exp_series / sizeof(T);
  static constexpr T coefficient(int k) { return format<T>::exp_series[k]; }
};
// log(cosh(sqrt z)) / z for z <= 1,
template <class T>
struct log_cosh_series {
  static constexpr int terms = sizeof format<T>::log_cosh_series / sizeof(T);
  static constexpr T coefficient(int k) { return format<T>::log_cosh_series[k]; }
};
// (log(1 + x) - x) / x^2 for 0 <= x <= 1, and for 0 <= x <= e^-2, (log(1 - x) + x) / x^2 for
// 0 <= x <= 1/2,
template <class T>
struct log1p_series {
  static constexpr int terms = sizeof format<T>::log1p_series / sizeof(T);
  static constexpr T coefficient(int k) { return format<T>::log1p_series[k]; }
};
template <class T>
struct log1p_small_series {
  static constexpr int terms = sizeof format<T>::log1p_small_series / sizeof(T);
  static constexpr T coefficient(int k) { return format<T>::log1p_small_series[k]; }
};
template <class T>
struct log_rest_series {
  static constexpr int terms = sizeof format<T>::log_rest_series / sizeof(T);
  static constexpr T coefficient(int k) { return format<T>::log_rest_series[k]; }
};
// (2 atanh(s) - 2 s) / s^3 in z = s^2, and (log(1 + f) - f) / f^2, both for
// sqrt(1/2) <= 1 + f = (1 + s) / (1 - s) <= sqrt(2).
template <class T>
struct atanh_series {
  static constexpr int terms = sizeof format<T>::atanh_series / sizeof(T);
  static constexpr T coefficient(int k) { return format<T>::atanh_series[k]; }
};
template <class T>
struct log_series {
  static constexpr int terms = sizeof format<T>::log_series / sizeof(T);
  static constexpr T coefficient(int k) { return format<T>::log_series[k]; }
};

// The sum of coefficient(k) x^(k - First) for k from First on; a template rather than a loop, so
// that every coefficient is a constant for every compiler.
template <class Series, int First = 0, class T>
FASTLOSS_HD T polynomial(T x) {
  constexpr T coefficient = Series::coefficient(First);
  if constexpr (First + 1 == Series::terms)
    return coefficient;
  else
    return polynomial<Series, First + 1>(x) * x + coefficient;
}

template <class T>
FASTLOSS_HD T power_of_two(typename format<T>::integer n) {
  using F = format<T>;
  return bit_cast<T>(typename F::bits(n + F::exponent_bias) << F::mantissa_bits);
}

// x + tail = n ln 2 + r with |r| <= ln 2 / 2; `expm1_r` = e^r - 1.
template <class T>
struct reduced_exponential {
  typename format<T>::integer n;
  two_parts<T> expm1_r;
};

template <class T>
FASTLOSS_HD reduced_exponential<T> reduce_exponential(T x, T tail) {
  using F = format<T>;
  constexpr T log2e = T(1.44269504088896340736);
  T shifted = x * log2e + F::round_shift;
  auto n = bit_cast<typename F::integer>(shifted) - bit_cast<typename F::integer>(F::round_shift);
  T nf = shifted - F::round_shift;
  auto [r, r_lo] = add_smaller(x - nf * F::ln2_hi, tail - nf * F::ln2_lo);
  auto [hi, lo] = add_smaller(r, r * r * polynomial<exponential_series<T>>(r));
  return {n, {hi, lo + (r_lo + r_lo * hi)}};
}

// value * scale, where the product alone may over- or underflow, but not its product with x.
template <class T>
struct scaled {
  T value, scale;
  FASTLOSS_HD T times(T x) const { return value * x * scale; }
};

// exp(x + tail) for a tail that is tiny beside one; 2^n in two steps, because it alone may be
// subnormal or overflow where the result is not.
template <class T>
FASTLOSS_HD scaled<T> exp_scaled(T x, T tail = T(0)) {
  using F = format<T>;
  auto e = reduce_exponential(clamp(x, F::exp_min, F::exp_max), tail);
  auto half = e.n >> 1;
  return {(T(1) + e.expm1_r.hi) * power_of_two<T>(half), power_of_two<T>(e.n - half)};
}

template <class T>
FASTLOSS_HD T exp(T x, T tail = T(0)) {
  auto e = exp_scaled(x, tail);
  return e.value * e.scale;
}

// exp(x) for x <= 0
template <class T>
FASTLOSS_HD T exp_of_negative(T x) {
  using F = format<T>;
  constexpr T log2e = T(1.44269504088896340736);
  T d = max(x, F::exp_min), shifted = d * log2e + F::round_shift;
  auto n = bit_cast<typename F::integer>(shifted) - bit_cast<typename F::integer>(F::round_shift);
  T nf = shifted - F::round_shift, r = (d - nf * F::ln2_hi) - nf * F::ln2_lo;
  T m = T(1) + r * (T(1) + r * polynomial<exponential_series<T>>(r));
  return m * power_of_two<T>(n + F::lift) * power_of_two<T>(-F::lift);
}

// exp(x) in two parts, for x <= 0. The power of two is lifted, so that its product with m is normal
// even where the result is not.
template <class T>
FASTLOSS_HD two_parts<T> exp_in_two_parts(T x) {
  using F = format<T>;
  auto e = reduce_exponential(max(x, F::exp_min), T(0));
  auto [hi, lo] = add_smaller(T(1), e.expm1_r.hi);
  T lifted = power_of_two<T>(e.n + F::lift), lower = power_of_two<T>(-F::lift);
  return {hi * lifted * lower, (lo + e.expm1_r.lo) * lifted * lower};
}

// exp(a - b), as if the difference were not rounded: rounding it would cost |a - b| units.
template <class T>
FASTLOSS_HD T exp_difference(T a, T b) {
  T d = a - b, minus_b = d - a;
  T tail = (a - (d - minus_b)) - (b + minus_b);
  // Below, the power is zero, and the tail NaN if the difference is infinite.
  return exp(d, d > format<T>::exp_min ? tail : T(0));
}

// e^x for the entries x of a row, all of them times one factor, which brings that of the largest,
// `peak`, near 2^relative_lift, so that none is subnormal. Rounding x - peak would cost |x - peak|
// units, so it is not formed where it would be rounded: the power of two that is nearest to e^peak
// is divided out instead. Where |peak| is large, x - peak is exact unless its power is zero.
template <class T>
struct relative_exponential {
  T anchor, least, base;
  FASTLOSS_HD relative_exponential() : anchor(0), least(0), base(0) {}
  FASTLOSS_HD explicit relative_exponential(T peak) {
    using F = format<T>;
    anchor = abs(peak) < -2 * F::relative_min ? T(0) : peak;
    T rest = peak - anchor;
    least = rest + F::relative_min;
    base =
        ((rest * log2e + F::round_shift) - F::round_shift) - (F::relative_lift + F::exponent_bias);
  }
  FASTLOSS_HD T operator()(T x) const {
    using F = format<T>;
    T d = x - anchor;
    T shifted = d * log2e + F::round_shift;  // its last bits are the integer nf
    T nf = shifted - F::round_shift;
    T r = (d - nf * F::ln2_hi) - nf * F::ln2_lo;
    T m = T(1) + r * (T(1) + r * polynomial<exponential_series<T>>(r));
    T scale = bit_cast<T>(bit_cast<typename F::bits>(shifted - base) << F::mantissa_bits);
    return d < least ? T(0) : m * scale;
  }

 private:
  static constexpr T log2e = T(1.44269504088896340736);
};

template <class T>
FASTLOSS_HD T expm1(T x) {
  using F = format<T>;
  auto e = reduce_exponential(clamp(x, F::expm1_min, F::expm1_max), T(0));
  T scale = power_of_two<T>(e.n);
  return scale * e.expm1_r.hi + (scale - T(1));
}

// log(cosh(x)) for |x| <= 1
template <class T>
FASTLOSS_HD T log_cosh_near_zero(T x) {
  T z = x * x;
  return z * polynomial<log_cosh_series<T>>(z);
}

// x = 2^k (1 + f), sqrt(1/2) <= 1 + f < sqrt(2)
template <class T>
struct reduced_logarithm {
  T k, f;
};

// k, for normal positive x
template <class T>
FASTLOSS_HD typename format<T>::integer nearest_power(T x) {
  using F = format<T>;
  auto bits = static_cast<typename F::integer>(bit_cast<typename F::bits>(x) - F::sqrt_half);
  return bits >> F::mantissa_bits;
}

FASTLOSS_HD float to_number(format<float>::integer k) { return static_cast<float>(k); }
// 64-bit integers convert to double in vectors only with AVX-512; going through the mantissa of a
// shifted constant needs no conversion instruction.
FASTLOSS_HD double to_number(format<double>::integer k) {
  constexpr double shift = format<double>::round_shift;
  return bit_cast<double>(k + bit_cast<format<double>::integer>(shift)) - shift;
}

template <class T>
FASTLOSS_HD reduced_logarithm<T> reduce_normal(T x) {
  using bits = typename format<T>::bits;
  auto k = nearest_power(x);
  T m = bit_cast<T>(bit_cast<bits>(x) - (bits(k) << format<T>::mantissa_bits));
  return {to_number(k), m - T(1)};
}

// The same for subnormal numbers, too.
template <class T>
FASTLOSS_HD reduced_logarithm<T> reduce_logarithm(T x) {
  constexpr int bits = format<T>::mantissa_bits;
  bool subnormal = x < std::numeric_limits<T>::min();
  auto [k, f] = reduce_normal(subnormal ? x * T(std::int64_t(1) << bits) : x);
  return {k - (subnormal ? T(bits) : T(0)), f};
}

// 1 + x likewise, given its k, of which 2^-k is a normal number, and x to full relative
// precision: f is rounded once, and a NaN survives.
template <class T>
FASTLOSS_HD reduced_logarithm<T> reduce_growth(T x, typename format<T>::integer k) {
  T scale = power_of_two<T>(-k);
  return {to_number(k), x * scale + (scale - T(1))};
}

// log((1 + s) / (1 - s)) = 2 s + s * tail(s * s).
template <class T>
FASTLOSS_HD T atanh_tail(T z) {
  return z * polynomial<atanh_series<T>>(z);
}

// log(1 + f) - f, for a reduced f. In float a polynomial is short enough; in double the series of
// atanh takes half the terms, for a division.
FASTLOSS_HD float log_tail(float f) { return f * f * polynomial<log_series<float>>(f); }
FASTLOSS_HD double log_tail(double f) {
  double s = f / (2 + f), half_square = 0.5 * f * f;
  return s * (half_square + atanh_tail(s * s)) - half_square;
}

// k log 2 + f + tail. Where the product is not rounded, log 2 in one part does in float, whose
// nearest number to it is nearer than most; in double it would cost half a unit.
template <class T>
FASTLOSS_HD T add_powers(reduced_logarithm<T> x, T tail) {
  using F = format<T>;
#ifdef FASTLOSS_FMA
  if constexpr (sizeof(T) == sizeof(float))
    return multiply_add(x.k, T(0.69314718055994530942), x.f + tail);
#endif
  return x.k * F::ln2_hi + (x.f + (tail + x.k * F::ln2_lo));
}

// k log 2 + log(1 + f), and with a correction that is tiny beside one
template <class T>
FASTLOSS_HD T log_of_reduced(reduced_logarithm<T> x) {
  return add_powers(x, log_tail(x.f));
}
template <class T>
FASTLOSS_HD T log_of_reduced(reduced_logarithm<T> x, T correction) {
  return add_powers(x, log_tail(x.f) + correction);
}

// log(1 + x) + correction, 0 <= x <= 1; 1 + x is not formed, so that it need not be rounded. In
// float, polynomials of the whole range are shorter than what reduces x to a smaller one.
FASTLOSS_HD float log1p_of_share(float x, float correction = 0) {
  return x + (x * x * polynomial<log1p_series<float>>(x) + correction);
}
FASTLOSS_HD double log1p_of_share(double x, double correction = 0) {
  bool upper = x > 0.41421;
  return log_of_reduced<double>({upper ? 1.0 : 0.0, upper ? 0.5 * (x - 1) : x}, correction);
}

// log(1 + x), 0 <= x <= e^-2, to a unit of numbers from 0.4 on; some number for larger x
FASTLOSS_HD float log1p_of_small_share(float x) {
  return x + x * x * polynomial<log1p_small_series<float>>(x);
}
FASTLOSS_HD double log1p_of_small_share(double x) { return log1p_of_share(x); }

// log(1 - x), 0 <= x <= 1/2, likewise
FASTLOSS_HD float log_of_rest(float x) { return x * x * polynomial<log_rest_series<float>>(x) - x; }
FASTLOSS_HD double log_of_rest(double x) {
  bool lower = x > 0.29289;
  return log_of_reduced<double>({lower ? -1.0 : 0.0, lower ? 1 - 2 * x : -x});
}

// log(x) for normal positive x alone; some number for others.
template <class T>
FASTLOSS_HD T log_of_normal(T x) {
  return log_of_reduced(reduce_normal(x));
}

// log(x) for normal x up to one, or little more, and NaN; some number near the least logarithm for
// 0 <= x < normal
template <class T>
FASTLOSS_HD T log_of_share(T x) {
  auto k = nearest_power(x);
  return log_of_reduced<T>({to_number(k), x * power_of_two<T>(-k) - T(1)});
}

// The logarithm of what is no positive finite number, else `finite`.
template <class T>
FASTLOSS_HD T log_at_edges(T x, T finite) {
  T above = x < infinity<T> ? finite : x;  // a NaN survives
  T not_below = x == T(0) ? -infinity<T> : above;
  return x < T(0) ? std::numeric_limits<T>::quiet_NaN() : not_below;
}

// log(x) + correction: what is lost by rounding x, over x.
template <class T>
FASTLOSS_HD T log_corrected(T x, T correction) {
  return log_at_edges(x, log_of_reduced(reduce_logarithm(x), correction));
}

template <class T>
FASTLOSS_HD T log(T x) {
  return log_corrected(x, T(0));
}

// log(a + b), as if the sum were not rounded.
template <class T>
FASTLOSS_HD T log_sum(T a, T b) {
  T u = a + b;
  return log_corrected(u, (a < b ? a - (u - b) : b - (u - a)) / u);
}

template <class T>
FASTLOSS_HD T log1p(T x) {
  return log_sum(T(1), x);
}

// log(numerator / denominator), given their difference to full relative precision: accurate also
// where the quotient is close to 1. The quotient is normal, or NaN.
template <class T>
FASTLOSS_HD T log_quotient(T numerator, T denominator, T difference) {
  T inverse = 1 / denominator, x = difference * inverse, quotient = numerator * inverse;
  auto grown = reduce_growth(x, nearest_power(quotient));
  return log_of_reduced<T>({grown.k, x < T(-0.5) ? reduce_normal(quotient).f : grown.f});
}

// log(1 + difference / base), both positive and in two parts; `inverse` is near 1 / base and
// `inverse_sum` near 1 / (base + difference).
template <class T>
FASTLOSS_HD T log_growth(two_parts<T> difference, two_parts<T> base, T inverse, T inverse_sum) {
  T x = difference.hi * inverse;
  T rest = remainder(difference.hi, x, base.hi) + (difference.lo - x * base.lo);
  auto [u, u_lo] = add_smaller(T(1), x);
  auto [k, f] = reduce_normal(u);
  bool near = x < T(0.41);  // where u is reduced to itself, f is x, of which u has lost digits
  T correction = ((near ? T(0) : u_lo * base.hi) + rest) * inverse_sum;
  return u < infinity<T> ? log_of_reduced<T>({k, near ? x : f}, correction) : u;
}

// log(share) where share + complement = 1, each to full relative precision, or NaN. For a share
// that is not normal, some number near the least logarithm.
template <class T>
FASTLOSS_HD T log_of_share(T share, T complement) {
  auto grown = reduce_growth(-complement, nearest_power(share));
  return log_of_reduced<T>({grown.k, complement > T(0.5) ? reduce_normal(share).f : grown.f});
}

// log(x) in two parts, plus a correction as above. Zero and infinity get a huge finite logarithm:
// the exponential of its multiples then makes 0, 1 or infinity of them, by the sign of the factor.
template <class T>
FASTLOSS_HD two_parts<T> log_in_two_parts(T x, T correction = T(0)) {
  using F = format<T>;
  auto [k, f] = reduce_logarithm(x);
  auto [d, d_lo] = add_smaller(T(2), f);
  T inverse = T(1) / d, s = f * inverse;
  T s_lo = (remainder(f, s, d) - s * d_lo) * inverse;
  auto [sum, rest] = add_smaller(k * F::ln2_hi, T(2) * s);
  rest += T(2) * s_lo + s * atanh_tail(s * s) + k * F::ln2_lo + correction;
  auto [hi, lo] = add_smaller(sum, rest);
  constexpr T huge = T(1e30);
  return {x == T(0) ? -huge : (x < infinity<T> ? hi : huge), lo};
}

// x^y, given the logarithm of x >= 0 in two parts: an error of one unit in y log x costs |y log x|
// units in the power.
template <class T>
FASTLOSS_HD scaled<T> pow_of_log(two_parts<T> log_x, T y) {
  auto e = multiply_exactly(y, log_x.hi);
  // Where the power over- or underflows, the tail may be inf - inf; it is not needed there.
  T tail = abs(e.hi) < -format<T>::exp_min ? e.lo + y * log_x.lo : T(0);
  return exp_scaled(e.hi, tail);
}

template <class T>
FASTLOSS_HD T pow(T x, T y) {  // 0^0 = 1
  T power = pow_of_log(log_in_two_parts(x), y).times(T(1));
  return x >= T(0) ? power : std::numeric_limits<T>::quiet_NaN();
}

// sigmoid(|z|), what sigmoid(-|z|) is times that, and log(1 + e^-|z|), which share one exponential;
// neither sigmoid is ever formed as one minus the other.
template <class T>
struct logistic {
  T larger, odds, log1p_odds;
  FASTLOSS_HD logistic(T larger, T odds, T log1p_odds)
      : larger(larger), odds(odds), log1p_odds(log1p_odds) {}
  FASTLOSS_HD explicit logistic(T z) {
    odds = exp_of_negative(-abs(z));
    larger = T(1) / (T(1) + odds);
    log1p_odds = log1p_of_share(odds);
  }
  FASTLOSS_HD T sigmoid(T z) const { return z < T(0) ? odds * larger : larger; }
};

// The same, and sigmoid(z) and sigmoid(-z) in two parts, for who multiplies their errors.
template <class T>
struct precise_logistic {
  two_parts<T> positive, negative;
  logistic<T> rounded;
  FASTLOSS_HD explicit precise_logistic(T z) : rounded(0, 0, 0) {
    auto e = exp_in_two_parts(-abs(z));
    auto d = add_smaller(T(1), e.hi);
    d.lo += e.lo;
    T quotient = T(1) / d.hi;  // its remainder tells what rounding it has lost
    T rest = remainder(T(1), quotient, d.hi) - quotient * d.lo;
    auto large = add_smaller(quotient, quotient * rest);
    auto product = multiply_exactly(e.hi, large.hi);
    auto small = add_smaller(product.hi, product.lo + (e.hi * large.lo + e.lo * large.hi));
    positive = {z < T(0) ? small.hi : large.hi, z < T(0) ? small.lo : large.lo};
    negative = {z < T(0) ? large.hi : small.hi, z < T(0) ? large.lo : small.lo};
    rounded = {large.hi, e.hi, log1p_of_share(e.hi, e.lo * large.hi)};
  }
};

}  // namespace fastloss::math
