// The one list of losses. Its order is private to a build; losses are found by name.
#pragma once

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

}  // namespace fastloss
