// The plain C++ entry: which loss, on which arrays, reduced how, written where.
//
// The grid of a call is y_pred seen as rows x cols: the axes of one loss value are the columns, all
// other axes the rows. Every array of a request lives either on that grid or on its rows.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/small_vector.h"

namespace fastloss {

enum class dtype { boolean, i8, u8, i16, u16, i32, u32, i64, u64, f16, bf16, f32, f64 };

// One axis of a strided array; the stride is in bytes and may be zero or negative.
struct axis {
  std::int64_t size, stride;
};

// A strided array as a sequence: element e is found by counting through `axes`, the last fastest.
struct view {
  char* data = nullptr;
  dtype type = dtype::f32;
  small_vector<axis> axes;
};

// A factor of the loss values: a sample weight or a mask.
struct factor {
  view values;
  bool per_element;  // on the grid; otherwise on its rows
};

enum class reduction { none, sum, mean, mean_with_sample_weight };

struct request {
  int loss = -1;                   // index into losses()
  std::vector<double> parameters;  // as losses()[loss].parameters names them
  std::int64_t rows = 0, cols = 0;
  // How many neighbouring rows lie side by side in y_pred: the axes after the last of the columns.
  std::int64_t inner_rows = 1;
  dtype compute = dtype::f32;  // f32 or f64: what losses are computed and values returned in

  view y_pred;                                // grid
  view y_true;                                // grid; for sparse losses the labels, on the rows
  double target_scale = 1, target_shift = 0;  // t is replaced by target_scale * t + target_shift
  std::optional<view> class_weight;           // on the columns; t is then multiplied by it
  std::optional<std::int64_t> ignore_class;   // rows with this label do not count

  std::optional<factor> sample_weight, mask;
  std::optional<factor> own_weight;  // the loss's own, beside that of the call
  reduction reduce = reduction::none;
  bool scalar_value = false;  // the loss has a single value, which every reduction leaves as it is
  double upstream = 1;        // multiplies the gradients
  std::optional<view> row_upstream;  // likewise, per row

  std::optional<view> values;                // rows; written when nothing is reduced
  std::optional<view> grad_pred, grad_true;  // grid
  int threads = 1;
};

// A label that is none; `row` is its position among the rows, what() the rule that it breaks.
struct label_error : std::runtime_error {
  label_error(std::int64_t row, const std::string& rule) : std::runtime_error(rule), row(row) {}
  std::int64_t row;
};

struct loss_info {
  std::string name, kind;
  bool sparse;
  bool uses_target;  // otherwise y_true is that of y_pred: nothing of the given one is looked at
  std::vector<std::string> parameters;
};

// The losses of this build, in the order of their indices.
const std::vector<loss_info>& losses();

// Computes the request and returns the reduced value (0 with reduction::none). The caller has
// checked every shape; labels are checked here, before anything is written.
double run(const request& r);

// A sum of losses of the same y_pred, each times its coefficient: one value, one gradient, and what
// the terms read and write passes through the cache once. The terms have the reduction, the factors
// and the outputs in common; `upstream` multiplies the sum.
double run_sum(const std::vector<request>& terms, const std::vector<double>& coefficients);

// Whether the terms see the elements in the same order, without which run_sum cannot do them.
bool runs_as_sum(const std::vector<request>& terms);

// Throws label_error for the first row whose label is none, of a sparse loss. Rows that are ignored
// or have no weight may hold any label. Looks at labels and factors alone.
void check_labels(const request& r);

// Connectionist temporal classification of `batch` samples, of at most max_frames frames and
// max_labels labels.
struct ctc_request {
  std::int64_t batch = 0, max_frames = 0, classes = 0, max_labels = 0;
  std::int64_t blank = 0;  // in [0, classes)
  dtype compute = dtype::f32;
  view y_pred;                                 // batch x max_frames x classes
  const std::int64_t* labels = nullptr;        // batch x max_labels
  const std::int64_t* label_length = nullptr;  // batch, as are the following
  const std::int64_t* logit_length = nullptr;
  const double* weight = nullptr;  // multiplies the loss; zero hides a sample
  const double* slope = nullptr;   // multiplies the gradient
  view values;
  std::optional<view> grad;  // as y_pred
  int threads = 1;
};

// Computes the request. Lengths and labels are checked here, before anything is written.
void run_ctc(const ctc_request& r);

// Throws std::invalid_argument for a length or a label out of range, naming the argument and the
// position; samples of weight zero may hold any label. Looks at these arrays alone.
void check_ctc(const ctc_request& r);

// The instruction set that the kernels run on, chosen once; environment FASTLOSS_ISA forces one.
const char* instruction_set();

// Those that this processor can be forced to, from the least to the most demanding.
std::vector<std::string> instruction_sets();

// How many threads a call may use: what was set, else environment FASTLOSS_NUM_THREADS, else what
// OpenMP says now; no more where its number has been lowered since this library was loaded.
int num_threads();
void set_num_threads(int n);

}  // namespace fastloss
