// The one list of losses. Its order is private to a build; losses are found by name. And the pairs
// of losses whose sums are compiled as one loop.
#pragma once

#include <type_traits>

#include "losses/map.h"
#include "losses/pairwise.h"
#include "losses/penalty.h"
#include "losses/region.h"
#include "losses/row.h"

namespace fastloss {

template <template <class> class... Loss>
struct loss_list {
  static constexpr int size = sizeof...(Loss);
};

// The place of a loss in a list.
template <template <class> class Wanted, template <class> class... Loss>
constexpr int index_of(loss_list<Loss...>) {
  int index = 0;
  (void)((std::is_same_v<Wanted<float>, Loss<float>> || (++index, false)) || ...);
  return index;
}

template <template <class> class First, template <class> class Second>
struct loss_pair {};
template <class... Pair>
struct pair_list {
  static constexpr int size = sizeof...(Pair);
};

using all_losses = loss_list<
    // map
    mean_squared_error, mean_absolute_error, mean_absolute_percentage_error,
    mean_squared_logarithmic_error, huber, log_cosh, hinge, squared_hinge, kl_divergence, poisson,
    binary_crossentropy, binary_crossentropy_from_logits, binary_focal_crossentropy,
    binary_focal_crossentropy_from_logits, mean_square, mean_absolute,
    // row
    categorical_crossentropy, categorical_crossentropy_from_logits, sparse_categorical_crossentropy,
    sparse_categorical_crossentropy_from_logits, categorical_focal_crossentropy,
    categorical_focal_crossentropy_from_logits, categorical_generalized_cross_entropy,
    categorical_hinge, cosine_similarity, confidence_penalty, confidence_penalty_from_logits,
    z_loss,
    // region
    dice, iou, tversky,
    // pairwise
    circle>;

// Losses that take so little to compute that to read the numbers twice takes as long.
using fused_pairs =
    pair_list<loss_pair<mean_squared_error, mean_absolute_error>,
              loss_pair<mean_squared_error, huber>, loss_pair<mean_squared_error, mean_square>,
              loss_pair<mean_squared_error, mean_absolute>, loss_pair<mean_absolute_error, huber>,
              loss_pair<mean_absolute_error, mean_square>,
              loss_pair<mean_absolute_error, mean_absolute>, loss_pair<huber, mean_square>,
              loss_pair<huber, mean_absolute>, loss_pair<mean_square, mean_absolute>>;

}  // namespace fastloss
