// Runs a request on the CPU: cuts the grid into tiles, feeds tiles to the kernels, and adds partial
// sums in an order that depends on shapes alone. So the result has the same bits for every number
// of threads.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>

#include "cpu/call.h"
#include "cpu/float_mode.h"
#include "cpu/parallel.h"

namespace fastloss {
namespace cpu {
namespace {

using std::int64_t;

bool is_floating(dtype type) {
  return type == dtype::f16 || type == dtype::bf16 || type == dtype::f32 || type == dtype::f64;
}

double inverse(double x) { return x == 0 ? 0 : 1 / x; }

}  // namespace

template <class T>
call<T>::call(const request& r, double coefficient)
    : r_(r),
      set_(kernels().get<T>()),
      kernel_(set_.losses[r.loss].chosen_for(r.parameters.data())),
      info_(losses()[r.loss]),
      t_(coalesced(r.y_true)),
      p_(coalesced(r.y_pred)),
      target_scale_(r.target_scale),
      target_shift_(r.target_shift),
      slope_(r.upstream * coefficient) {
  kernel_.construct(r.parameters.data(), functor_);
  if (kernel_.of_labels) kernel_.of_labels->construct(r.parameters.data(), label_functor_);
  if (r.class_weight) prepare_class_weight();
  if (r.row_upstream) upstream_ = coalesced(*r.row_upstream);
  if (r.grad_pred) grad_pred_ = coalesced(*r.grad_pred);
  if (r.grad_true) grad_true_ = coalesced(*r.grad_true);
  if (r.values) values_ = coalesced(*r.values);
  wants_ = (r.grad_pred ? wants_pred : 0) | (r.grad_true ? wants_true : 0);
  weights_.add(r.sample_weight);
  weights_.add(r.mask);
  weights_.add(r.own_weight);
  const int64_t size = r.rows * r.cols;
  threads_ = size < serial_below ? 1 : r.threads;
  ahead_ = size < prefetched_from ? 0 : page<T>;
  if (r.cols > block && r.rows < 2 * chunks_per_thread * threads_) rows_between_ = threads_;
  const int64_t inputs = info_.uses_target && !info_.sparse ? 2 : 1,
                outputs = (r.grad_pred ? 1 : 0) + (r.grad_true ? 1 : 0);
  streams_ = fills_caches<T>(inputs + outputs, size);
}

template <class T>
void call<T>::prepare_class_weight() {
  class_weight_ = coalesced(*r_.class_weight);
  const bool one_for_all = class_weight_->axes.size() == 1 && class_weight_->axes[0].stride == 0;
  if (one_for_all && kernel_.scales_with_target) {
    T scratch;
    row_factor_ = *load(*class_weight_, 0, 1, &scratch);
    class_weight_.reset();
  } else if (r_.cols <= long_row) {  // every row needs them
    class_weight_copy_.resize(r_.cols);
    const T* w = load(*class_weight_, 0, r_.cols, class_weight_copy_.data());
    if (w != class_weight_copy_.data()) std::copy_n(w, r_.cols, class_weight_copy_.data());
    class_weight_->data = reinterpret_cast<char*>(class_weight_copy_.data());
    class_weight_->type = sizeof(T) == sizeof(float) ? dtype::f32 : dtype::f64;
    class_weight_->axes = {{r_.cols, sizeof(T)}};
  }
}

template <class T>
double call<T>::run() {
  prepare();
  if (is_map()) return value(kernel_.label_signs ? run_hinge() : *run_map(false));
  return value(fits_lanes() ? run_lanes() : run_rows());
}

template <class T>
void call<T>::prepare() {
  if (info_.sparse) check_labels();
  norm_ = normalization();
  if (is_map() && kernel_.averages) mean_ = 1.0 / double(r_.cols);
  scale_ = T(norm_ * mean_ * slope_);
}

template <class T>
void call<T>::prepare_for_panels() {
  prepare();
  if (uses_lanes()) prepare_lanes();
  if (kernel_.label_signs) take_labels_for_signs(labels_are_binary());
}

template <class T>
double call<T>::on_panel(int64_t first, int64_t n, const sinks<T>& to) const {
  if (is_map()) return map_panel(first, n, to);
  if (long_rows_) {
    long_row_panel(first, n, to);
    return 0;
  }
  const int64_t end = (first + n) / r_.cols;
  double sum = 0;
  if (lanes_) {
    for (int64_t row = first / r_.cols; row < end; row += lanes<T>)
      sum += lane_task(row, std::min<int64_t>(lanes<T>, end - row), to);
  } else {
    for (int64_t row = first / r_.cols; row < end; ++row) sum += run_short_row(row, to);
  }
  return sum;
}

template <class T>
void call<T>::row_value(int64_t row, double sum_of_losses) const {
  const T value = T(mean_ * sum_of_losses);
  store(*values_, row, 1, &value);
}

template <class T>
double call<T>::normalization() const {
  if (r_.reduce == reduction::none || r_.reduce == reduction::sum) return 1;
  if (r_.scalar_value && !weights_.per_element()) return 1;
  if (r_.reduce == reduction::mean_with_sample_weight && !weights_.empty())
    return inverse(total(weights_));
  double count = double(r_.rows);
  if (r_.reduce == reduction::mean_with_sample_weight && !r_.ignore_class) return inverse(count);
  if (!r_.mask && !r_.ignore_class) return inverse(count);
  factors<T> valid;
  valid.add(r_.mask);
  return inverse(total(valid));
}

template <class T>
double call<T>::total(const factors<T>& f) const {
  tiling tiles(r_.rows, f.per_element() ? r_.cols : 1);
  std::vector<double> partial(tiles.count());
  parallel_for(tiles.count(), threads_, [&](int64_t i) {
    const tile at = tiles.at(i);
    T w[block];
    if (f.per_element())
      f.elements(at, r_.cols, w);
    else
      f.rows(at.row, at.rows, w);
    if (r_.ignore_class) drop_ignored(at, w);
    partial[i] = set_.memory.weighted_sum(w, nullptr, at.size());
  });
  return sum_in_order(partial) / double(tiles.cols);
}

template <class T>
void call<T>::drop_ignored(const tile& at, T* w) const {
  int64_t scratch[block];
  const int64_t* labels = load(t_, at.row, at.rows, scratch);
  for (int64_t i = 0; i < at.rows; ++i)
    if (labels[i] == *r_.ignore_class) w[i] = 0;
}

// The threads look for blocks that may hold a bad label; the first of them is then found in order.
template <class T>
void call<T>::check_labels() const {
  std::atomic<bool> suspicious{is_floating(t_.type)};
  if (!suspicious)
    parallel_for((r_.rows + block - 1) / block, threads_, [&](int64_t b) {
      if (suspicious.load(std::memory_order_relaxed)) return;
      int64_t scratch[block];
      const int64_t n = std::min(block, r_.rows - b * block);
      if (!set_.memory.all_below(load(t_, b * block, n, scratch), n, r_.cols)) suspicious = true;
    });
  if (suspicious)
    for (int64_t first = 0; first < r_.rows; first += block)
      check_labels(first, std::min(block, r_.rows - first));
}

template <class T>
void call<T>::check_labels(int64_t first, int64_t n) const {
  int64_t scratch[block];
  const int64_t* labels = load(t_, first, n, scratch);
  const bool floating = is_floating(t_.type);
  T w[block];
  weights_.rows(first, n, w);
  for (int64_t i = 0; i < n; ++i) {
    if (w[i] == 0) continue;
    if (floating && !is_integral(first + i))
      throw label_error(first + i, "labels must be integers");
    if (r_.ignore_class && labels[i] == *r_.ignore_class) continue;
    if (labels[i] < 0 || labels[i] >= r_.cols)
      throw label_error(first + i, "labels must be in [0, " + std::to_string(r_.cols) + ")");
  }
}

template <class T>
bool call<T>::is_integral(int64_t row) const {
  double scratch;
  const double label = *load(t_, row, 1, &scratch);
  return std::isfinite(label) && label == std::floor(label);
}

template <class T>
const T* call<T>::targets(const tile& at, T* scratch) const {
  const T* t = load(t_, at.row * r_.cols + at.col, at.size(), scratch);
  if (!transforms_target()) return t;
  const T scale = T(target_scale_), shift = T(target_shift_);
  for (int64_t i = 0; i < at.size(); ++i) scratch[i] = t[i] * scale + shift;
  multiply_by_class_weight(at, scratch);
  return scratch;
}

template <class T>
void call<T>::untransform(const tile& at, T* d_true) const {
  const T scale = T(target_scale_);
  for (int64_t i = 0; i < at.size(); ++i) d_true[i] *= scale;
  multiply_by_class_weight(at, d_true);
}

template <class T>
void call<T>::multiply_by_class_weight(const tile& at, T* x) const {
  if (!class_weight_) return;
  T scratch[block];
  const T* c = load(*class_weight_, at.col, at.cols, scratch);
  for (int64_t r = 0; r < at.rows; ++r)
    for (int64_t j = 0; j < at.cols; ++j) x[r * at.cols + j] *= c[j];
}

template class call<float>;
template class call<double>;

}  // namespace cpu

double run(const request& r) {
  const cpu::float_mode mode;
  if (r.compute == dtype::f64) return cpu::call<double>(r).run();
  return cpu::call<float>(r).run();
}

void check_labels(const request& r) {
  const cpu::float_mode mode;
  cpu::call<double>(r).check_labels();
}

}  // namespace fastloss
