// Losses of single elements, and the rule about the labels of the hinges.
#include <atomic>

#include "cpu/call.h"
#include "cpu/parallel.h"

namespace fastloss::cpu {

using std::int64_t;

namespace {

// Elements of which a gradient is streamed at once: while so few are written, the processor does
// not stop to read ahead.
constexpr int64_t streamed_piece = 256;

bool is_line(const void* at) { return reinterpret_cast<std::uintptr_t>(at) % cache_line == 0; }

}  // namespace

template <class T>
std::optional<double> call<T>::run_map(double scale, double mean, bool expect_binary) {
  const tiling tiles(r_.rows, r_.cols);
  std::vector<double> partial(tiles.count());
  const T factor = T(scale * r_.upstream);
  std::vector<T> constant(std::min(block, r_.rows * r_.cols), factor);
  std::atomic<bool> as_expected{true};
  const bool sums_only =
      weights_.empty() && !upstream_ && !grad_true_ && r_.reduce != reduction::none && factor != 0;
  parallel_for(tiles.count(), threads_, [&](int64_t i) {
    const tile at = tiles.at(i);
    if (at.size() == 0) return;
    const int64_t first = at.row * r_.cols + at.col;
    T t_scratch[block], p_scratch[block], w[block], s_scratch[block], loss[block];
    alignas(cache_line) T d_pred_scratch[block], d_true_scratch[block];
    if (expect_binary) {
      if (!as_expected.load(std::memory_order_relaxed)) return;
      if (!set_.memory.all_zero_or_one(load(t_, first, at.size(), t_scratch), at.size())) {
        as_expected = false;
        return;
      }
    }
    const T* t = targets(at, t_scratch);
    const T* p = load(p_, first, at.size(), p_scratch);
    const bool labels = are_labels(t, at.size());
    const loss_kernel<T>& kernel = labels ? *kernel_.of_labels : kernel_;
    const void* functor = labels ? label_functor_ : functor_;
    const T* s = constant.data();
    const bool weighted = !weights_.empty();
    if (weighted) weights_.elements(at, r_.cols, w);
    if (weighted || upstream_) {
      scales(at, weighted ? w : nullptr, s[0], s_scratch);
      s = s_scratch;
    }
    if (sums_only) {
      T* d_pred = !grad_pred_ ? nullptr : output(*grad_pred_, first, at.size(), d_pred_scratch);
      const auto loop = !d_pred                       ? kernel.map_sum
                        : streams_ && is_line(d_pred) ? kernel.map_sum_stream
                                                      : kernel.map_sum_gradient;
      partial[i] = loop(functor, t, p, factor, d_pred, at.size());
      if (d_pred == d_pred_scratch) store(*grad_pred_, first, at.size(), d_pred);
      return;
    }
    const bool untransforms = grad_true_ && transforms_target();
    const int64_t piece = streams_ && !untransforms ? streamed_piece : block;
    for (int64_t k = 0; k < at.size(); k += piece) {
      const int64_t n = std::min(piece, at.size() - k);
      T* d_pred = begin_output(grad_pred_, first + k, n, d_pred_scratch);
      T* d_true = begin_output(grad_true_, first + k, n, d_true_scratch);
      kernel.map[wants_](functor, t + k, p + k, s + k, loss + k, d_pred, d_true, n);
      if (untransforms) untransform(at, d_true);
      end_output(grad_pred_, first + k, n, d_pred_scratch);
      end_output(grad_true_, first + k, n, d_true_scratch);
    }

    const T* weight = weighted ? w : nullptr;
    if (r_.reduce != reduction::none || tiles.tiles_per_row > 1) {
      partial[i] = set_.memory.weighted_sum(loss, weight, at.size());
    } else {
      T sums[block];
      for (int64_t r = 0; r < at.rows; ++r)
        sums[r] =
            T(mean * set_.memory.weighted_sum(loss + r * at.cols,
                                              weight ? weight + r * at.cols : nullptr, at.cols));
      store(*values_, at.row, at.rows, sums);
    }
  });
  if (!as_expected) return std::nullopt;
  if (r_.reduce != reduction::none) return sum_in_order(partial);
  if (tiles.tiles_per_row > 1)
    for (int64_t row = 0; row < r_.rows; ++row) {
      double sum = 0;
      for (int64_t k = 0; k < tiles.tiles_per_row; ++k)
        sum += partial[row * tiles.tiles_per_row + k];
      const T value = T(mean * sum);
      store(*values_, row, 1, &value);
    }
  return 0;
}

// Labels that are all 0 or 1 stand for -1 and 1. They are taken for such while they are looked at,
// so that they are read once, and everything is done again if one is not; beforehand, where an
// output lies over what would have to be read again.
template <class T>
double call<T>::run_hinge(double scale, double mean) {
  const bool look_first = output_overlaps_input();
  if (!look_first || labels_are_binary()) {
    target_scale_ = 2;
    target_shift_ = -1;
    if (const auto sum = run_map(scale, mean, !look_first)) return *sum;
    target_scale_ = r_.target_scale;
    target_shift_ = r_.target_shift;
  }
  return *run_map(scale, mean, false);
}

template <class T>
bool call<T>::labels_are_binary() const {
  const int64_t size = r_.rows * r_.cols;
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

// scale * weight * upstream, per element.
template <class T>
void call<T>::scales(const tile& at, const T* w, T scale, T* out) const {
  if (!upstream_) {
    for (int64_t i = 0; i < at.size(); ++i) out[i] = scale * w[i];
    return;
  }
  T scratch[block];
  const T* upstream = load(*upstream_, at.row, at.rows, scratch);
  for (int64_t r = 0; r < at.rows; ++r)
    for (int64_t j = 0; j < at.cols; ++j) {
      const int64_t i = r * at.cols + j;
      const T weight = w ? w[i] : T(1);
      out[i] = weight == 0 ? T(0) : scale * upstream[r] * weight;
    }
}

template class call<float>;
template class call<double>;

}  // namespace fastloss::cpu
