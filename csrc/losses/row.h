// Losses of a row of y_true (t) and y_pred (p, or logits x): classes or a vector.
//
// Each is a few reductions over the row, then a value and a gradient formed from their results.
#pragma once

#include "core/math.h"
#include "losses/loss.h"
#include "losses/power.h"

namespace fastloss {

// ---- Cross-entropies: sum over classes of t f(q), where q is the row made into a distribution
// ----
//
// They are put together from a row, which says how q follows from y_pred, and a term, which is f.
//
// A row is described by its largest entry (`peak`) and the sum of the others (`rest`). Keeping the
// two apart keeps 1 - q exact for the class that dominates, where subtracting q from one would
// cancel: that difference is the gradient of every well-trained sample.

template <class T>
struct class_stats {
  T peak, rest, total, inverse;               // inverse = 1 / total
  T beside_peak, peak_minus_log;              // 1 - q and -log q of the largest entry
  math::relative_exponential<T> exponential;  // softmax only
  T mass, loss;                               // sum t (-q f'(q)), sum t f(q)
};

template <class T>
struct class_position {
  T share, complement, minus_log;  // q, 1 - q, -log q
  T share_log;                     // -q log q
  T gate;                          // 0 where a clip stops the gradient, else 1
};

// q = softmax(x); entries are exp(x), all times one factor
template <class T>
struct softmax_row {
  static constexpr bool costly = true;
  FASTLOSS_HD explicit softmax_row(const double*) {}
  FASTLOSS_HD T key(T x) const { return x; }
  FASTLOSS_HD void start(class_stats<T>& s) const {
    s.exponential = math::relative_exponential<T>(s.peak);
  }
  FASTLOSS_HD T entry(T x, const class_stats<T>& s) const { return s.exponential(x); }
  FASTLOSS_HD void finish(T peak, T rest, class_stats<T>& s) const {
    s.rest = rest;
    s.total = peak + rest;
    s.inverse = 1 / s.total;
    s.beside_peak = rest / s.total;
    s.peak_minus_log = math::log1p(rest / peak);
  }
  FASTLOSS_HD class_position<T> at(T x, T e, const class_stats<T>& s) const {
    T share = e * s.inverse, minus_log = (s.peak - x) + s.peak_minus_log;
    return {share, x == s.peak ? s.beside_peak : 1 - share, minus_log,
            share == 0 ? T(0) : share * minus_log, T(1)};
  }
  FASTLOSS_HD T slope(T, T own, const class_position<T>& q, const class_stats<T>& s) const {
    T others = q.share * (s.mass - own);
    return own == 0 ? others : others - own * q.complement;
  }
};

// q = p / sum p
template <class T>
struct normalized_row {
  static constexpr bool costly = false;
  FASTLOSS_HD void start(class_stats<T>&) const {}
  FASTLOSS_HD void finish(T peak, T rest, class_stats<T>& s) const {
    s.rest = rest;
    s.total = peak + rest;
    s.inverse = 1 / s.total;
    s.beside_peak = rest / s.total;
    s.peak_minus_log = -math::log_of_share(share(peak, s), s.beside_peak);
  }
  FASTLOSS_HD T share(T e, const class_stats<T>& s) const { return math::max(e, T(0)) * s.inverse; }
  // Only the largest share may be so near to one that its logarithm has to come from the others.
  FASTLOSS_HD class_position<T> position(T e, const class_stats<T>& s) const {
    T q = share(e, s);
    bool is_peak = e == s.peak;
    T minus_log = is_peak ? s.peak_minus_log : -math::log_of_share(q);
    return {q, is_peak ? s.beside_peak : 1 - q, minus_log, q * minus_log, T(1)};
  }
  FASTLOSS_HD T slope(T e, T own, const class_stats<T>& s) const {
    T others = e == s.peak ? s.rest : s.total - e;
    return ((s.mass - own) - (own == 0 ? T(0) : own * (others / e))) * s.inverse;
  }
};

// q = p / sum p, then clipped to [epsilon, 1 - epsilon]
template <class T>
struct probability_row : normalized_row<T> {
  T low, high, least_log, most_log;
  FASTLOSS_HD explicit probability_row(const double* q)
      : low(T(q[0])),
        high(T(1) - T(q[0])),
        least_log(-math::log(high)),
        most_log(-math::log(low)) {}
  FASTLOSS_HD T key(T p) const { return p; }
  FASTLOSS_HD T entry(T p, const class_stats<T>&) const { return p; }
  FASTLOSS_HD class_position<T> at(T, T e, const class_stats<T>& s) const {
    class_position<T> q = normalized_row<T>::position(e, s);
    q.gate = q.share < low ? T(0) : (q.share > high ? T(0) : T(1));
    q.complement = math::clamp(q.complement, 1 - high, 1 - low);
    q.minus_log = math::clamp(q.minus_log, least_log, most_log);
    q.share_log = q.share * q.minus_log;
    return q;
  }
  FASTLOSS_HD T slope(T p, T own, const class_position<T>&, const class_stats<T>& s) const {
    return normalized_row<T>::slope(p, own, s);
  }
};

// p clipped to [epsilon, 1 - epsilon], then q = p / sum p
template <class T>
struct clipped_row : normalized_row<T> {
  T low, high;
  FASTLOSS_HD explicit clipped_row(const double* q) : low(T(q[0])), high(T(1) - T(q[0])) {}
  FASTLOSS_HD T key(T p) const { return math::clamp(p, low, high); }
  FASTLOSS_HD T entry(T p, const class_stats<T>&) const { return key(p); }
  FASTLOSS_HD class_position<T> at(T, T e, const class_stats<T>& s) const {
    return normalized_row<T>::position(e, s);
  }
  FASTLOSS_HD T slope(T p, T own, const class_position<T>&, const class_stats<T>& s) const {
    return p < low || p > high ? T(0) : normalized_row<T>::slope(p, own, s);
  }
};

template <class T>
struct class_term {
  T value, pull;  // f(q), -q f'(q)
};

// f = -log q
template <class T>
struct crossentropy_term {
  static constexpr bool costly = false;
  FASTLOSS_HD explicit crossentropy_term(const double*) {}
  FASTLOSS_HD class_term<T> operator()(const class_position<T>& q) const {
    return {q.minus_log, T(1)};
  }
};

// f = (1 - q)^gamma (-log q)
template <class T, class Power>
struct focal_term {
  static constexpr bool costly = true;
  Power power;
  FASTLOSS_HD explicit focal_term(const double* q) : power(q[0]) {}
  FASTLOSS_HD class_term<T> operator()(const class_position<T>& q) const {
    auto focal = power.of(q.complement);
    return {focal.times(q.minus_log), focal.slope(q.share_log, T(1), T(1))};
  }
};

template <class T, class Row, class Term>
struct class_loss : row_loss {
  static constexpr bool first_phase_is_max = true;
  static constexpr int phases = 3;
  static constexpr int terms_used[] = {1, 2, 2};
  static constexpr int target_phase = 2;
  static constexpr bool scales_with_target = true;
  // An entry, if it is costly; else what the own class adds to the mass, if that is.
  static constexpr int keeps = Row::costly ? 1 : Term::costly ? 2 : 0;
  using stats = class_stats<T>;
  Row row;
  Term term;
  FASTLOSS_HD class_loss(const double* row_parameters, const double* term_parameters)
      : row(row_parameters), term(term_parameters) {}

