#include "operation.h"

#include <algorithm>
#include <sstream>

#include "cpu/parallel.h"
#include "cpu/view.h"

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

view as_view(const array& a) {
  view v{a.data, a.type, {}};
  for (std::size_t d = 0; d < a.sizes.size(); ++d) v.axes.push_back({a.sizes[d], a.strides[d]});
  return v;
}

void write_scalar(const array& out, double value) { cpu::store(as_view(out), 0, 1, &value); }

}  // namespace

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

void operation::run(const std::vector<array>& inputs, const get_output& output) const {
  expect_count(inputs);
  sum_.empty() ? run_ctc(inputs, output) : run_plan(inputs, output);
}

void operation::check(const std::vector<array>& inputs) const {
  expect_count(inputs);
  if (sum_.empty())
    fit_ctc(inputs);
  else
    fit(inputs);
}

fitted_sum operation::fit(const std::vector<array>& inputs) const {
  fitted_sum call(sum_, inputs[0], inputs[1]);
  call.reduce(reduce_);
  std::vector<std::optional<array>> own(sum_.size());
  for (std::size_t k = 0; k < own.size(); ++k)
    if (const array* w = find(inputs, ("weight" + std::to_string(k)).c_str())) own[k] = *w;
  call.own_weights(own);
  if (const array* w = find(inputs, "sample_weight")) call.sample_weight(*w);
  if (const array* m = find(inputs, "mask")) call.mask(*m);
  return call;
}

void operation::run_plan(const std::vector<array>& inputs, const get_output& output) const {
  fitted_sum call = fit(inputs);
  if (const array* u = find(inputs, "upstream")) call.upstream(*u);
  const bool reduced = reduce_ != reduction::none;
  std::vector<double> unwanted;
  std::optional<array> value;
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    if (outputs_[i] == "value")
      value = output(i, reduced ? shape{} : call.value_shape());
    else if (outputs_[i] == "grad_pred")
      call.grad_pred(output(i, inputs[1].sizes));
    else
      call.grad_true(output(i, inputs[0].sizes));
  }
  if (!reduced && !value) {  // the kernels write the values that nothing reduces
    unwanted.resize(call.value_count());
    value = contiguous(unwanted.data(), call.compute_type(), call.value_shape());
  }
  if (!reduced) call.values(*value);
  const double sum = call.run();
  if (reduced && value) write_scalar(*value, sum);
}

// All but what depends on elements of the inputs and on outputs.
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
  r.threads = num_threads();
  return r;
}

void operation::run_ctc(const std::vector<array>& inputs, const get_output& output) const {
  ctc_request r = fit_ctc(inputs);
  const std::vector<double> ones(r.batch, 1.0);
  std::vector<double> slope = ones, unwanted;
  if (const array* u = find(inputs, "upstream")) {
    if (u->sizes != shape{r.batch})
      throw argument_error("upstream: expected the shape of the loss values, " + text({r.batch}) +
                           ", got " + text(u->sizes));
    const view v = cpu::coalesced(as_view(*u));
    double scratch;
    for (int64_t i = 0; i < r.batch; ++i) slope[i] = *cpu::load(v, i, 1, &scratch);
  }
  r.weight = ones.data();
  r.slope = slope.data();
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    if (outputs_[i] == "value")
      r.values = as_view(output(i, {r.batch}));
    else
      r.grad = as_view(output(i, inputs[1].sizes));
  }
  if (!r.values.data) {
    unwanted.resize(r.batch);
    r.values = as_view(contiguous(unwanted.data(), r.compute, {r.batch}));
  }
  fastloss::run_ctc(r);
}

namespace {

template <class T>
void scale_blocks(const view& grad, const view& upstream, const view& out, int64_t n) {
  constexpr int64_t block = 2048;
  const bool is_scalar = upstream.axes.size() == 1 && upstream.axes[0].stride == 0;
  const int threads = n < 16 * block ? 1 : num_threads();
  cpu::parallel_for((n + block - 1) / block, threads, [&](int64_t b) {
    const int64_t first = b * block, count = std::min(block, n - first);
    T g_scratch[block], u_scratch[block], o_scratch[block];
    const T* g = cpu::load(grad, first, count, g_scratch);
    const T* u = cpu::load(upstream, first, is_scalar ? 1 : count, u_scratch);
    T* o = cpu::output(out, first, count, o_scratch);
    if (is_scalar) {
      const T factor = u[0];
      if (factor == 0)
        std::fill_n(o, count, T(0));
      else
        for (int64_t i = 0; i < count; ++i) o[i] = g[i] * factor;
    } else {
      for (int64_t i = 0; i < count; ++i) o[i] = u[i] == 0 ? T(0) : g[i] * u[i];
    }
    if (o == o_scratch) cpu::store(out, first, count, o);
  });
}

}  // namespace

void scale_gradient(const array& grad, const array& upstream, const std::vector<int>& axes,
                    const array& out) {
  const std::size_t rank = grad.sizes.size();
  array wide{upstream.data, upstream.type, grad.sizes, shape(rank, 0)};
  int64_t n = 1;
  for (int64_t size : grad.sizes) n *= size;
  if (!upstream.sizes.empty()) {
    shape rows;
    for (std::size_t d = 0; d < rank; ++d) {
      if (std::find(axes.begin(), axes.end(), static_cast<int>(d)) != axes.end()) continue;
      rows.push_back(grad.sizes[d]);
      if (rows.size() <= upstream.sizes.size()) wide.strides[d] = upstream.strides[rows.size() - 1];
    }
    if (rows != upstream.sizes)
      throw argument_error("upstream: expected the shape of the loss values, " + text(rows) +
                           ", got " + text(upstream.sizes));
  }
  const view g = cpu::coalesced(as_view(grad)), u = cpu::coalesced(as_view(wide)),
             o = cpu::coalesced(as_view(out));
  if (grad.type == dtype::f64)
    scale_blocks<double>(g, u, o, n);
  else
    scale_blocks<float>(g, u, o, n);
}

}  // namespace fastloss
