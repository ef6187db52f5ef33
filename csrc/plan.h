// A loss with its options, and how the arrays of a call fit it: the rules that every front end
// shares, and the words for what does not fit.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "api.h"

namespace fastloss {

using shape = small_vector<std::int64_t>;
using axis_list = small_vector<int>;

std::string text(const shape& s);  // "(3, 4)"

// An array of a front end, which keeps it alive. Strides are in bytes.
struct array {
  char* data = nullptr;
  dtype type = dtype::f32;
  shape sizes, strides;
};

// An array without gaps, the last axis fastest.
array contiguous(void* data, dtype type, shape sizes);

view as_view(const array& a);

// An argument that does not fit; the message names it.
struct argument_error : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// All that a call does not change.
struct plan {
  int loss = -1;                   // index into losses()
  std::vector<double> parameters;  // as losses()[loss].parameters names them
  std::optional<axis_list> axes;   // of one loss value, counted from the end if negative; without a
                                   // value, all
  double label_smoothing = 0;
  std::vector<double> class_weight;  // of row losses: none, one for all, or one per class
  std::string class_weight_name = "class_weight";  // what the user calls them
  std::optional<std::int64_t> ignore_class;
  bool weight_is_per_class = false;  // so that a single one is not for all

  const loss_info& info() const { return losses()[loss]; }
  // The axes as indices from 0, in order, for y_pred with that many.
  axis_list axes_of(int rank) const;
};

// A term of a sum of losses.
struct weighted_plan {
  double coefficient;
  plan loss;
};

// The plan as one line, and back: what can be kept in a graph and sent to another process.
std::string to_text(const plan& p);
plan plan_from_text(const std::string& line);
// A sum: "<coefficient> <plan> + <coefficient> <plan>"; without a coefficient a single plan.
std::string to_text(const std::vector<weighted_plan>& sum);
std::vector<weighted_plan> sum_from_text(const std::string& line);

// Where the arrays of a call are.
struct addresses {
  char *y_true = nullptr, *y_pred = nullptr, *sample_weight = nullptr, *mask = nullptr;
  char *values = nullptr, *grad_pred = nullptr, *grad_true = nullptr;
};

// A call of a plan, built up argument by argument; each is checked when it comes. Arrays must live
// until `run` returns.
class fitted {
 public:
  fitted(const plan& p, const array& y_true, const array& y_pred);

  // The shape of unreduced values: that of y_pred without the axes of the loss.
  const shape& value_shape() const { return rows_; }
  std::int64_t value_count() const { return request_.rows; }
  // That of y_pred, its rank adjusted.
  const shape& grid_shape() const { return grid_; }
  std::int64_t element_count() const { return request_.rows * request_.cols; }
  std::int64_t class_count() const { return grid_[col_dims_.front()]; }
  std::string one_class_warning() const;  // for losses that make no sense with a single class
  dtype compute_type() const { return request_.compute; }  // of unreduced values

  void sample_weight(const array& w);
  void own_weight(const array& w);  // of the loss itself
  void mask(const array& m);        // of booleans
  void upstream(double u) { request_.upstream = u; }
  void upstream(const array& u);  // a scalar, or with reduction::none one per value
  void reduce(reduction how) { request_.reduce = how; }

  // Outputs. Gradients are shaped as what they belong to, and may share its memory.
  void values(const array& a);
  void grad_pred(const array& a);
  void grad_true(const array& a);

  // Makes it the same call of other arrays, of the same shapes, strides and types. Of the factors
  // there may be a sample weight and a mask.
  void move_to(const addresses& at);

  // Computes on the CPU; returns the reduced value (0 with reduction::none).
  double run();
  // Throws what `run` would for a label that is none. y_pred and outputs need not be there.
  void check_labels() const;

  // For arrays in the memory of a device, where nothing may be read before the device does: a
  // scalar upstream becomes an array, and class weights are given by a copy of the plan's.
  void upstream_on_device(const array& u);
  void class_weight_on_device(void* copy) {
    if (request_.class_weight) request_.class_weight->data = static_cast<char*>(copy);
  }
  const request& as_request() const { return request_; }

 private:
  // The one adjustment of shapes: Keras's, where ranks differ by one.
  enum class rank_rule { as_is, add_last, drop_last };
  static array adjusted(array a, rank_rule rule);
  void fit_target(array& y_true, array& y_pred);
  void fit_labels(array& y_true, const array& y_pred) const;
  void transform_targets();
  view on_grid(const array& a) const;
  view on_grid(const array& a, rank_rule rule) const;
  view on_rows(const array& a) const;
  factor fit_weight(const array& w, const char* argument) const;
  [[noreturn]] void explain(const label_error& e) const;

  friend class fitted_sum;
  const plan& plan_;
  array y_true_;  // as given, for messages
  axis_list row_dims_, col_dims_;
  shape grid_, rows_;
  rank_rule true_rule_ = rank_rule::as_is, pred_rule_ = rank_rule::as_is;
  request request_;
};

// A call of a sum of plans, built up as that of one. With a single term of coefficient 1 it is that
// call.
class fitted_sum {
 public:
  fitted_sum(const std::vector<weighted_plan>& sum, const array& y_true, const array& y_pred);

  const shape& value_shape() const { return calls_[0].value_shape(); }
  std::int64_t value_count() const { return calls_[0].value_count(); }
  std::int64_t element_count() const { return calls_[0].element_count(); }
  dtype compute_type() const { return calls_[0].compute_type(); }
  const std::vector<fitted>& terms() const { return calls_; }

  void sample_weight(const array& w);
  // One for each term, or none.
  void own_weights(const std::vector<std::optional<array>>& w);
  void mask(const array& m);
  void upstream(double u);
  void upstream(const array& u);
  void reduce(reduction how);

  void values(const array& a);
  void grad_pred(const array& a);
  void grad_true(const array& a);

  double run();

 private:
  double run_by_terms();

  const std::vector<weighted_plan>& sum_;
  std::vector<fitted> calls_;
  std::optional<array> values_, grad_pred_, grad_true_;
};

}  // namespace fastloss
