// A request as the kernels get it, by value: views of device memory, and where to put partial sums.
#pragma once

#include <cstddef>
#include <cstdint>

#include "api.h"
#include "core/config.h"

namespace fastloss::cuda {

using std::int64_t;

inline constexpr int packet = 8;  // elements that one thread moves at once
inline constexpr int max_rank = 8;
inline constexpr std::size_t stats_bytes = 128;  // room for those of a row

// A coalesced view, by value, as an argument of a kernel. Without data there is none.
struct device_view {
  char* data = nullptr;
  dtype type = dtype::f32;
  int floating_bytes = 0;  // of an element; 0 if its type is no floating one
  int rank = 0;
  int64_t size[max_rank] = {}, stride[max_rank] = {};
};

struct factor_view {
  device_view values;
  bool per_element = false;
};

// The start of the workspace. Zero when a call begins that has launches of several blocks.
struct progress {
  static constexpr int launches = 8;
  unsigned done[launches];    // blocks that are through, per launch of the call
  unsigned has_other_labels;  // than 0 and 1
};

struct arguments {
  int64_t rows, cols;
  device_view y_pred, y_true, class_weight, upstream_by_row, values, grad_pred, grad_true;
  factor_view weight, mask;
  double target_scale, target_shift;
  bool has_ignored_class, labels_may_be_binary, reduces;
  int64_t ignored_class;
  double upstream;  // of the gradients
  double mean;      // of the losses of a row: what their sum is multiplied by
  double count;     // what their sum is divided by, unless it is in `divisor`; 0 gives 0

  progress* state;
  double* divisor;  // null if it is `count`
  double* partial;
  void* stats;  // of rows that several blocks share
};

inline constexpr int ctc_pads = 2;  // impossible states in front of a row of states

// CTC: the rows of `arguments` are samples, their columns frames of classes, and y_true is a row of
// labels per sample.
struct ctc_arguments {
  int64_t frames, classes, max_labels, blank;
  device_view label_length, logit_length;  // without data: all that is not blank, all frames
  int64_t kept_rows;                       // of states: one per frame and one more, or two
  char* workspace;
  int64_t bytes_per_block;

  FASTLOSS_HD int64_t most_states() const { return 2 * max_labels + 1; }
  FASTLOSS_HD int64_t row_length() const { return most_states() + ctc_pads; }
};

// How a launch is cut. The work is `segments` of `length` elements, each in `parts` of
// `part_length`; `team` threads do a part, which are those of a cluster of blocks if they are more
// than a block's.
struct geometry {
  int64_t blocks;
  int threads, team;
  int64_t segments, length, parts, part_length;
  int launch = 0;  // of the call
  int memory = 0;  // bytes of each block's own
};

}  // namespace fastloss::cuda