  FASTLOSS_HD T keep(T t, T p, const stats& s) const {
    if constexpr (keeps == 1)
      return row.entry(p, s);
    else
      return own(t, row.at(p, row.entry(p, s), s));
  }
  FASTLOSS_HD T own(T t, const class_position<T>& q) const {
    return t == 0 ? T(0) : t * q.gate * term(q).pull;
  }
  FASTLOSS_HD T entry(T p, T kept, const stats& s) const {
    return keeps == 1 ? kept : row.entry(p, s);
  }

  FASTLOSS_HD row_terms<T> terms(phase<0>, T, T p, T, const stats&) const { return {row.key(p)}; }
  FASTLOSS_HD void finish(phase<0>, const row_terms<T>& r, stats& s) const {
    s.peak = r.a;
    row.start(s);
  }

  FASTLOSS_HD row_terms<T> terms(phase<1>, T, T p, T kept, const stats& s) const {
    bool is_peak = row.key(p) == s.peak;
    return {is_peak ? T(0) : entry(p, kept, s), is_peak ? T(1) : T(0)};
  }
  FASTLOSS_HD void finish(phase<1>, const row_terms<T>& r, stats& s) const {
    T peak = row.entry(s.peak, s);
    row.finish(peak, r.a + peak * (r.b - 1), s);
  }

  FASTLOSS_HD row_terms<T> terms(phase<2>, T t, T p, T kept, const stats& s) const {
    class_position<T> q = row.at(p, entry(p, kept, s), s);
    return {keeps == 2 ? kept : own(t, q), t == 0 ? T(0) : t * term(q).value};
  }
  FASTLOSS_HD void finish(phase<2>, const row_terms<T>& r, stats& s) const {
    s.mass = r.a;
    s.loss = r.b;
  }

  template <int I>
  FASTLOSS_HD row_terms<T> terms(phase<I> i, T t, T p, const stats& s) const {
    return terms(i, t, p, keep(t, p, s), s);
  }
  FASTLOSS_HD gradient_terms<T> gradient(T t, T p, const stats& s) const {
    return gradient(t, p, keep(t, p, s), s);
  }

