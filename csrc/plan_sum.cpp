// A call of a sum of plans.
#include <algorithm>

#include "plan.h"

namespace fastloss {

fitted_sum::fitted_sum(const std::vector<weighted_plan>& sum, const array& y_true,
                       const array& y_pred)
    : sum_(sum) {
  calls_.reserve(sum.size());
  for (const weighted_plan& term : sum) calls_.emplace_back(term.loss, y_true, y_pred);
}

void fitted_sum::sample_weight(const array& w) {
  for (fitted& call : calls_) call.sample_weight(w);
}
void fitted_sum::own_weights(const std::vector<std::optional<array>>& w) {
  for (std::size_t k = 0; k < w.size(); ++k)
    if (w[k]) calls_[k].own_weight(*w[k]);
}
void fitted_sum::mask(const array& m) {
  for (fitted& call : calls_) call.mask(m);
}
void fitted_sum::upstream(double u) {
  for (fitted& call : calls_) call.upstream(u);
}
void fitted_sum::upstream(const array& u) {
  for (fitted& call : calls_) call.upstream(u);
}

void fitted_sum::reduce(reduction how) {
  for (fitted& call : calls_) {
    if (how == reduction::none && call.value_shape() != value_shape())
      throw argument_error("reduction: the values of " + calls_[0].plan_.info().name + ", " +
                           text(value_shape()) + ", and of " + call.plan_.info().name + ", " +
                           text(call.value_shape()) +
                           ", cannot be added unreduced; expected another reduction, or axes that "
                           "leave values of the same shape");
    call.reduce(how);
  }
}

void fitted_sum::values(const array& a) {
  values_ = a;
  for (fitted& call : calls_) call.values(a);
}
void fitted_sum::grad_pred(const array& a) {
  grad_pred_ = a;
  for (fitted& call : calls_) call.grad_pred(a);
}
void fitted_sum::grad_true(const array& a) {
  grad_true_ = a;
  const auto uses_target = [](const fitted& call) { return call.plan_.info().uses_target; };
  const bool none_does = std::none_of(calls_.begin(), calls_.end(), uses_target);
  // What does not look at y_true adds nothing to its gradient, and the shape need not fit it.
  for (fitted& call : calls_)
    if (none_does || uses_target(call)) call.grad_true(a);
}

}  // namespace fastloss
