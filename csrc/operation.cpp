#include "operation.h"

#include <algorithm>
#include <sstream>

namespace fastloss {
namespace {

using std::int64_t;

std::vector<std::string> names_in(std::istream& words) {
  std::string list;
  words >> list;
  std::vector<std::string> out;
  std::istringstream parts(list);
  for (std::string part; std::getline(parts, part, ',');) out.push_back(part);
  return out;
}

reduction reduction_named(const std::string& name) {
  if (name == "none") return reduction::none;
  if (name == "sum") return reduction::sum;
  if (name == "mean") return reduction::mean;
  if (name == "mean_with_sample_weight") return reduction::mean_with_sample_weight;
  throw argument_error("this build of fastloss has no reduction " + name);
}

using place = char* addresses::*;

place place_named(const std::string& name) {
  static const std::pair<const char*, place> all[] = {
      {"y_true", &addresses::y_true},
      {"y_pred", &addresses::y_pred},
      {"sample_weight", &addresses::sample_weight},
      {"mask", &addresses::mask},
      {"value", &addresses::values},
      {"grad_pred", &addresses::grad_pred},
      {"grad_true", &addresses::grad_true},
  };
  for (const auto& [known, at] : all)
    if (name == known) return at;
  return nullptr;
}

}  // namespace

array as_array(const operand& o) {
  return contiguous(o.data, o.type, shape(o.sizes, o.sizes + o.rank));
}

operation::operation(const std::string& line) {
  std::istringstream words(line);
  std::string word;
  words >> word;
  reduce_ = reduction_named(word);
  inputs_ = names_in(words);
  outputs_ = names_in(words);
  std::string rest;
  std::getline(words >> std::ws, rest);
  const std::string ctc = "ctc blank=";
  if (rest.compare(0, ctc.size(), ctc) == 0)
    blank_ = std::stoll(rest.substr(ctc.size()));
  else
    sum_ = sum_from_text(rest);
  if (inputs_.size() < 2 || inputs_[0] != "y_true" || inputs_[1] != "y_pred")
    throw argument_error("an operation takes y_true and y_pred, got " + line);
  for (const std::string& name : inputs_) places_.push_back(place_named(name));
  for (const std::string& name : outputs_) places_.push_back(place_named(name));
}

const array* operation::find(const std::vector<array>& inputs, const char* name) const {
  const auto at = std::find(inputs_.begin(), inputs_.end(), name);
  return at == inputs_.end() ? nullptr : &inputs[at - inputs_.begin()];
}

void operation::expect_count(const std::vector<array>& inputs) const {
  if (inputs.size() != inputs_.size())
    throw argument_error("expected " + std::to_string(inputs_.size()) + " inputs, got " +
                         std::to_string(inputs.size()));
}

const plan* operation::loss_plan() const {
  if (sum_.empty()) return nullptr;
  if (sum_.size() > 1 || sum_[0].coefficient != 1)
    throw argument_error("expected a single loss: this device computes no sum in one pass");
  return &sum_[0].loss;
}

template <class Call>
void operation::fit_factors(Call& call, const std::vector<array>& inputs) const {
  call.reduce(reduce_);
  if (const array* w = find(inputs, "sample_weight")) call.sample_weight(*w);
  if (const array* m = find(inputs, "mask")) call.mask(*m);
}

fitted operation::fit(const std::vector<array>& inputs) const {
  fitted call(*loss_plan(), inputs[0], inputs[1]);
  if (find(inputs, "weight0")) throw argument_error("weight: expected it in sample_weight");
  fit_factors(call, inputs);
  return call;
}

fitted_sum operation::fit_sum(const std::vector<array>& inputs) const {
  fitted_sum call(sum_, inputs[0], inputs[1]);
  std::vector<std::optional<array>> own(sum_.size());
  for (std::size_t k = 0; k < own.size(); ++k)
    if (const array* w = find(inputs, ("weight" + std::to_string(k)).c_str())) own[k] = *w;
  call.own_weights(own);
  fit_factors(call, inputs);
  return call;
}

void operation::check(const std::vector<array>& inputs) const {
  expect_count(inputs);
  if (sum_.empty())
    fit_ctc(inputs);
  else
    fit_sum(inputs);
}

template <class Call>
std::optional<array> operation::place_outputs(Call& call, const std::vector<array>& inputs,
                                              const get_output& output) const {
  std::optional<array> value;
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    if (outputs_[i] == "value")
      value = output(i, reduces() ? shape{} : call.value_shape());
    else if (outputs_[i] == "grad_pred")
      call.grad_pred(output(i, inputs[1].sizes));
    else
      call.grad_true(output(i, inputs[0].sizes));
  }
  if (value && !reduces()) call.values(*value);
  return value;
}

template std::optional<array> operation::place_outputs(fitted&, const std::vector<array>&,
                                                       const get_output&) const;
template std::optional<array> operation::place_outputs(fitted_sum&, const std::vector<array>&,
                                                       const get_output&) const;

ctc_request operation::fit_ctc(const std::vector<array>& inputs) const {
  const array &labels = inputs[0], &logits = inputs[1];
  if (labels.sizes.size() != 2 || logits.sizes.size() != 3 || labels.sizes[0] != logits.sizes[0])
    throw argument_error(
        "y_true: expected shape (batch, labels) for y_pred of shape (batch, time, classes), got " +
        text(labels.sizes) + " and " + text(logits.sizes));
  ctc_request r;
  r.batch = logits.sizes[0];
  r.max_frames = logits.sizes[1];
  r.classes = logits.sizes[2];
  r.max_labels = labels.sizes[1];
  r.blank = blank_ < 0 ? blank_ + r.classes : blank_;
  if (r.blank < 0 || r.blank >= r.classes)
    throw argument_error("blank: expected a class, in [0, " + std::to_string(r.classes) +
                         "), got " + std::to_string(blank_));
  r.compute = logits.type == dtype::f64 ? dtype::f64 : dtype::f32;
  r.y_pred = as_view(logits);
  const auto integers = [&](const char* name) {
    const array* a = find(inputs, name);
    if (!a || a->type != dtype::i64) throw argument_error(std::string(name) + ": expected int64");
    if (a != &labels && a->sizes != shape{r.batch})
      throw argument_error(std::string(name) + ": expected one length per sample, " +
                           std::to_string(r.batch) + ", got " + text(a->sizes));
    return reinterpret_cast<const int64_t*>(a->data);
  };
  r.labels = integers("y_true");
  r.label_length = integers("label_length");
  r.logit_length = integers("logit_length");
  return r;
}

const array* operation::ctc_upstream(const std::vector<array>& inputs) const {
  const array* u = find(inputs, "upstream");
  const shape expected{inputs[1].sizes[0]};
  if (u && u->sizes != expected)
    throw argument_error("upstream: expected the shape of the loss values, " + text(expected) +
                         ", got " + text(u->sizes));
  return u;
}

void operation::place_outputs(ctc_request& r, const std::vector<array>& inputs,
                              const get_output& output) const {
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    if (outputs_[i] == "value")
      r.values = as_view(output(i, {r.batch}));
    else
      r.grad = as_view(output(i, inputs[1].sizes));
  }
}

}  // namespace fastloss
