#include "cuda/driver.h"

#include "cpu/view.h"
#include "cuda/cuts.h"
#include "cuda/device.h"
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
                         std::to_string(merged.axes.size()) + "; a contiguous copy has one");
  out.data = merged.data;
  out.type = merged.type;
  out.floating_bytes = merged.type >= dtype::f16 ? int(cpu::item_size(merged.type)) : 0;
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

// What calls of every kind have in common: how losses are weighed and summed.
class call {
 protected:
  explicit call(const request& r)
      : r_(r),
        kernels_(r.compute == dtype::f64 ? kernels_f64() : kernels_f32()),
        reduces_(r.reduce != reduction::none) {
    choose_divisor();
  }

  static std::size_t end_of_partials(std::size_t count) {
    return partial_offset + (count * sizeof(double) + 63) / 64 * 64;
  }

  // Launches what has to be known before the losses, whose launches have up to so many blocks.
  void begin(const arguments& a, int64_t blocks, stream_handle stream) const {
    // Blocks count from zero how many are through. A small call, of one block, is one launch.
    if (std::max(blocks, divisor_.blocks) > 1) kernels_.clear(a.state, state_bytes, stream);
    if (counts_) kernels_.divisor(a, divisor_, with_weight_, by_element_, stream);
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
    a.reduces = reduces_;
    a.upstream = r_.upstream;
    a.mean = 1;
    a.count = count_;
    a.state = reinterpret_cast<progress*>(workspace);
    a.divisor = counts_ ? reinterpret_cast<double*>(workspace + divisor_offset) : nullptr;
    a.partial = reinterpret_cast<double*>(workspace + partial_offset);
    return a;
  }

  const request& r_;
  const kernel_set& kernels_;
  bool reduces_;
  geometry divisor_{};
  bool counts_ = false;

 private:
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

  bool with_weight_ = false, by_element_ = false;
  double count_ = 1;
};

// A loss of the list, with its kernel and how its launches are cut.
class loss_call : call {
 public:
  explicit loss_call(const request& r)
      : call(r), kernel_(kernels_.losses[r.loss].chosen_for(r.parameters.data())) {
    if (kernel_.map)
      main_ = reduces_ ? cut_sum(r.rows * r.cols) : cut_map(r.rows, r.cols);
    else
      choose_cut_of_rows();
    if (kernel_.label_signs) labels_ = cut_sum(r.rows * r.cols);
  }

  std::size_t workspace_bytes() const {
    std::size_t partials = main_.segments * main_.parts;
    if (!kernel_.map) partials = splits_ ? 3 * partials : main_.blocks;
    if (counts_) partials = std::max<std::size_t>(partials, divisor_.parts);
    return end_of_partials(partials) + (splits_ ? r_.rows * stats_bytes : 0);
  }

  void enqueue(void* value, char* workspace, stream_handle stream) const {
    arguments a = arguments_for(value, workspace);
    a.labels_may_be_binary = kernel_.label_signs;
    if (kernel_.averages) a.mean = 1.0 / double(r_.cols);
    if (splits_) a.stats = workspace + workspace_bytes() - r_.rows * stats_bytes;
    const double* q = r_.parameters.data();
    begin(a, std::max(main_.blocks, labels_.blocks), stream);
    if (a.labels_may_be_binary) kernels_.labels(a, labels_, stream);
    if (kernel_.map) return kernel_.map(q, a, main_, stream);
    if (!splits_) return kernel_.rows(q, a, main_, stream);
    geometry g = main_;
    for (g.launch = 0; g.launch < kernel_.phases + differentiates(); ++g.launch)
      kernel_.split_rows(q, a, g, stream);
  }

 private:
  bool differentiates() const { return r_.grad_pred || r_.grad_true; }

  void choose_cut_of_rows() {
    const bool is_read_again = kernel_.sweeps + differentiates() > 1;
    main_ = cut_rows(r_.rows, r_.cols, is_read_again ? kernel_.kept_bytes : 0, capability());
    splits_ = has_few_long_rows(main_);
    if (splits_) main_ = cut_parts_of_rows(r_.rows, r_.cols);
  }

  const loss_kernel& kernel_;
  bool splits_ = false;
  geometry main_{}, labels_{};
};

class ctc_call : call {
 public:
  ctc_call(const request& r, const ctc_samples& samples)
      : call(r), samples_(samples), main_(cut_samples(r.rows)) {}

  std::size_t workspace_bytes() const {
    return offset() + main_.blocks * sequences(nullptr).bytes_per_block;
  }

  void enqueue(void* value, char* workspace, stream_handle stream) const {
    const arguments a = arguments_for(value, workspace);
    const ctc_arguments q = sequences(workspace + offset());
    begin(a, main_.blocks, stream);
    kernels_.ctc(a, q, main_, stream);
  }

 private:
  std::size_t offset() const {
    return end_of_partials(std::max<std::size_t>(main_.blocks, counts_ ? divisor_.parts : 0));
  }

  ctc_arguments sequences(char* workspace) const {
    ctc_arguments q{};
    q.frames = samples_.frames;
    q.classes = samples_.classes;
    q.max_labels = samples_.max_labels;
    q.blank = samples_.blank;
    q.label_length = on_device(samples_.label_length);
    q.logit_length = on_device(samples_.logit_length);
    q.kept_rows = r_.grad_pred ? q.frames + 1 : 2;
    q.workspace = workspace;
    const int64_t number = r_.compute == dtype::f64 ? sizeof(double) : sizeof(float);
    const int64_t bytes = q.frames * kernels_.ctc_described_bytes +
                          3 * q.most_states() * int64_t(sizeof(int64_t)) +
                          (q.kept_rows + 2) * q.row_length() * number;
    q.bytes_per_block = (bytes + 63) / 64 * 64;
    return q;
  }

  const ctc_samples& samples_;
  geometry main_;
};

}  // namespace

std::size_t workspace_bytes(const request& r) { return loss_call(r).workspace_bytes(); }

void enqueue(const request& r, void* value, void* workspace, stream_handle stream) {
  loss_call(r).enqueue(value, static_cast<char*>(workspace), stream);
}

std::size_t workspace_bytes(const request& r, const ctc_samples& samples) {
  return ctc_call(r, samples).workspace_bytes();
}

void enqueue(const request& r, const ctc_samples& samples, void* value, void* workspace,
             stream_handle stream) {
  ctc_call(r, samples).enqueue(value, static_cast<char*>(workspace), stream);
}

}  // namespace fastloss::cuda
