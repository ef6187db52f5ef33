// Overlap losses of a region: a sample, or a whole batch. The row spans every axis of the region.
//
// Each is written as (disagreement) / (size), never as one minus a ratio that is close to one; and
// one minus the loss as (agreement) / (size), never as one minus a loss that is close to one.
#pragma once

#include "core/math.h"
#include "losses/loss.h"

namespace fastloss {

template <class T>
struct overlap_stats {
  T loss, by_disagreement, by_agreement;
  // The slope of the loss, where the agreement has the slope t and the disagreement `apart`.
  FASTLOSS_HD T slope(T t, T apart) const { return by_disagreement * apart - by_agreement * t; }
};

template <class T>
FASTLOSS_HD overlap_stats<T> overlap(T agreement, T disagreement) {
  // In double, because each slope of the region inherits the errors of these three.
  double size = double(agreement) + double(disagreement);
  // Empty regions without smoothing agree: 0 / 0 is 0. Divisions, because an inverse would bring
  // its own rounding, twice.
  double divisor = size == 0 ? math::infinity<double> : size, loss = disagreement / divisor;
  return {T(loss), T(agreement / divisor / divisor), T(loss / divisor)};
}

// 1 - (2 sum t p + smooth) / (sum t + sum p + smooth); without smooth (NaN), epsilon is added to
// the denominator alone
template <class T>
struct dice : region_loss {
  static constexpr auto name = "dice";
  static constexpr int terms_used[] = {2};
  static constexpr names parameters{"epsilon", "smooth"};
  using stats = overlap_stats<T>;
  T epsilon, smooth;
  FASTLOSS_HD explicit dice(const double* q)
      : epsilon(q[1] == q[1] ? T(0) : T(q[0])), smooth(q[1] == q[1] ? T(q[1]) : T(0)) {}
  FASTLOSS_HD row_terms<T> terms(phase<0>, T t, T p, const stats&) const {
    return {t * p, t * (1 - p) + p * (1 - t)};
  }
  FASTLOSS_HD void finish(phase<0>, const row_terms<T>& r, stats& s) const {
    s = overlap(2 * r.a + smooth, r.b + epsilon);
  }
  FASTLOSS_HD T loss(const stats& s) const { return s.loss; }
  FASTLOSS_HD gradient_terms<T> gradient(T t, T p, const stats& s) const {
    return {s.slope(2 * t, 1 - 2 * t), s.slope(2 * p, 1 - 2 * p)};
  }
};

// 1 - (I + smooth) / (sum t + sum p - I + smooth), I = sum t p
template <class T>
struct iou : region_loss {
  static constexpr auto name = "iou";
  static constexpr int terms_used[] = {2};
  static constexpr names parameters{"smooth"};
  using stats = overlap_stats<T>;
  T smooth;
  FASTLOSS_HD explicit iou(const double* q) : smooth(T(q[0])) {}
  FASTLOSS_HD row_terms<T> terms(phase<0>, T t, T p, const stats&) const {
    return {t * p, t * (1 - p) + p * (1 - t)};
  }
  FASTLOSS_HD void finish(phase<0>, const row_terms<T>& r, stats& s) const {
    s = overlap(r.a + smooth, r.b);
  }
  FASTLOSS_HD T loss(const stats& s) const { return s.loss; }
  FASTLOSS_HD gradient_terms<T> gradient(T t, T p, const stats& s) const {
    return {s.slope(t, 1 - 2 * t), s.slope(p, 1 - 2 * p)};
  }
};

// 1 - I / (I + alpha sum t (1 - p) + beta sum p (1 - t) + epsilon), I = sum t p
template <class T>
struct tversky : region_loss {
  static constexpr auto name = "tversky";
  static constexpr int terms_used[] = {3};
  static constexpr names parameters{"epsilon", "alpha", "beta"};
  using stats = overlap_stats<T>;
  T epsilon, alpha, beta;
  FASTLOSS_HD explicit tversky(const double* q) : epsilon(T(q[0])), alpha(T(q[1])), beta(T(q[2])) {}
  FASTLOSS_HD row_terms<T> terms(phase<0>, T t, T p, const stats&) const {
    return {t * p, t * (1 - p), p * (1 - t)};
  }
  FASTLOSS_HD void finish(phase<0>, const row_terms<T>& r, stats& s) const {
    s = overlap(r.a, alpha * r.b + beta * r.c + epsilon);
  }
  FASTLOSS_HD T loss(const stats& s) const { return s.loss; }
  FASTLOSS_HD gradient_terms<T> gradient(T t, T p, const stats& s) const {
    return {s.slope(t, beta * (1 - t) - alpha * t), s.slope(p, alpha * (1 - p) - beta * p)};
  }
};

}  // namespace fastloss
