// Losses of the similarities s of one sample (a row) to all others.
#pragma once

#include "core/math.h"
#include "losses/loss.h"

namespace fastloss {

// softplus(LSE+ + LSE-), LSE being the log of the sum of the exponentials of the logits of the
// positives (t = 1) and of the negatives (t = 0); pairs with any other t do not count. The logits
// are gamma max(x + margin, 0) (x - margin), with x = 1 - s for a positive pair and x = s for a
// negative one, where s is at most 1.
// A row without positives or without negatives has loss 0.
//
// A logit is gamma (u^2 - margin^2), where u = |x|, or |margin| where the maximum is 0, so that the
// difference of two is gamma (u - v) (u + v). Rounding a logit, which is up to gamma in size, would
// cost as many units of its exponential, and so would rounding 1 - s.
template <class T>
struct circle : pairwise_loss {
  static constexpr auto name = "circle";
  static constexpr names parameters{"gamma", "margin"};
  static constexpr bool first_phase_is_max = true;
  static constexpr int phases = 2;
  static constexpr int terms_used[] = {2, 2};
  static constexpr int keeps = 1;  // the exponential
  struct stats {
    T positive_peak, negative_peak;    // the largest keys
    T positive_scale, negative_scale;  // of a kept exponential times x, to the slope by s
    T loss;
  };
  T gamma, margin;
  FASTLOSS_HD explicit circle(const double* q) : gamma(T(q[0])), margin(T(q[1])) {}

  struct pair {
    bool positive, counts;
    T key, x;  // u - 1 of a positive pair, u of a negative one; 0 where the logit is flat
  };
  FASTLOSS_HD pair at(T t, T s) const {
    bool positive = t == 1;
    T similarity = s > 1 ? T(1) : s;
    T x = positive ? 1 - similarity : similarity;
    bool flat = x + margin < 0;
    T key = positive ? -similarity : math::abs(similarity);
    T flat_key = positive ? math::abs(margin) - 1 : math::abs(margin);
    return {positive, positive || t == 0, flat ? flat_key : key, s > 1 || flat ? T(0) : x};
  }
  FASTLOSS_HD T logit(T u) const { return gamma * (u - margin) * (u + margin); }

  FASTLOSS_HD row_terms<T> terms(phase<0>, T t, T s, const stats&) const {
    pair x = at(t, s);
    return {x.counts && x.positive ? x.key : -math::infinity<T>,
            x.counts && !x.positive ? x.key : -math::infinity<T>};
  }
  FASTLOSS_HD void finish(phase<0>, const row_terms<T>& r, stats& s) const {
    s.positive_peak = r.a;
    s.negative_peak = r.b;
  }

  FASTLOSS_HD T keep(T t, T p, const stats& s) const {
    pair x = at(t, p);
    T peak = x.positive ? s.positive_peak : s.negative_peak;
    T sum = x.positive ? 2 + (x.key + peak) : x.key + peak;  // of both u
    T e = math::exp_of_negative(gamma * ((x.key - peak) * sum));
    return x.counts ? e : T(0);
  }
  FASTLOSS_HD row_terms<T> terms(phase<1>, T t, T, T e, const stats&) const {
    return {t == 1 ? e : T(0), t == 1 ? T(0) : e};
  }
  FASTLOSS_HD row_terms<T> terms(phase<1> i, T t, T p, const stats& s) const {
    return terms(i, t, p, keep(t, p, s), s);
  }
  FASTLOSS_HD void finish(phase<1>, const row_terms<T>& r, stats& s) const {
    bool both = r.a != 0 && r.b != 0;
    T z = (logit(1 + s.positive_peak) + math::log(r.a)) + (logit(s.negative_peak) + math::log(r.b));
    math::logistic<T> l(z);
    s.loss = both ? math::max(z, T(0)) + l.log1p_odds : T(0);
    T slope = 2 * gamma * l.sigmoid(z);
    s.positive_scale = both ? -slope / r.a : T(0);
    s.negative_scale = both ? slope / r.b : T(0);
  }

  FASTLOSS_HD T loss(const stats& s) const { return s.loss; }
  FASTLOSS_HD gradient_terms<T> gradient(T t, T p, const stats& s) const {
    return gradient(t, p, keep(t, p, s), s);
  }
  FASTLOSS_HD gradient_terms<T> gradient(T t, T p, T e, const stats& s) const {
    pair x = at(t, p);
    T scale = x.positive ? s.positive_scale : s.negative_scale;
    return {x.counts && scale != 0 ? scale * e * x.x : T(0), T(0)};
  }
};

}  // namespace fastloss
