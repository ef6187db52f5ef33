// A call as an operation of a graph: arrays in, arrays out, and everything else in one line of
// text, which the graph keeps. What TensorFlow's op and XLA's handler have in common.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "plan.h"

namespace fastloss {

// An array without gaps, as a framework describes it.
struct operand {
  char* data;
  dtype type;
  const std::int64_t* sizes;
  std::size_t rank;
};

array as_array(const operand& o);

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

  // The same, where the places of all arrays are known: inputs, then outputs. How the arrays fit
  // is kept for the next call with the same shapes and types: of a small call this is most of the
  // work, and the code that it takes would push that of the framework out of the caches.
  void run_again(const std::vector<operand>& arrays, const get_output& output) const;

  // Throws what `run` would for inputs of these shapes and types; looks at no element.
  void check(const std::vector<array>& inputs) const;

  std::size_t input_count() const { return inputs_.size(); }
  std::size_t output_count() const { return outputs_.size(); }

  // For whoever runs the call on another device than the CPU, where it may be a single loss without
  // a weight of its own. Nothing of an array is read. Without a plan it is CTC.
  const plan* loss_plan() const;
  bool reduces() const { return reduce_ != reduction::none; }
  const array* find(const std::vector<array>& inputs, const char* name) const;
  // The plan on these inputs, without `upstream`.
  fitted fit(const std::vector<array>& inputs) const;
  // Gives the call, fitted or fitted_sum, its outputs, unreduced values included; returns where the
  // value goes, if it is wanted.
  template <class Call>
  std::optional<array> place_outputs(Call& call, const std::vector<array>& inputs,
                                     const get_output& output) const;
  // The same for CTC; `upstream` is nothing, or has a number per sample.
  ctc_request fit_ctc(const std::vector<array>& inputs) const;
  const array* ctc_upstream(const std::vector<array>& inputs) const;
  void place_outputs(ctc_request& r, const std::vector<array>& inputs,
                     const get_output& output) const;

 private:
  void expect_count(const std::vector<array>& inputs) const;
  template <class Call>
  void fit_factors(Call& call, const std::vector<array>& inputs) const;
  fitted_sum fit_sum(const std::vector<array>& inputs) const;
  void run_plan(const std::vector<array>& inputs, const get_output& output) const;
  void run_ctc(const std::vector<array>& inputs, const get_output& output) const;

  // A call of `run_again`.
  struct kept_call {
    std::vector<array> arrays;
    fitted call;
    std::optional<view> value;  // if it is reduced and wanted

    bool fits(const std::vector<operand>& others) const;
  };
  bool can_be_kept() const;
  std::unique_ptr<kept_call> fit_and_keep(const std::vector<operand>& arrays,
                                          const get_output& output) const;

  // The last call, unless another thread is at it.
  class last_call {
   public:
    last_call() = default;
    ~last_call() { take(); }
    std::unique_ptr<kept_call> take() {
      return std::unique_ptr<kept_call>(kept_.exchange(nullptr));
    }
    void keep(std::unique_ptr<kept_call> call) { delete kept_.exchange(call.release()); }

   private:
    std::atomic<kept_call*> kept_{nullptr};
  };

  reduction reduce_ = reduction::none;
  std::vector<std::string> inputs_, outputs_;
  std::vector<char* addresses::*> places_;  // of inputs and outputs, or null
  std::vector<weighted_plan> sum_;          // without a term, CTC
  std::int64_t blank_ = 0;
  mutable last_call last_;
};

// out = grad * upstream, where upstream is a scalar, or shaped as grad without `axes`. Zero
// upstream gives zero. `out` may be `grad` itself.
void scale_gradient(const array& grad, const array& upstream, const axis_list& axes,
                    const array& out);

}  // namespace fastloss
