#include "cuda/driver.h"

#include "cpu/view.h"
#include "cuda/cuts.h"
#include "plan.h"

namespace fastloss::cuda {
namespace {

constexpr std::size_t state_bytes = 64, divisor_offset = state_bytes, partial_offset = 256;
static_assert(sizeof(progress) <= state_bytes);

device_view on_device(const view& v) {
  const view merged = cpu::coalesced(v);
  device_view out;
  if (merged.axes.size() > max_rank)
    throw argument_error("arrays on a GPU: expected at most " + std::to_string(max_rank) +
                         " axes that are not contiguous with each other, got " +
                         std::to_string(merged.axes.size()));
  out.data = merged.data;
  out.type = merged.type;
  for (const axis& a : merged.axes) {
    out.size[out.rank] = a.size;
    out.stride[out.rank++] = a.stride;
  }
  return out;
}

device_view on_device(const std::optional<view>& v) { return v ? on_device(*v) : device_view{}; }

factor_view on_device(const std::optional<factor>& f) {
  return f ? factor_view{on_device(f->values), f->per_element} : factor_view{};
}

// A request with its kernel and how its launches are cut.
class call {
 public:
  explicit call(const request& r)
      : r_(r),
        kernels_(r.compute == dtype::f64 ? kernels_f64() : kernels_f32()),
        kernel_(kernels_.losses[r.loss].chosen_for(r.parameters.data())),
        reduces_(r.reduce != reduction::none),
        splits_(!kernel_.map && has_few_long_rows(r.rows, r.cols)) {
    if (kernel_.map)
      main_ = reduces_ ? cut_sum(r.rows * r.cols) : cut_map(r.rows, r.cols);
    else
      main_ = splits_ ? cut_parts_of_rows(r.rows, r.cols) : cut_rows(r.rows, r.cols);
    choose_divisor();
  }

  std::size_t workspace_bytes() const {
    std::size_t partials = main_.segments * main_.parts;
    if (!kernel_.map) partials = splits_ ? 3 * partials : main_.blocks;
    if (counts_) partials = std::max<std::size_t>(partials, divisor_.parts);
    return stats_offset(partials) + (splits_ ? r_.rows * stats_bytes : 0);
  }

  void enqueue(void* value, void* workspace, stream_handle stream) const {
    const arguments a = arguments_for(value, static_cast<char*>(workspace));
    const double* q = r_.parameters.data();
    kernels_.clear(a.state, state_bytes, stream);
    if (counts_) kernels_.divisor(a, divisor_, with_weight_, by_element_, stream);
    if (a.labels_may_be_binary) kernels_.labels(a, cut_sum(r_.rows * r_.cols), stream);
    if (kernel_.map) return kernel_.map(q, a, main_, stream);
    if (!splits_) return kernel_.rows(q, a, main_, stream);
    const bool differentiates = r_.grad_pred || r_.grad_true;
    geometry g = main_;
    for (g.launch = 0; g.launch < kernel_.phases + differentiates; ++g.launch)
      kernel_.split_rows(q, a, g, stream);
  }

 private:
  static std::size_t stats_offset(std::size_t partials) {
    return partial_offset + (partials * sizeof(double) + 63) / 64 * 64;
  }

  // What the sum of weighted losses is divided by: a count, or what has to be summed first.
  void choose_divisor() {
    const bool has_factors = r_.sample_weight || r_.mask;
    const auto is_per_element = [](const std::optional<factor>& f) { return f && f->per_element; };
    const bool any_per_element = is_per_element(r_.sample_weight) || is_per_element(r_.mask);
    if (!reduces_ || r_.reduce == reduction::sum || (r_.scalar_value && !any_per_element)) return;
    count_ = double(r_.rows);
    if (r_.reduce == reduction::mean_with_sample_weight) {
      counts_ = has_factors || r_.ignore_class;
      with_weight_ = has_factors;
    } else {
      counts_ = r_.mask || r_.ignore_class;
    }
    by_element_ = with_weight_ ? any_per_element : is_per_element(r_.mask);
    divisor_ = cut_sum(by_element_ ? r_.rows * r_.cols : r_.rows);
    divisor_.launch = progress::launches - 1;
  }

  arguments arguments_for(void* value, char* workspace) const {
    arguments a{};
    a.rows = r_.rows;
    a.cols = r_.cols;
    a.y_pred = on_device(r_.y_pred);
    a.y_true = on_device(r_.y_true);
    a.class_weight = on_device(r_.class_weight);
    a.upstream_by_row = on_device(r_.row_upstream);
    a.values = reduces_ ? on_device(view{static_cast<char*>(value), r_.compute, {}})
                        : on_device(r_.values);
    a.grad_pred = on_device(r_.grad_pred);
    a.grad_true = on_device(r_.grad_true);
    a.weight = on_device(r_.sample_weight);
    a.mask = on_device(r_.mask);
    a.target_scale = r_.target_scale;
    a.target_shift = r_.target_shift;
    a.has_ignored_class = r_.ignore_class.has_value();
    a.ignored_class = r_.ignore_class.value_or(0);
    a.labels_may_be_binary = kernel_.label_signs;
    a.reduces = reduces_;
    a.upstream = r_.upstream;
    a.mean = kernel_.averages ? 1.0 / double(r_.cols) : 1.0;
    a.count = count_;
    a.state = reinterpret_cast<progress*>(workspace);
    a.divisor = counts_ ? reinterpret_cast<double*>(workspace + divisor_offset) : nullptr;
    a.partial = reinterpret_cast<double*>(workspace + partial_offset);
    const std::size_t all = workspace_bytes();
    a.stats = splits_ ? workspace + all - r_.rows * stats_bytes : nullptr;
    return a;
  }

  const request& r_;
  const kernel_set& kernels_;
  const loss_kernel& kernel_;
  bool reduces_, splits_;
  geometry main_{}, divisor_{};
  bool counts_ = false, with_weight_ = false, by_element_ = false;
  double count_ = 1;
};

}  // namespace

std::size_t workspace_bytes(const request& r) { return call(r).workspace_bytes(); }

void enqueue(const request& r, void* value, void* workspace, stream_handle stream) {
  call(r).enqueue(value, workspace, stream);
}

}  // namespace fastloss::cuda
