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
template <class T>
struct circle : pairwise_loss {
  static constexpr auto name = "circle";
  static constexpr names parameters{"gamma", "margin"};
  static constexpr bool first_phase_is_max = true;
  static constexpr int phases = 2;
  static constexpr int terms_used[] = {2, 2};
  struct stats {
    T positive_peak, negative_peak;    // the largest logits
    T positive_total, negative_total;  // sums of exp(logit - peak)
    T loss, slope;                     // softplus and its derivative
  };
  T gamma, margin;
  FASTLOSS_HD explicit circle(const double* q) : gamma(T(q[0])), margin(T(q[1])) {}

  struct pair {
    bool positive, counts;
    T logit, slope;  // its derivative with respect to s
  };
  FASTLOSS_HD pair at(T t, T s) const {
    bool positive = t == 1;
    T similarity = s > 1 ? T(1) : s;
    T x = positive ? 1 - similarity : similarity, weight = margin + x;
    T active = weight >= 0 ? gamma : T(0);
    T slope = s > 1 ? T(0) : 2 * active * x;
    return {positive, positive || t == 0, (active * weight) * (x - margin),
            positive ? -slope : slope};
  }

  FASTLOSS_HD row_terms<T> terms(phase<0>, T t, T s, const stats&) const {
    pair x = at(t, s);
    return {x.counts && x.positive ? x.logit : -math::infinity<T>,
            x.counts && !x.positive ? x.logit : -math::infinity<T>};
  }
  FASTLOSS_HD void finish(phase<0>, const row_terms<T>& r, stats& s) const {
    s.positive_peak = r.a;
    s.negative_peak = r.b;
  }

  FASTLOSS_HD row_terms<T> terms(phase<1>, T t, T p, const stats& s) const {
    pair x = at(t, p);
    T e = math::exp(x.logit - (x.positive ? s.positive_peak : s.negative_peak));
    return {x.counts && x.positive ? e : T(0), x.counts && !x.positive ? e : T(0)};
  }
  FASTLOSS_HD void finish(phase<1>, const row_terms<T>& r, stats& s) const {
    s.positive_total = r.a;
    s.negative_total = r.b;
    bool both = r.a != 0 && r.b != 0;
    T z = (s.positive_peak + math::log(r.a)) + (s.negative_peak + math::log(r.b));
    math::logistic<T> l(z);
    s.loss = both ? math::max(z, T(0)) + l.log1p_exp : T(0);
    s.slope = both ? l.positive : T(0);
  }

  FASTLOSS_HD T loss(const stats& s) const { return s.loss; }
  FASTLOSS_HD gradient_terms<T> gradient(T t, T p, const stats& s) const {
    pair x = at(t, p);
    T e = math::exp(x.logit - (x.positive ? s.positive_peak : s.negative_peak));
    T share = e / (x.positive ? s.positive_total : s.negative_total);
    return {x.counts && s.slope != 0 ? s.slope * share * x.slope : T(0), T(0)};
  }
};

}  // namespace fastloss
