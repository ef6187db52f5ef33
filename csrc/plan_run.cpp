// Runs a call of a plan on the CPU. Apart from plan.cpp, whose rules other devices share.
#include <charconv>

#include "cpu/view.h"
#include "plan.h"

namespace fastloss {
namespace {

using std::int64_t;

// The shortest decimals that read back as the number.
template <class T>
std::string decimals(T x) {
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, x).ptr;
  return {buffer, end};
}

}  // namespace

double fitted::run() {
  request_.threads = num_threads();
  try {
    return fastloss::run(request_);
  } catch (const label_error& e) {
    explain(e);
  }
}

void fitted::check_labels() const {
  if (!plan_.info().sparse) return;
  try {
    fastloss::check_labels(request_);
  } catch (const label_error& e) {
    explain(e);
  }
}

// "y_true[3, 1]: <rule>, got <label>"
void fitted::explain(const label_error& e) const {
  shape index(y_true_.sizes.size());
  int64_t rest = e.row;
  array one = y_true_;
  for (std::size_t d = index.size(); d-- > 0; rest /= y_true_.sizes[d]) {
    index[d] = rest % y_true_.sizes[d];
    one.data += index[d] * y_true_.strides[d];
  }
  one.sizes.clear();
  one.strides.clear();
  const view label = on_rows(one);
  std::string got;
  if (one.type == dtype::f64) {
    double scratch;
    got = decimals(*cpu::load(label, 0, 1, &scratch));
  } else if (one.type >= dtype::f16) {
    float scratch;
    got = decimals(*cpu::load(label, 0, 1, &scratch));
  } else if (one.type == dtype::u64) {
    got = std::to_string(*reinterpret_cast<const std::uint64_t*>(one.data));
  } else {
    int64_t scratch;
    got = std::to_string(*cpu::load(label, 0, 1, &scratch));
  }
  std::string where;
  for (int64_t i : index) where += (where.empty() ? "" : ", ") + std::to_string(i);
  throw argument_error("y_true" + (index.empty() ? "" : "[" + where + "]") + ": " + e.what() +
                       ", got " + got);
}

double fitted_sum::run() {
  if (calls_.size() == 1 && sum_[0].coefficient == 1) return calls_[0].run();
  std::vector<request> requests;
  std::vector<double> coefficients;
  for (std::size_t k = 0; k < calls_.size(); ++k) {
    requests.push_back(calls_[k].request_);
    requests.back().threads = num_threads();
    coefficients.push_back(sum_[k].coefficient);
  }
  if (!runs_as_sum(requests)) return run_by_terms();
  try {
    return run_sum(requests, coefficients);
  } catch (const label_error& e) {
    calls_[0].explain(e);  // every term has the same labels
  }
}

namespace {

// What terms are added up in before it is rounded to what `to` stores, if there is such an array.
class total {
 public:
  explicit total(const std::optional<array>& to) : to_(to) {
    if (!to) return;
    int64_t n = 1;
    for (int64_t size : to->sizes) n *= size;
    sum_.resize(n);
    term_.resize(n);
  }
  // Where the next term is to be written.
  array term() { return contiguous(term_.data(), dtype::f64, to_->sizes); }
  void add(double coefficient) {
    if (coefficient == 0) return;
    for (std::size_t i = 0; i < sum_.size(); ++i) sum_[i] += coefficient * term_[i];
  }
  void finish() const {
    if (!to_) return;
    view out{to_->data, to_->type, {}};
    for (std::size_t d = 0; d < to_->sizes.size(); ++d)
      out.axes.push_back({to_->sizes[d], to_->strides[d]});
    cpu::store(cpu::coalesced(out), 0, static_cast<int64_t>(sum_.size()), sum_.data());
  }

 private:
  const std::optional<array>& to_;
  std::vector<double> sum_, term_;
};

}  // namespace

// For terms that see the elements in different orders. Nothing is written before all have run,
// because an output may lie over an input.
double fitted_sum::run_by_terms() {
  total values(values_), grad_pred(grad_pred_), grad_true(grad_true_);
  double sum = 0;
  for (std::size_t k = 0; k < calls_.size(); ++k) {
    fitted& call = calls_[k];
    const double by = sum_[k].coefficient;
    if (values_) call.values(values.term());
    if (call.request_.grad_pred) call.grad_pred(grad_pred.term());
    const bool has_grad_true = call.request_.grad_true.has_value();
    if (has_grad_true) call.grad_true(grad_true.term());
    const double value = call.run();
    if (by != 0) sum += by * value;
    if (values_) values.add(by);
    if (grad_pred_) grad_pred.add(by);
    if (has_grad_true) grad_true.add(by);
  }
  values.finish();
  grad_pred.finish();
  grad_true.finish();
  return sum;
}

}  // namespace fastloss
