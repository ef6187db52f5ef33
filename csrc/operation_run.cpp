// Runs an operation on the CPU. Apart from operation.cpp, whose calls other devices share.
#include <algorithm>

#include "cpu/float_mode.h"
#include "cpu/parallel.h"
#include "cpu/view.h"
#include "operation.h"

namespace fastloss {

using std::int64_t;

void operation::run(const std::vector<array>& inputs, const get_output& output) const {
  expect_count(inputs);
  const cpu::float_mode mode;
  sum_.empty() ? run_ctc(inputs, output) : run_plan(inputs, output);
}

void operation::run_plan(const std::vector<array>& inputs, const get_output& output) const {
  fitted_sum call = fit_sum(inputs);
  if (const array* u = find(inputs, "upstream")) call.upstream(*u);
  const std::optional<array> value = place_outputs(call, inputs, output);
  std::vector<double> unwanted;
  if (!reduces() && !value) {  // the kernels write the values that nothing reduces
    unwanted.resize(call.value_count());
    call.values(contiguous(unwanted.data(), call.compute_type(), call.value_shape()));
  }
  const double sum = call.run();
  if (reduces() && value) cpu::store(as_view(*value), 0, 1, &sum);
}

void operation::run_again(const std::vector<operand>& arrays, const get_output& output) const {
  const cpu::float_mode mode;
  std::unique_ptr<kept_call> last = last_.take();
  if (last && last->fits(arrays)) {
    addresses at;
    for (std::size_t i = 0; i < arrays.size(); ++i) at.*places_[i] = arrays[i].data;
    last->call.move_to(at);
    if (last->value) last->value->data = at.values;
  } else if (can_be_kept()) {
    last = fit_and_keep(arrays, output);
  } else {
    std::vector<array> inputs;
    for (std::size_t i = 0; i < input_count(); ++i) inputs.push_back(as_array(arrays[i]));
    return run(inputs, output);
  }
  const double sum = last->call.run();
  if (last->value) cpu::store(*last->value, 0, 1, &sum);
  last_.keep(std::move(last));
}

// A sum is not, because its terms may be computed one by one on arrays of their own; `upstream`
// may be a number that has been read, and what CTC takes is checked anew.
bool operation::can_be_kept() const {
  const auto all_have = std::find(places_.begin(), places_.end(), nullptr) == places_.end();
  const bool has_value = std::find(outputs_.begin(), outputs_.end(), "value") != outputs_.end();
  return sum_.size() == 1 && sum_[0].coefficient == 1 && all_have && (reduces() || has_value);
}

std::unique_ptr<operation::kept_call> operation::fit_and_keep(const std::vector<operand>& arrays,
                                                              const get_output& output) const {
  std::vector<array> all;
  for (const operand& o : arrays) all.push_back(as_array(o));
  const std::vector<array> inputs(all.begin(), all.begin() + input_count());
  std::unique_ptr<kept_call> made(new kept_call{std::move(all), fit(inputs), std::nullopt});
  const std::optional<array> value = place_outputs(made->call, inputs, output);
  if (value && reduces()) made->value = as_view(*value);
  return made;
}

bool operation::kept_call::fits(const std::vector<operand>& others) const {
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const shape& sizes = arrays[i].sizes;
    if (arrays[i].type != others[i].type || sizes.size() != others[i].rank ||
        !std::equal(sizes.begin(), sizes.end(), others[i].sizes))
      return false;
  }
  return true;
}

void operation::run_ctc(const std::vector<array>& inputs, const get_output& output) const {
  ctc_request r = fit_ctc(inputs);
  r.threads = num_threads();
  const std::vector<double> ones(r.batch, 1.0);
  std::vector<double> slope = ones, unwanted;
  if (const array* u = ctc_upstream(inputs)) {
    const view v = cpu::coalesced(as_view(*u));
    double scratch;
    for (int64_t i = 0; i < r.batch; ++i) slope[i] = *cpu::load(v, i, 1, &scratch);
  }
  r.weight = ones.data();
  r.slope = slope.data();
  place_outputs(r, inputs, output);
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

void scale_gradient(const array& grad, const array& upstream, const axis_list& axes,
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
  const cpu::float_mode mode;
  const view g = cpu::coalesced(as_view(grad)), u = cpu::coalesced(as_view(wide)),
             o = cpu::coalesced(as_view(out));
  if (grad.type == dtype::f64)
    scale_blocks<double>(g, u, o, n);
  else
    scale_blocks<float>(g, u, o, n);
}

}  // namespace fastloss
