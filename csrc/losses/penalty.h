// Regularizers of predictions (p, or logits x): formulas that look at no target. As terms of a sum
// they pull the predictions of another loss towards something simpler.
#pragma once

#include "losses/row.h"

namespace fastloss {

// p^2
template <class T>
struct mean_square : map_loss {
  static constexpr auto name = "mean_square";
  static constexpr bool uses_target = false;
  FASTLOSS_HD explicit mean_square(const double*) {}
  FASTLOSS_HD map_terms<T> operator()(T, T p) const { return {p * p, 2 * p, T(0)}; }
};

// |p|
template <class T>
struct mean_absolute : map_loss {
  static constexpr auto name = "mean_absolute";
  static constexpr bool uses_target = false;
  FASTLOSS_HD explicit mean_absolute(const double*) {}
  FASTLOSS_HD map_terms<T> operator()(T, T p) const { return {math::abs(p), math::sign(p), T(0)}; }
};

// sum q log q, q = p clipped to [epsilon, 1]: the negative entropy of probabilities
template <class T>
struct confidence_penalty : row_loss {
  static constexpr auto name = "confidence_penalty";
  static constexpr bool uses_target = false;
  static constexpr names parameters{"epsilon"};
  static constexpr int phases = 1;
  static constexpr int terms_used[] = {1};
  struct stats {
    T loss;
  };
  T epsilon;
  FASTLOSS_HD explicit confidence_penalty(const double* q) : epsilon(T(q[0])) {}
  FASTLOSS_HD row_terms<T> terms(phase<0>, T, T p, const stats&) const {
    T q = math::clamp(p, epsilon, T(1));
    return {q * math::log(q)};
  }
  FASTLOSS_HD void finish(phase<0>, const row_terms<T>& r, stats& s) const { s.loss = r.a; }
  FASTLOSS_HD T loss(const stats& s) const { return s.loss; }
  FASTLOSS_HD gradient_terms<T> gradient(T, T p, const stats&) const {
    T q = math::clamp(p, epsilon, T(1));
    return {p < epsilon || p > 1 ? T(0) : 1 + math::log(q), T(0)};
  }
};

// A penalty of q = softmax(x). It says what it adds up beside the exponentials (`of_entry`), what
// the sum of these means (`summarize`), and the derivative by x (`slope`).
template <class T, class Penalty>
struct softmax_penalty : row_loss {
  static constexpr bool uses_target = false;
  static constexpr bool first_phase_is_max = true;
  static constexpr int keeps = 1;
  static constexpr int phases = 2;
  using stats = class_stats<T>;
  softmax_row<T> row;
  FASTLOSS_HD explicit softmax_penalty(const double* q) : row(q) {}
  FASTLOSS_HD const Penalty& own() const { return static_cast<const Penalty&>(*this); }
  FASTLOSS_HD row_terms<T> terms(phase<0>, T, T x, const stats&) const { return {x}; }
  FASTLOSS_HD void finish(phase<0>, const row_terms<T>& r, stats& s) const {
    s.peak = r.a;
    row.start(s);
  }
  FASTLOSS_HD T keep(T, T x, const stats& s) const { return row.entry(x, s); }
  FASTLOSS_HD row_terms<T> terms(phase<1>, T, T x, T entry, const stats& s) const {
    bool is_peak = x == s.peak;
    return {is_peak ? T(0) : entry, is_peak ? T(1) : T(0), own().of_entry(x, entry, s)};
  }
  FASTLOSS_HD row_terms<T> terms(phase<1> which, T t, T x, const stats& s) const {
    return terms(which, t, x, keep(t, x, s), s);
  }
  FASTLOSS_HD void finish(phase<1>, const row_terms<T>& r, stats& s) const {
    T peak = row.entry(s.peak, s);
    row.finish(peak, r.a + peak * (r.b - 1), s);
    own().summarize(r.c, s);
  }
  FASTLOSS_HD T loss(const stats& s) const { return s.loss; }
  FASTLOSS_HD gradient_terms<T> gradient(T, T x, T entry, const stats& s) const {
    return {own().slope(x, entry, s), T(0)};
  }
  FASTLOSS_HD gradient_terms<T> gradient(T t, T x, const stats& s) const {
    return gradient(t, x, keep(t, x, s), s);
  }
};

// sum q log q: the mean m of x - peak under q, minus log sum exp(x - peak); neither is above 0, so
// they do not cancel
template <class T>
struct confidence_penalty_from_logits : softmax_penalty<T, confidence_penalty_from_logits<T>> {
  static constexpr auto name = "confidence_penalty_from_logits";
  static constexpr int terms_used[] = {1, 3};
  using softmax_penalty<T, confidence_penalty_from_logits>::softmax_penalty;
  using stats = class_stats<T>;  // mass holds m
  FASTLOSS_HD T of_entry(T x, T entry, const stats& s) const {
    return distance(x, entry, s) * entry;
  }
  FASTLOSS_HD void summarize(T sum, stats& s) const {
    s.mass = sum * s.inverse;
    s.loss = s.mass - s.peak_minus_log;
  }
  FASTLOSS_HD T slope(T x, T entry, const stats& s) const {
    return entry * s.inverse * (distance(x, entry, s) - s.mass);
  }
  // x - peak, where it counts: q log q tends to 0 as q does.
  FASTLOSS_HD T distance(T x, T entry, const stats& s) const {
    return entry == 0 ? T(0) : x - s.peak;
  }
};

// (log sum exp x)^2
template <class T>
struct z_loss : softmax_penalty<T, z_loss<T>> {
  static constexpr auto name = "z_loss";
  static constexpr int terms_used[] = {1, 2};
  using softmax_penalty<T, z_loss>::softmax_penalty;
  using stats = class_stats<T>;  // mass holds log sum exp x
  FASTLOSS_HD T of_entry(T, T, const stats&) const { return T(0); }
  FASTLOSS_HD void summarize(T, stats& s) const {
    s.mass = s.peak + s.peak_minus_log;
    s.loss = s.mass * s.mass;
  }
  FASTLOSS_HD T slope(T, T entry, const stats& s) const { return 2 * s.mass * (entry * s.inverse); }
};

}  // namespace fastloss