  FASTLOSS_HD T loss(const stats& s) const { return s.loss; }
  // The own class is kept apart from the sum over classes, so that the two cancel exactly when the
  // target is one-hot.
  FASTLOSS_HD gradient_terms<T> gradient(T t, T p, T kept, const stats& s) const {
    class_position<T> q = row.at(p, entry(p, kept, s), s);
    return {row.slope(p, keeps == 2 ? kept : own(t, q), q, s), term(q).value};
  }
};

// -sum t log q, from probabilities and from logits
template <class T>
struct categorical_crossentropy : class_loss<T, probability_row<T>, crossentropy_term<T>> {
  static constexpr auto name = "categorical_crossentropy";
  static constexpr names parameters{"epsilon"};
  FASTLOSS_HD explicit categorical_crossentropy(const double* q)
      : class_loss<T, probability_row<T>, crossentropy_term<T>>(q, q) {}
};
template <class T>
struct categorical_crossentropy_from_logits : class_loss<T, softmax_row<T>, crossentropy_term<T>> {
  static constexpr auto name = "categorical_crossentropy_from_logits";
  FASTLOSS_HD explicit categorical_crossentropy_from_logits(const double* q)
      : class_loss<T, softmax_row<T>, crossentropy_term<T>>(q, q) {}
};

// -log q_label: the same with a one-hot target, but clipped before it is normalized
template <class T>
struct sparse_categorical_crossentropy : class_loss<T, clipped_row<T>, crossentropy_term<T>> {
  static constexpr auto name = "sparse_categorical_crossentropy";
  static constexpr bool sparse = true;
  static constexpr names parameters{"epsilon"};
  FASTLOSS_HD explicit sparse_categorical_crossentropy(const double* q)
      : class_loss<T, clipped_row<T>, crossentropy_term<T>>(q, q) {}
};
template <class T>
struct sparse_categorical_crossentropy_from_logits : categorical_crossentropy_from_logits<T> {
  static constexpr auto name = "sparse_categorical_crossentropy_from_logits";
  static constexpr bool sparse = true;
  using categorical_crossentropy_from_logits<T>::categorical_crossentropy_from_logits;
};

// sum t (1 - q)^gamma (-log q); the alpha of Keras is a class weight and scales t
template <class T, class Power>
struct categorical_focal : class_loss<T, probability_row<T>, focal_term<T, Power>> {
  static constexpr auto name = "categorical_focal_crossentropy";
  static constexpr names parameters{"epsilon", "gamma"};
  FASTLOSS_HD explicit categorical_focal(const double* q)
      : class_loss<T, probability_row<T>, focal_term<T, Power>>(q, q + 1) {}
};
template <class T, class Power>
struct categorical_focal_from_logits : class_loss<T, softmax_row<T>, focal_term<T, Power>> {
  static constexpr auto name = "categorical_focal_crossentropy_from_logits";
  static constexpr names parameters{"gamma"};
  FASTLOSS_HD explicit categorical_focal_from_logits(const double* q)
      : class_loss<T, softmax_row<T>, focal_term<T, Power>>(q, q) {}
};
template <class T>
struct categorical_focal_crossentropy : categorical_focal<T, any_power<T>> {
  using categorical_focal<T, any_power<T>>::categorical_focal;
  using variant = categorical_focal<T, square<T>>;
  static bool has_variant_for(const double* q) { return q[1] == 2; }
};
template <class T>
struct categorical_focal_crossentropy_from_logits : categorical_focal_from_logits<T, any_power<T>> {
  using categorical_focal_from_logits<T, any_power<T>>::categorical_focal_from_logits;
  using variant = categorical_focal_from_logits<T, square<T>>;
  static bool has_variant_for(const double* q) { return q[0] == 2; }
};

// ---- Others ----

// (1 - p_label^q) / q; below epsilon the slope stays at epsilon^(q-1)
template <class T>
struct categorical_generalized_cross_entropy : row_loss {
  static constexpr auto name = "categorical_generalized_cross_entropy";
  static constexpr names parameters{"epsilon", "q"};
  static constexpr bool sparse = true;
  static constexpr int phases = 1;
  static constexpr int terms_used[] = {1};
  static constexpr int target_phase = 0;
  static constexpr bool scales_with_target = true;
  struct stats {
    T loss;
  };
  T epsilon, q;
  FASTLOSS_HD explicit categorical_generalized_cross_entropy(const double* params)
      : epsilon(T(params[0])), q(T(params[1])) {}
  FASTLOSS_HD row_terms<T> terms(phase<0>, T t, T p, const stats&) const {
    return {t == 0 ? T(0) : t * (p == 0 ? T(1) : -math::expm1(q * math::log(p))) / q};
  }
  FASTLOSS_HD void finish(phase<0>, const row_terms<T>& r, stats& s) const { s.loss = r.a; }
  FASTLOSS_HD T loss(const stats& s) const { return s.loss; }
  FASTLOSS_HD gradient_terms<T> gradient(T t, T p, const stats&) const {
    return {t == 0 ? T(0) : -t * math::pow(math::max(p, epsilon), q - 1), T(0)};
  }
};

// max(max((1 - t) p) - sum t p + 1, 0); a tie of the maximum shares its gradient
template <class T>
struct categorical_hinge : row_loss {
  static constexpr auto name = "categorical_hinge";
  static constexpr bool first_phase_is_max = true;
  static constexpr int phases = 2;
  static constexpr int terms_used[] = {1, 2};
  struct stats {
    T negative, positive, ties;
  };
  FASTLOSS_HD explicit categorical_hinge(const double*) {}
  FASTLOSS_HD row_terms<T> terms(phase<0>, T t, T p, const stats&) const { return {(1 - t) * p}; }
  FASTLOSS_HD void finish(phase<0>, const row_terms<T>& r, stats& s) const { s.negative = r.a; }
  FASTLOSS_HD row_terms<T> terms(phase<1>, T t, T p, const stats& s) const {
    return {t * p, (1 - t) * p == s.negative ? T(1) : T(0)};
  }
  FASTLOSS_HD void finish(phase<1>, const row_terms<T>& r, stats& s) const {
    s.positive = r.a;
    s.ties = r.b;
  }
  FASTLOSS_HD T margin(const stats& s) const { return s.negative - s.positive + 1; }
  FASTLOSS_HD T loss(const stats& s) const { return math::max(margin(s), T(0)); }
  FASTLOSS_HD gradient_terms<T> gradient(T t, T p, const stats& s) const {
    bool flat = margin(s) < 0;
    T chosen = (1 - t) * p == s.negative ? 1 / s.ties : T(0);
    return {flat ? T(0) : chosen * (1 - t) - t, flat ? T(0) : -chosen * p - p};
  }
};

// -sum n(t) n(p), n(x) = x min(1 / |x|, 1 / epsilon). Vectors are divided by their largest entry
// before they are squared, so that no square over- or underflows.
template <class T>
struct cosine_similarity : row_loss {
  static constexpr auto name = "cosine_similarity";
  static constexpr names parameters{"epsilon"};
  static constexpr bool first_phase_is_max = true;
  static constexpr int phases = 2;
  static constexpr int terms_used[] = {2, 3};
  struct stats {
    T true_scale, pred_scale;  // 1 / (largest entry), then min(1 / |x|, 1 / epsilon)
    T cosine, along_true, along_pred;
  };
  T epsilon;
  FASTLOSS_HD explicit cosine_similarity(const double* q) : epsilon(T(q[0])) {}
  FASTLOSS_HD row_terms<T> terms(phase<0>, T t, T p, const stats&) const {
    return {math::abs(t), math::abs(p)};
  }
  FASTLOSS_HD void finish(phase<0>, const row_terms<T>& r, stats& s) const {
    constexpr T least = 1 / std::numeric_limits<T>::max() * 4;
    s.true_scale = 1 / math::max(r.a, least);
    s.pred_scale = 1 / math::max(r.b, least);
  }
  FASTLOSS_HD row_terms<T> terms(phase<1>, T t, T p, const stats& s) const {
    T t1 = t * s.true_scale, p1 = p * s.pred_scale;
    return {t1 * t1, p1 * p1, t1 * p1};
  }
  FASTLOSS_HD void finish(phase<1>, const row_terms<T>& r, stats& s) const {
    // In double, because each slope of the row inherits the errors of these. The norms are those of
    // the divided vectors.
    double t_norm = math::sqrt(double(r.a)), p_norm = math::sqrt(double(r.b));
    double t_least = double(epsilon) * s.true_scale, p_least = double(epsilon) * s.pred_scale;
    bool t_short = t_norm < t_least, p_short = p_norm < p_least;
    double t_unit = 1 / (t_short ? t_least : t_norm), p_unit = 1 / (p_short ? p_least : p_norm);
    double cosine = r.c * t_unit * p_unit;
    // A vector shorter than epsilon is scaled by a constant: nothing of it is projected out.
    double along_true = t_short ? 0 : cosine, along_pred = p_short ? 0 : cosine;
    s = {T(s.true_scale * t_unit), T(s.pred_scale * p_unit), T(cosine), T(along_true),
         T(along_pred)};
  }
  FASTLOSS_HD T loss(const stats& s) const { return -s.cosine; }
  FASTLOSS_HD gradient_terms<T> gradient(T t, T p, const stats& s) const {
    T t_unit = t * s.true_scale, p_unit = p * s.pred_scale;
    return {(p_unit * s.along_pred - t_unit) * s.pred_scale,
            (t_unit * s.along_true - p_unit) * s.true_scale};
  }
};

}  // namespace fastloss
