// Connectionist temporal classification (Graves et al., 2006): minus the log of the probability of
// a label, which is the sum over its alignments with the frames.
//
// An alignment walks through the 2 L + 1 states of the label: the even states emit blank, state
// 2 k + 1 emits label k. From one frame to the next it stays, moves on by one state, or skips the
// blank between two different labels. The sums over walks are kept as logarithms and relative to
// the largest state of the frame, so that neither many frames nor large logits lose them. Walks
// from the end are walks from the start of the reversed label: one recursion serves both
// directions.
//
// Softmax is folded in: a frame emits exp(x - peak), and the loss adds log(1 + rest) per frame.
#pragma once

#include "core/math.h"

namespace fastloss {

// The logits of a frame: the largest, and the sum of exp(x - peak) over the others. Kept apart,
// they give 1 - softmax of the dominating class without cancellation.
template <class T>
struct ctc_frame {
  T peak, rest;
  FASTLOSS_HD T log_total() const { return math::log1p(rest); }
  FASTLOSS_HD T total() const { return 1 + rest; }
  // The softmax of a logit, times total().
  FASTLOSS_HD T exponential(T x) const { return math::exp(x - peak); }
  // The derivative for the dominating class, softmax minus posterior, from the posterior of all
  // others: what is subtracted is as small as they are.
  FASTLOSS_HD T slope_of_best(T others) const { return others - rest / total(); }
};

// From the sum of `ctc_rest` over a frame, and how many of its logits are the peak.
template <class T>
FASTLOSS_HD ctc_frame<T> ctc_frame_of(T peak, T rest, T ties) {
  return {peak, rest + (ties - 1)};
}
template <class T>
FASTLOSS_HD T ctc_rest(T x, T peak) {
  return x == peak ? T(0) : math::exp(x - peak);
}

// log(e^a + e^b + e^c), where -inf stands for a missing term.
template <class T>
FASTLOSS_HD T log_sum(T a, T b, T c) {
  T high = math::max(a, b), low = a < b ? a : b;
  T most = math::max(high, c), other = high < c ? high : c;
  T base = most == -math::infinity<T> ? T(0) : most;
  return most + math::log1p(math::exp(low - base) + math::exp(other - base));
}

// What state s needs of the states of the frame before; `skip` is 0 where the blank may be skipped,
// else -inf.
template <class T>
FASTLOSS_HD T ctc_advance(T same, T previous, T before_previous, T skip) {
  return log_sum(same, previous, before_previous + skip);
}

// Of a label by whether it repeats the one before: its `skip`, and how many frames it needs, for
// the blank between the two is one.
template <class T>
FASTLOSS_HD T ctc_skip(bool repeats) {
  return repeats ? -math::infinity<T> : T(0);
}
FASTLOSS_HD int ctc_frames_needed(bool repeats) { return repeats ? 2 : 1; }

// The loss, from the two states that walks may end in, and the log of what these are relative to.
template <class T>
FASTLOSS_HD double ctc_loss(T last, T before_last, double log_scale) {
  double log_probability = log_scale + double(log_sum(last, before_last, -math::infinity<T>));
  return log_probability > 0 ? 0 : -log_probability;  // rounding may exceed probability one
}

}  // namespace fastloss
