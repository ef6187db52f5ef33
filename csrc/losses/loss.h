// What a formula looks like.
//
// A formula is a small functor on scalars of the compute type T (float or double). It knows nothing
// of threads, storage or frameworks. Its static members tell the drivers and the Python registry
// what it is; its constructor takes the values of `parameters`, in that order.
//
//   map   operator()(t, p) -> map_terms         one element; the driver averages (or sums) rows
//   row   phases of reductions over a row, then loss(stats) and gradient(t, p, stats)
//
// A region loss (Dice, IoU, Tversky) is a row loss whose row spans several axes.
// A pairwise loss is a row loss over what one sample has in common with every other.
// A row loss may say that its phases before `target_phase` do not look at the target, and that in
// the others elements whose target is zero add nothing. A sparse loss, whose target is the one-hot
// row of an integer label, has to.
//
// A loss that sets `uses_target` to false looks at p alone; what it is given as t is p.
//
// A row loss that sets `keeps` to a phase after the first has keep(t, p, stats), which is computed
// once per element, in that phase, and handed to terms and gradient after p from then on: what is
// too expensive to be computed twice. It is zero where an element adds nothing to that phase. The
// gradient of a sparse loss needs nothing else of the classes that are not the label.
//
// A loss with a `variant` has a cheaper functor, with the same parameters, for those that
// `has_variant_for` accepts, and that may have one, too. It is chosen once per call, because a
// choice inside a loop would compute both.
//
// A map loss with `of_labels` has a cheaper functor, with the same parameters, for targets that are
// all 0 or 1, which names itself there. It is chosen where a block of them is, and has no d_true.
#pragma once

#include <cstddef>

#include "core/config.h"

namespace fastloss {

enum class kind { map, row, region, pairwise };

template <std::size_t N>
struct names {
  const char* values[N];
};
template <class... S>
names(S...) -> names<sizeof...(S)>;

struct no_names {};

template <class T>
struct map_terms {
  T loss, d_pred, d_true;
};

template <class T>
struct gradient_terms {
  T d_pred, d_true;
};

// The numbers a row phase reduces, each by `+` (or a and b by `max`, in phase 0 of a functor that
// sets `first_phase_is_max`). The functor's `terms_used` says how many of them each phase reduces.
template <class T>
struct row_terms {
  T a{}, b{}, c{};
};

template <int I>
struct phase {};

struct any_loss {
  static constexpr no_names parameters{};
  using variant = void;
  using of_labels = void;
  static constexpr bool sparse = false;       // integer labels
  static constexpr bool label_signs = false;  // labels {0, 1} stand for {-1, 1}
  static constexpr bool uses_target = true;   // otherwise a formula of y_pred alone
};

struct map_loss : any_loss {
  static constexpr kind loss_kind = kind::map;
  static constexpr bool averages = true;  // over a row; otherwise it sums
};

struct row_loss : any_loss {
  static constexpr kind loss_kind = kind::row;
  static constexpr bool averages = false;
  static constexpr bool first_phase_is_max = false;
  static constexpr int keeps = 0;
  static constexpr bool scales_with_target = false;  // the loss of a row, whatever y_pred
  static constexpr int target_phase = 3;             // none
};

struct region_loss : row_loss {
  static constexpr kind loss_kind = kind::region;
  static constexpr int phases = 1;
};

struct pairwise_loss : row_loss {
  static constexpr kind loss_kind = kind::pairwise;
};

}  // namespace fastloss
