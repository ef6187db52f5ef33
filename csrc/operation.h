// A call as an operation of a graph: arrays in, arrays out, and everything else in one line of
// text, which the graph keeps. What TensorFlow's op and XLA's handler have in common.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "plan.h"

namespace fastloss {

// The line is "<reduction> <inputs> <outputs> <sum>", for example
//   mean y_true,y_pred,sample_weight value,grad_pred huber parameters=0x1p+0 axes=-1
// with a sum of plans as `to_text` writes it, or "ctc blank=0". Inputs are y_true, y_pred,
// sample_weight, mask and upstream, weight0, weight1 and so on for the own weights of the terms,
// for CTC also label_length and logit_length; outputs are value, grad_pred, grad_true.
class operation {
 public:
  explicit operation(const std::string& line);

  // Asks `output(i, shape)` for where to write output i, and computes. Throws argument_error.
  using get_output = std::function<array(std::size_t i, const shape& sizes)>;
  void run(const std::vector<array>& inputs, const get_output& output) const;

  // Throws what `run` would for inputs of these shapes and types; looks at no element.
  void check(const std::vector<array>& inputs) const;

  std::size_t input_count() const { return inputs_.size(); }
  std::size_t output_count() const { return outputs_.size(); }

 private:
  const array* find(const std::vector<array>& inputs, const char* name) const;
  void expect_count(const std::vector<array>& inputs) const;
  fitted_sum fit(const std::vector<array>& inputs) const;
  void run_plan(const std::vector<array>& inputs, const get_output& output) const;
  ctc_request fit_ctc(const std::vector<array>& inputs) const;
  void run_ctc(const std::vector<array>& inputs, const get_output& output) const;

  reduction reduce_ = reduction::none;
  std::vector<std::string> inputs_, outputs_;
  std::vector<weighted_plan> sum_;  // without a term, CTC
  std::int64_t blank_ = 0;
};

// out = grad * upstream, where upstream is a scalar, or shaped as grad without `axes`. Zero
// upstream gives zero. `out` may be `grad` itself.
void scale_gradient(const array& grad, const array& upstream, const std::vector<int>& axes,
                    const array& out);

}  // namespace fastloss
