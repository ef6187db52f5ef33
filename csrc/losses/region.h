// Overlap losses of a region: a sample, or a whole batch. The row spans every axis of the region.
//
// Each is written as (disagreement) / (size), never as one minus a ratio that is close to one.
#pragma once

#include "core/math.h"
#include "losses/loss.h"

namespace fastloss {

// loss = numerator / size; the slopes need both.
template <class T>
struct ratio_stats {
  T loss, inverse_size;
};

template <class T>
FASTLOSS_HD ratio_stats<T> ratio(T numerator, T size) {
  // Empty regions without smoothing agree: 0 / 0 is 0.
  T inverse = size == 0 ? T(0) : 1 / size;
  return {numerator * inverse, inverse};
}

// 1 - (2 sum t p + smooth) / (sum t + sum p + smooth); without smooth (NaN), epsilon is added to
// the denominator alone
template <class T>
struct dice : region_loss {
  static constexpr auto name = "dice";
  static constexpr names parameters{"epsilon", "smooth"};
  using stats = ratio_stats<T>;
  T epsilon, smooth;
  FASTLOSS_HD explicit dice(const double* q)
      : epsilon(q[1] == q[1] ? T(0) : T(q[0])), smooth(q[1] == q[1] ? T(q[1]) : T(0)) {}
  FASTLOSS_HD row_terms<T> terms(phase<0>, T t, T p, const stats&) const {
    return {t * (1 - p) + p * (1 - t), t + p};
  }
  FASTLOSS_HD void finish(phase<0>, const row_terms<T>& r, stats& s) const {
    s = ratio(r.a + epsilon, r.b + smooth + epsilon);
  }
  FASTLOSS_HD T loss(const stats& s) const { return s.loss; }
  FASTLOSS_HD gradient_terms<T> gradient(T t, T p, const stats& s) const {
    return {((1 - 2 * t) - s.loss) * s.inverse_size, ((1 - 2 * p) - s.loss) * s.inverse_size};
  }
};

// 1 - (I + smooth) / (sum t + sum p - I + smooth), I = sum t p
template <class T>
struct iou : region_loss {
  static constexpr auto name = "iou";
  static constexpr names parameters{"smooth"};
  using stats = ratio_stats<T>;
  T smooth;
  FASTLOSS_HD explicit iou(const double* q) : smooth(T(q[0])) {}
  FASTLOSS_HD row_terms<T> terms(phase<0>, T t, T p, const stats&) const {
    return {t * (1 - p) + p * (1 - t), t + p * (1 - t)};
  }
  FASTLOSS_HD void finish(phase<0>, const row_terms<T>& r, stats& s) const {
    s = ratio(r.a, r.b + smooth);
  }
  FASTLOSS_HD T loss(const stats& s) const { return s.loss; }
  FASTLOSS_HD gradient_terms<T> gradient(T t, T p, const stats& s) const {
    return {((1 - 2 * t) - s.loss * (1 - t)) * s.inverse_size,
            ((1 - 2 * p) - s.loss * (1 - p)) * s.inverse_size};
  }
};

// 1 - I / (I + alpha sum t (1 - p) + beta sum p (1 - t) + epsilon), I = sum t p
template <class T>
struct tversky : region_loss {
  static constexpr auto name = "tversky";
  static constexpr names parameters{"epsilon", "alpha", "beta"};
  using stats = ratio_stats<T>;
  T epsilon, alpha, beta;
  FASTLOSS_HD explicit tversky(const double* q) : epsilon(T(q[0])), alpha(T(q[1])), beta(T(q[2])) {}
  FASTLOSS_HD row_terms<T> terms(phase<0>, T t, T p, const stats&) const {
    return {t * p, t * (1 - p), p * (1 - t)};
  }
  FASTLOSS_HD void finish(phase<0>, const row_terms<T>& r, stats& s) const {
    T missed = alpha * r.b + beta * r.c + epsilon;
    s = ratio(missed, r.a + missed);
  }
  FASTLOSS_HD T loss(const stats& s) const { return s.loss; }
  FASTLOSS_HD gradient_terms<T> gradient(T t, T p, const stats& s) const {
    T missed_p = beta * (1 - t) - alpha * t, missed_t = alpha * (1 - p) - beta * p;
    return {(missed_p - s.loss * (missed_p + t)) * s.inverse_size,
            (missed_t - s.loss * (missed_t + p)) * s.inverse_size};
  }
};

}  // namespace fastloss
