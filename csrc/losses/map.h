// Losses of one element of y_true (t) and y_pred (p), with both derivatives.
//
// Definitions and the behaviour at kinks and clips follow Keras 3; the forms are rewritten so that
// no accuracy is lost to cancellation. At a clip the derivative is 1 on the bounds and 0 outside.
#pragma once

#include "core/math.h"
#include "losses/loss.h"
#include "losses/power.h"

namespace fastloss {

// (p - t)^2
template <class T>
struct mean_squared_error : map_loss {
  static constexpr auto name = "mean_squared_error";
  FASTLOSS_HD explicit mean_squared_error(const double*) {}
  FASTLOSS_HD map_terms<T> operator()(T t, T p) const {
    T e = p - t;
    return {e * e, 2 * e, -2 * e};
  }
};

// |p - t|
template <class T>
struct mean_absolute_error : map_loss {
  static constexpr auto name = "mean_absolute_error";
  FASTLOSS_HD explicit mean_absolute_error(const double*) {}
  FASTLOSS_HD map_terms<T> operator()(T t, T p) const {
    T e = p - t;
    T sign = math::sign(e);
    return {math::abs(e), sign, -sign};
  }
};

// 100 |(t - p) / max(|t|, epsilon)|
template <class T>
struct mean_absolute_percentage_error : map_loss {
  static constexpr auto name = "mean_absolute_percentage_error";
  static constexpr names parameters{"epsilon"};
  T epsilon;
  FASTLOSS_HD explicit mean_absolute_percentage_error(const double* q) : epsilon(T(q[0])) {}
  FASTLOSS_HD map_terms<T> operator()(T t, T p) const {
    T size = math::abs(t);
    bool floored = size < epsilon;
    T e = (p - t) / (floored ? epsilon : size);
    T sign = math::sign(e);
    T slope = 100 * sign / (floored ? epsilon : size);
    // d|e|/dt = -sign/|t| - |e| t/|t|^2, and p/t = 1 + e t/|t|.
    return {100 * math::abs(e), slope, floored ? -slope : -slope * (p / t)};
  }
};

// log((1 + max(p, epsilon)) / (1 + max(t, epsilon)))^2
template <class T>
struct mean_squared_logarithmic_error : map_loss {
  static constexpr auto name = "mean_squared_logarithmic_error";
  static constexpr names parameters{"epsilon"};
  T epsilon;
  FASTLOSS_HD explicit mean_squared_logarithmic_error(const double* q) : epsilon(T(q[0])) {}
  FASTLOSS_HD map_terms<T> operator()(T t, T p) const {
    T p1 = math::max(p, epsilon), t1 = math::max(t, epsilon);
    // Of the larger over the smaller, which cannot cancel.
    bool is_less = p1 < t1;
    T more = is_less ? t1 : p1, less = is_less ? p1 : t1;
    auto base = math::add_smaller(T(1), less);
    T by_less = 1 / base.hi, by_more = 1 / (1 + more);
    T size = math::log_growth(math::add_smaller(more, -less), base, by_less, by_more);
    T d = is_less ? -size : size;
    return {d * d, p < epsilon ? T(0) : 2 * d * (is_less ? by_less : by_more),
            t < epsilon ? T(0) : -2 * d * (is_less ? by_more : by_less)};
  }
};

// e^2 / 2 where |e| <= delta, else delta |e| - delta^2 / 2
template <class T>
struct huber : map_loss {
  static constexpr auto name = "huber";
  static constexpr names parameters{"delta"};
  T delta;
  FASTLOSS_HD explicit huber(const double* q) : delta(T(q[0])) {}
  FASTLOSS_HD map_terms<T> operator()(T t, T p) const {
    T e = p - t, size = math::abs(e);
    T slope = math::clamp(e, -delta, delta);
    T loss = size <= delta ? T(0.5) * e * e : delta * (size - T(0.5) * delta);
    return {loss, slope, -slope};
  }
};

// log(cosh(e)), of large errors as |e| - log 2 + log1p(w), w = exp(-2 |e|)
template <class T>
struct log_cosh : map_loss {
  static constexpr auto name = "log_cosh";
  FASTLOSS_HD explicit log_cosh(const double*) {}
  FASTLOSS_HD map_terms<T> operator()(T t, T p) const {
    T e = p - t, size = math::abs(e);
    T v = -math::expm1(-2 * size), w = 1 - v;
    T far = (size - T(0.69314718055994530942)) + math::log1p_of_small_share(w);
    T loss = size < 1 ? math::log_cosh_near_zero(e) : far;
    T tanh = v / (1 + w);
    T slope = e < 0 ? -tanh : tanh;
    return {loss, slope, -slope};
  }
};

// max(1 - t p, 0), t in {-1, 1}
template <class T>
struct hinge : map_loss {
  static constexpr auto name = "hinge";
  static constexpr bool label_signs = true;
  FASTLOSS_HD explicit hinge(const double*) {}
  FASTLOSS_HD map_terms<T> operator()(T t, T p) const {
    T margin = 1 - t * p;
    bool flat = margin < 0;
    return {flat ? T(0) : margin, flat ? T(0) : -t, flat ? T(0) : -p};
  }
};

// max(1 - t p, 0)^2, t in {-1, 1}
template <class T>
struct squared_hinge : map_loss {
  static constexpr auto name = "squared_hinge";
  static constexpr bool label_signs = true;
  FASTLOSS_HD explicit squared_hinge(const double*) {}
  FASTLOSS_HD map_terms<T> operator()(T t, T p) const {
    T margin = math::max(1 - t * p, T(0));
    return {margin * margin, -2 * margin * t, -2 * margin * p};
  }
};

// t log(t / p), both clipped to [epsilon, 1]; summed over the row
template <class T>
struct kl_divergence : map_loss {
  static constexpr auto name = "kl_divergence";
  static constexpr bool averages = false;
  static constexpr names parameters{"epsilon"};
  T epsilon;
  FASTLOSS_HD explicit kl_divergence(const double* q) : epsilon(T(q[0])) {}
  FASTLOSS_HD map_terms<T> operator()(T t, T p) const {
    T t1 = math::clamp(t, epsilon, T(1)), p1 = math::clamp(p, epsilon, T(1));
    T ratio = math::log_quotient(t1, p1, t1 - p1);
    return {t1 * ratio, p1 < p || p1 > p ? T(0) : -t1 * (1 / p1),
            t1 < t || t1 > t ? T(0) : ratio + 1};
  }
};

// p - t log(p + epsilon)
template <class T>
struct poisson : map_loss {
  static constexpr auto name = "poisson";
  static constexpr names parameters{"epsilon"};
  T epsilon;
  FASTLOSS_HD explicit poisson(const double* q)
      : epsilon(math::max(T(q[0]), std::numeric_limits<T>::min())) {}
  FASTLOSS_HD map_terms<T> operator()(T t, T p) const {
    T rate = p + epsilon, inverse = 1 / rate;
    T lost = p < epsilon ? p - (rate - epsilon) : epsilon - (rate - p);
    T log_rate =
        math::log_at_edges(rate, math::log_of_reduced(math::reduce_normal(rate), lost * inverse));
    return {p - t * log_rate, ((p - t) + epsilon) * inverse, -log_rate};
  }
};

// The weights of the classes 0 and 1, a and b, in the binary cross-entropies.
template <class T>
struct class_weights {
  T a, b;
  FASTLOSS_HD explicit class_weights(const double* q) : a(T(q[0])), b(T(q[1])) {}
  FASTLOSS_HD T negative(T x) const { return a * x; }
  FASTLOSS_HD T positive(T x) const { return b * x; }
  FASTLOSS_HD T of(T t) const { return a * (1 - t) + b * t; }
  // a (1 - t) q - b t (1 - q), which does not cancel for a = b
  FASTLOSS_HD T slope(T t, T q, T complement) const {
    return (q - t) * a + (a - b) * t * complement;
  }
};
template <class T>
struct equal_classes {
  FASTLOSS_HD explicit equal_classes(const double*) {}
  FASTLOSS_HD T negative(T x) const { return x; }
  FASTLOSS_HD T positive(T x) const { return x; }
  FASTLOSS_HD T of(T) const { return T(1); }
  FASTLOSS_HD T slope(T t, T q, T) const { return q - t; }
  static bool are(const double* q) { return q[0] == 1 && q[1] == 1; }
};

// Targets of the binary losses: any numbers, or labels, which are 0 or 1 and leave but one of the
// two terms.
struct any_targets {
  static constexpr bool are_labels = false;
  // t x + (1 - t) y
  template <class T>
  FASTLOSS_HD static math::two_parts<T> mix(T t, math::two_parts<T> x, math::two_parts<T> y) {
    auto b = math::add_smaller(T(1), -t);
    auto left = math::multiply_exactly(t, x.hi), right = math::multiply_exactly(b.hi, y.hi);
    auto sum = math::add_exactly(left.hi, right.hi);
    T rest = (left.lo + t * x.lo) + (right.lo + (b.lo * y.hi + b.hi * y.lo));
    return {sum.hi, sum.lo + rest};
  }
};
struct label_targets {
  static constexpr bool are_labels = true;
  template <class T>
  FASTLOSS_HD static math::two_parts<T> mix(T t, math::two_parts<T> x, math::two_parts<T> y) {
    return {t == 0 ? y.hi : x.hi, t == 0 ? y.lo : x.lo};
  }
};

// -b t log q - a (1 - t) log(1 - q), q = p clipped to [epsilon, 1 - epsilon]; an epsilon that is
// not normal counts as the least normal number.
template <class T, class Weights, class Targets = any_targets>
struct binary_crossentropy_with : map_loss {
  static constexpr auto name = "binary_crossentropy";
  static constexpr names parameters{"epsilon", "negative_weight", "positive_weight"};
  using of_labels = binary_crossentropy_with<T, Weights, label_targets>;
  T low, high;
  Weights weights;
  FASTLOSS_HD explicit binary_crossentropy_with(const double* q)
      : low(math::max(T(q[0]), std::numeric_limits<T>::min())),
        high(T(1) - T(q[0])),
        weights(q + 1) {}
  FASTLOSS_HD map_terms<T> operator()(T t, T p) const {
    T q = math::clamp(p, low, high);
    T complement = 1 - q;  // the smaller of the two is exact, and the other one minus it
    bool clipped = q < p || q > p;
    if constexpr (Targets::are_labels) {
      T share = t == 0 ? complement : q, rest = t == 0 ? q : complement, weight = weights.of(t);
      T slope = weight / (t == 0 ? complement : -q);
      return {-weight * math::log_of_share(share, rest), clipped ? T(0) : slope, T(0)};
    }
    bool is_less = q < complement;
    T less = is_less ? q : complement;
    T log_less = math::log_of_normal(less), log_more = math::log_of_rest(less);  // keeps NaN
    T log_q = weights.positive(is_less ? log_less : log_more);
    T log_1q = weights.negative(is_less ? log_more : log_less);
    T slope = weights.slope(t, q, complement) / (q * complement);
    return {-(t * log_q + (1 - t) * log_1q), clipped ? T(0) : slope, log_1q - log_q};
  }
};
template <class T>
struct binary_crossentropy : binary_crossentropy_with<T, class_weights<T>> {
  using binary_crossentropy_with<T, class_weights<T>>::binary_crossentropy_with;
  using variant = binary_crossentropy_with<T, equal_classes<T>>;
  static bool has_variant_for(const double* q) { return equal_classes<T>::are(q + 1); }
};

// The same with p = sigmoid(z): b t softplus(-z) + a (1 - t) softplus(z)
template <class T, class Weights>
struct binary_crossentropy_from_logits_with : map_loss {
  static constexpr auto name = "binary_crossentropy_from_logits";
  static constexpr names parameters{"negative_weight", "positive_weight"};
  Weights weights;
  FASTLOSS_HD explicit binary_crossentropy_from_logits_with(const double* q) : weights(q) {}
  FASTLOSS_HD map_terms<T> operator()(T t, T z, const math::logistic<T>& s) const {
    T negative = weights.negative(1 - t), positive = weights.positive(t);
    // What multiplies the softplus that grows with |z|, and the other one.
    T grows = z < 0 ? positive : negative, fades = z < 0 ? negative : positive;
    T slope = (grows - fades * s.odds) * s.larger;
    T grows_by_true = z < 0 ? -weights.positive(z) : -weights.negative(z);
    return {grows * math::abs(z) + weights.of(t) * s.log1p_odds, z < 0 ? -slope : slope,
            grows_by_true + (weights.of(1) - weights.of(0)) * s.log1p_odds};
  }
  FASTLOSS_HD map_terms<T> operator()(T t, T z) const {
    return (*this)(t, z, math::logistic<T>(z));
  }
};
template <class T>
struct binary_crossentropy_from_logits : binary_crossentropy_from_logits_with<T, class_weights<T>> {
  using binary_crossentropy_from_logits_with<
      T, class_weights<T>>::binary_crossentropy_from_logits_with;
  using variant = binary_crossentropy_from_logits_with<T, equal_classes<T>>;
  static bool has_variant_for(const double* q) { return equal_classes<T>::are(q); }
};

// What the focal losses multiply a cross-entropy by: c m^gamma, where m = 1 - (probability given to
// the target) and c = t alpha + (1 - t)(1 - alpha) if balancing, else 1.
template <class T, class Power>
struct focal_factor {
  T weight_0, weight_step;
  Power power;
  FASTLOSS_HD explicit focal_factor(const double* q)  // apply_class_balancing, alpha, gamma
      : weight_0(q[0] != 0 ? T(1 - q[1]) : T(1)),
        weight_step(q[0] != 0 ? T(2 * q[1] - 1) : T(0)),
        power(q[2]) {}
  // `bce` times the factor; by_pred and by_true are the derivatives of m.
  FASTLOSS_HD map_terms<T> times(const map_terms<T>& bce, T t, math::two_parts<T> m, T by_pred,
                                 T by_true) const {
    auto focal = power.of(m);
    T loss = focal.times(bce.loss), weight = weight_0 + weight_step * t;
    return {weight * loss, weight * focal.slope(bce.loss, bce.d_pred, by_pred),
            weight * focal.slope(bce.loss, bce.d_true, by_true) + weight_step * loss};
  }
};

template <class T, class Weights, class Power, class Targets = any_targets>
struct binary_focal : map_loss {
  static constexpr auto name = "binary_focal_crossentropy";
  static constexpr names parameters{
      "epsilon", "negative_weight", "positive_weight", "apply_class_balancing", "alpha", "gamma"};
  using of_labels = binary_focal<T, Weights, Power, label_targets>;
  binary_crossentropy_with<T, Weights, Targets> crossentropy;
  focal_factor<T, Power> focal;
  FASTLOSS_HD explicit binary_focal(const double* q) : crossentropy(q), focal(q + 3) {}
  FASTLOSS_HD map_terms<T> operator()(T t, T p) const {
    auto m = Targets::mix(t, math::add_smaller(T(1), -p), {p, T(0)});
    return focal.times(crossentropy(t, p), t, m, 1 - 2 * t, 1 - 2 * p);
  }
};

// From logits without the clip: no saturation where a sigmoid rounds to 0 or 1
template <class T, class Weights, class Power>
struct binary_focal_from_logits : map_loss {
  static constexpr auto name = "binary_focal_crossentropy_from_logits";
  static constexpr names parameters{"negative_weight", "positive_weight", "apply_class_balancing",
                                    "alpha", "gamma"};
  binary_crossentropy_from_logits_with<T, Weights> crossentropy;
  focal_factor<T, Power> focal;
  FASTLOSS_HD explicit binary_focal_from_logits(const double* q) : crossentropy(q), focal(q + 2) {}
  FASTLOSS_HD map_terms<T> operator()(T t, T z) const {
    math::precise_logistic<T> s(z);
    return focal.times(crossentropy(t, z, s.rounded), t,
                       any_targets::mix(t, s.negative, s.positive),
                       (1 - 2 * t) * s.positive.hi * s.negative.hi, s.negative.hi - s.positive.hi);
  }
};

// With gamma = 2, the default, no power needs a logarithm.
template <class T>
struct binary_focal_of_square : binary_focal<T, class_weights<T>, square<T>> {
  using binary_focal<T, class_weights<T>, square<T>>::binary_focal;
  using variant = binary_focal<T, equal_classes<T>, square<T>>;
  static bool has_variant_for(const double* q) { return equal_classes<T>::are(q + 1); }
};
template <class T>
struct binary_focal_crossentropy : binary_focal<T, class_weights<T>, any_power<T>> {
  using binary_focal<T, class_weights<T>, any_power<T>>::binary_focal;
  using variant = binary_focal_of_square<T>;
  static bool has_variant_for(const double* q) { return q[5] == 2; }
};
template <class T>
struct binary_focal_of_square_from_logits
    : binary_focal_from_logits<T, class_weights<T>, square<T>> {
  using binary_focal_from_logits<T, class_weights<T>, square<T>>::binary_focal_from_logits;
  using variant = binary_focal_from_logits<T, equal_classes<T>, square<T>>;
  static bool has_variant_for(const double* q) { return equal_classes<T>::are(q); }
};
template <class T>
struct binary_focal_crossentropy_from_logits
    : binary_focal_from_logits<T, class_weights<T>, any_power<T>> {
  using binary_focal_from_logits<T, class_weights<T>, any_power<T>>::binary_focal_from_logits;
  using variant = binary_focal_of_square_from_logits<T>;
  static bool has_variant_for(const double* q) { return q[4] == 2; }
};

}  // namespace fastloss
