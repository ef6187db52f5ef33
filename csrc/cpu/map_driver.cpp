// Losses of single elements, and the rule about the labels of the hinges.
#include <algorithm>
#include <atomic>

#include "cpu/call.h"
#include "cpu/parallel.h"

namespace fastloss::cpu {

using std::int64_t;

template <class T>
std::optional<double> call<T>::run_map(bool expect_binary) {
  // Where rows do not matter, elements are cut so that they fill the lanes of the sums.
  const bool is_flat = has_one_scale() && !class_weight_ && !grad_true_ && r_.rows > 0;
  const tiling tiles =
      is_flat ? tiling(1, r_.rows * r_.cols, flat_block) : tiling(r_.rows, r_.cols);
  std::vector<double> partial(tiles.count());
  std::atomic<bool> as_expected{true};
  const sinks<T> to = arrays();
  parallel_for(tiles.count(), threads_, [&](int64_t i) {
    const tile at = tiles.at(i);
    if (at.size() == 0) return;
    if (expect_binary) {
      T scratch[flat_block];
      if (!as_expected.load(std::memory_order_relaxed)) return;
      const int64_t first = at.row * r_.cols + at.col;
      if (!set_.memory.all_zero_or_one(load(t_, first, at.size(), scratch), at.size())) {
        as_expected = false;
        return;
      }
    }
    partial[i] = map_tile(at, to);
  });
  if (!as_expected) return std::nullopt;
  if (r_.reduce != reduction::none) return sum_in_order(partial);
  if (tiles.tiles_per_row > 1)
    for (int64_t row = 0; row < r_.rows; ++row) {
      double sum = 0;
      for (int64_t k = 0; k < tiles.tiles_per_row; ++k)
        sum += partial[row * tiles.tiles_per_row + k];
      row_value(row, sum);
    }
  return 0;
}

// The sum of the losses of a tile; of whole rows that nothing reduces, their values instead.
template <class T>
double call<T>::map_tile(const tile& at, const sinks<T>& to) const {
  // Elements from which a row is worth a loop of its own, where each row has another scale.
  constexpr int64_t own_loop = 256;
  const int64_t first = at.row * r_.cols + at.col;
  T t_scratch[flat_block], p_scratch[flat_block];
  const T* t = targets(at, t_scratch);
  const T* p = load(p_, first, at.size(), p_scratch);
  if (to.truth || weights_.per_element()) return map_elements(at, t, p, to);
  if (has_one_scale()) return map_run(first, at.size(), t, p, scale_, to.pred);
  return at.cols < own_loop ? map_elements(at, t, p, to) : map_rows(at, t, p, to.pred);
}

// The sum of the losses of elements whose gradients are all times `scale`.
template <class T>
double call<T>::map_run(int64_t first, int64_t n, const T* t, const T* p, T scale,
                        const sink<T>& to) const {
  alignas(cache_line) T scratch[flat_block];
  map_term<T> term = plain_term();
  term.scale = scale;
  const map_sums<T>& loops = plain_loops(t, n, term);
  if (!to || scale == 0) {
    loops.run(&term, t, p, nullptr, nullptr, false, n);
    if (to) to.clear(first, n);
    return term.sums.total();
  }
  T* d_pred = to.place(first, n, scratch);
  const bool in_place = d_pred != scratch, streams = to.streams() && in_place;
  const int64_t head = streams ? std::min(elements_to_line(d_pred), n) : 0;
  if (head > 0) loops.run(&term, t, p, nullptr, d_pred, false, head);
  // Each loss is added to the lane of its element, wherever lines begin.
  rotate(term.sums, head);
  loops.run(&term, t + head, p + head, nullptr, d_pred + head, streams, n - head);
  rotate(term.sums, sum_lanes - head);
  if (!in_place) to.end(first, n, scratch);
  return term.sums.total();
}

// The same of rows, each with a scale of its own.
template <class T>
double call<T>::map_rows(const tile& at, const T* t, const T* p, const sink<T>& to) const {
  T weights[block], scratch[block], values[block];
  weights_.rows(at.row, at.rows, weights);
  const T* upstream = upstream_ ? load(*upstream_, at.row, at.rows, scratch) : nullptr;
  double sum = 0;
  for (int64_t r = 0; r < at.rows; ++r) {
    const int64_t skipped = r * at.cols, first = at.row * r_.cols + at.col + skipped;
    const T weight = weights[r];
    double loss = 0;
    if (weight != 0)
      loss = weight * map_run(first, at.cols, t + skipped, p + skipped,
                              scale_ * weight * (upstream ? upstream[r] : T(1)), to);
    else if (to)
      to.clear(first, at.cols);
    sum += loss;
    values[r] = T(mean_ * loss);
  }
  if (r_.reduce != reduction::none || at.cols < r_.cols) return sum;
  store(*values_, at.row, at.rows, values);
  return 0;
}

// The same of elements, each with a scale of its own.
template <class T>
double call<T>::map_elements(const tile& at, const T* t, const T* p, const sinks<T>& to) const {
  const int64_t first = at.row * r_.cols + at.col;
  T weights[block], s[block], loss[block];
  alignas(cache_line) T d_pred_scratch[block], d_true_scratch[block];
  const bool labels = are_labels(t, at.size());
  const loss_kernel<T>& kernel = labels ? *kernel_.of_labels : kernel_;
  const void* functor = labels ? label_functor_ : functor_;
  if (!weights_.empty()) weights_.elements(at, r_.cols, weights);
  const T* w = weights_.empty() ? nullptr : weights;
  scales(at, w, s);
  const int wants = (to.pred ? wants_pred : 0) | (to.truth ? wants_true : 0);
  const bool untransforms = to.truth && transforms_target();
  const bool streams = to.pred.streams() || to.truth.streams();
  const int64_t piece = streams && !untransforms ? streamed_piece : block;
  for (int64_t k = 0; k < at.size(); k += piece) {
    const int64_t n = std::min(piece, at.size() - k);
    T* d_pred = to.pred.begin(first + k, n, d_pred_scratch);
    T* d_true = to.truth.begin(first + k, n, d_true_scratch);
    kernel.map[wants](functor, t + k, p + k, s + k, loss + k, d_pred, d_true, n, ahead_);
    if (untransforms) untransform(at, d_true);
    to.pred.end(first + k, n, d_pred_scratch);
    to.truth.end(first + k, n, d_true_scratch);
  }
  if (r_.reduce != reduction::none || at.cols < r_.cols)
    return set_.memory.weighted_sum(loss, w, at.size());
  double sums[block];
  T values[block];
  set_.memory.row_sums(loss, w, at.rows, at.cols, sums);
  for (int64_t r = 0; r < at.rows; ++r) values[r] = T(mean_ * sums[r]);
  store(*values_, at.row, at.rows, values);
  return 0;
}

template <class T>
double call<T>::map_panel(int64_t first, int64_t n, const sinks<T>& to) const {
  const int64_t cols = r_.cols, end = first + n;
  double sum = 0;
  for (int64_t e = first; e < end;) {
    const int64_t row = e / cols, col = e % cols, rest = end - e;
    tile at{row, 1, col, std::min({rest, cols - col, block})};
    if (cols <= block && col == 0 && rest >= cols)
      at = {row, std::min(rest, block) / cols, 0, cols};
    sum += map_tile(at, to);
    e += at.size();
    const bool ends_long_row = cols > block && e % cols == 0;
    if (ends_long_row && n >= cols && r_.reduce == reduction::none) {
      row_value(row, sum);
      sum = 0;
    }
  }
  return sum;
}

// Labels that are all 0 or 1 stand for -1 and 1. If the first few are, all are taken for such while
// they are looked at, so that they are read once, and everything is done again if one is not;
// beforehand, where an output lies over what would have to be read again.
template <class T>
double call<T>::run_hinge() {
  constexpr int64_t few = 64;
  const bool look_first = output_overlaps_input();
  if (labels_are_binary(few) && (!look_first || labels_are_binary())) {
    take_labels_for_signs(true);
    if (const auto sum = run_map(!look_first)) return *sum;
    take_labels_for_signs(false);
  }
  return *run_map(false);
}

template <class T>
void call<T>::take_labels_for_signs(bool binary) {
  target_scale_ = binary ? 2 : r_.target_scale;
  target_shift_ = binary ? -1 : r_.target_shift;
}

template <class T>
bool call<T>::labels_are_binary(int64_t most) const {
  const int64_t size = std::min(most, r_.rows * r_.cols);
  std::atomic<bool> binary{true};
  parallel_for((size + block - 1) / block, threads_, [&](int64_t b) {
    if (!binary.load(std::memory_order_relaxed)) return;
    T scratch[block];
    const int64_t n = std::min(block, size - b * block);
    if (!set_.memory.all_zero_or_one(load(t_, b * block, n, scratch), n)) binary = false;
  });
  return binary;
}

template <class T>
bool call<T>::output_overlaps_input() const {
  for (const std::optional<view>* out : {&grad_pred_, &grad_true_, &values_})
    if (*out && (overlap(**out, t_) || overlap(**out, p_))) return true;
  return false;
}

// Whether the kernel for labels does; a few targets tell most of the others.
template <class T>
bool call<T>::are_labels(const T* t, int64_t n) const {
  constexpr int64_t few = 64;
  return kernel_.of_labels && !grad_true_ && set_.memory.all_zero_or_one(t, std::min(few, n)) &&
         set_.memory.all_zero_or_one(t, n);
}

// What multiplies the gradient of each element: the scale, the weight, if there is one, and
// upstream.
template <class T>
void call<T>::scales(const tile& at, const T* w, T* out) const {
  const int64_t n = at.size();
  if (!w && !upstream_) return void(std::fill_n(out, n, scale_));
  T scratch[block];
  const T* first = w ? w : factors<T>::for_elements(*upstream_, at, out);
  if (first != out) std::copy_n(first, n, out);
  if (w && upstream_)
    set_.memory.multiply(factors<T>::for_elements(*upstream_, at, scratch), n, out);
  set_.memory.scale(scale_, n, out);
}

template class call<float>;
template class call<double>;

}  // namespace fastloss::cpu
