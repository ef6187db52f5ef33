// One request in progress: its arrays, its kernel, and what the ways to run it share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "api.h"
#include "cpu/kernels.h"
#include "cpu/sink.h"
#include "cpu/tiles.h"
#include "cpu/view.h"

namespace fastloss::cpu {

// Columns up to which a row is summarized by one call: what is read again stays in the L2 cache;
// and where there are so many rows that each thread can have its own, in its part of the next one.
inline constexpr std::int64_t long_row = 65536, longest_row = 1 << 20, many_rows = 16;

// Makes lane `by` the first one, for elements that begin so many behind another's lane.
inline void rotate(lane_sums& sums, std::int64_t by) {
  std::rotate(sums.lane, sums.lane + by % sum_lanes, sums.lane + sum_lanes);
}

template <class T>
class call {
 public:
  // `coefficient` multiplies the gradients; the value is left to the caller.
  explicit call(const request& r, double coefficient = 1);
  double run();
  void check_labels() const;

  // As a term of a sum (sum_driver.cpp), which calls `prepare_for_panels` first, once. Elements are
  // numbers of the grid. The sums of losses that `on_panel` and `begin_long_rows` return are for
  // `value`.
  void prepare_for_panels();
  bool is_map() const { return info_.kind == "map"; }
  bool has_long_rows() const { return !is_map() && r_.cols > long_row && !fits_lanes(); }
  bool uses_lanes() const { return !is_map() && fits_lanes(); }
  std::int64_t cols() const { return r_.cols; }
  // Whether the map loss takes elements as they are, and all gradients have one scale.
  bool is_plain() const {
    return is_map() && has_one_scale() && !grad_true_ && !transforms_target() && scale_ != 0;
  }
  // A plain loss as a term of loops, and its loops for these targets, which take it as it is then.
  map_term<T> plain_term() const { return {functor_, scale_, {}, ahead_}; }
  const map_sums<T>& plain_loops(const T* t, std::int64_t n, map_term<T>& term) const {
    const bool labels = are_labels(t, n);
    term.functor = labels ? label_functor_ : functor_;
    // All targets of a tile are looked at before, so they are asked for a tile ahead.
    term.ahead = labels && ahead_ > 0 ? flat_block : ahead_;
    return (labels ? *kernel_.of_labels : kernel_).sums;
  }
  bool takes_little() const {
    return std::any_of(std::begin(set_.pairs), std::end(set_.pairs), [this](const map_pair<T>& p) {
      return p.first == r_.loss || p.second == r_.loss;
    });
  }
  // The loops over a plain loss and, after it, another; null if there are none.
  const map_sums<T>* loops_with(const call& other) const {
    for (const map_pair<T>& pair : set_.pairs)
      if (pair.first == r_.loss && pair.second == other.r_.loss) return &pair.sums;
    return nullptr;
  }
  // The elements [first, first + n): whole rows, or a part of one. A part of a row of a map loss
  // leaves the value of that row to the caller.
  double on_panel(std::int64_t first, std::int64_t n, const sinks<T>& to) const;
  // Long rows: their losses, and what the gradients of the panels in them need.
  double begin_long_rows(std::int64_t first, std::int64_t n);
  double value(double sum_of_losses) const { return norm_ * mean_ * sum_of_losses; }
  void row_value(std::int64_t row, double sum_of_losses) const;

 private:
  // Checks labels, and finds what multiplies losses and gradients.
  void prepare();
  // What the sum of weighted losses is multiplied by.
  double normalization() const;
  // The sum of the factors over the rows that count; per-element factors count as row means.
  double total(const factors<T>& f) const;
  void drop_ignored(const tile& at, T* w) const;
  void check_labels(std::int64_t first, std::int64_t n) const;
  bool is_integral(std::int64_t row) const;
  bool output_overlaps_input() const;
  sinks<T> arrays() const {
    return {{grad_pred_, streams_, set_.memory}, {grad_true_, streams_, set_.memory}};
  }

  // map_driver.cpp. Nothing if the targets are to be binary and are not.
  std::optional<double> run_map(bool expect_binary);
  double run_hinge();
  void take_labels_for_signs(bool binary);
  // Whether targets are such that the cheaper kernel for labels does.
  bool are_labels(const T* t, std::int64_t n) const;
  bool labels_are_binary(std::int64_t most = std::numeric_limits<std::int64_t>::max()) const;
  // Whether all gradients are times the same, and no row has a value of its own.
  bool has_one_scale() const {
    return weights_.empty() && !upstream_ && r_.reduce != reduction::none;
  }
  double map_tile(const tile& at, const sinks<T>& to) const;
  double map_panel(std::int64_t first, std::int64_t n, const sinks<T>& to) const;
  double map_run(std::int64_t first, std::int64_t n, const T* t, const T* p, T scale,
                 const sink<T>& to) const;
  double map_rows(const tile& at, const T* t, const T* p, const sink<T>& to) const;
  double map_elements(const tile& at, const T* t, const T* p, const sinks<T>& to) const;
  void scales(const tile& at, const T* w, T* out) const;

  // row_driver.cpp: one row after the other, elements in vector lanes.
  struct row_state;
  struct long_rows;
  double run_rows() const;
  double run_long_row(std::int64_t row, T* kept, const sinks<T>& to) const;
  double run_short_row(std::int64_t row, const sinks<T>& to) const;
  void prefetch_labels(std::int64_t row, std::int64_t n) const;
  T reduce_long_row(std::int64_t row, T* kept, row_state& s) const;
  template <class Reduce>
  T reduce_row(std::int64_t row, row_state& s, Reduce reduce) const;
  template <class ForEachBlock>
  void gradients(std::int64_t row, const row_state& s, const T* kept, const sinks<T>& to,
                 ForEachBlock for_each_block) const;
  std::int64_t blocks_of_row() const { return (r_.cols + block - 1) / block; }
  void reduce_by_blocks(std::int64_t row, row_state& s, T* kept) const;
  void reduce_at_once(std::int64_t row, row_state& s, T* kept) const;
  bool prepare(std::int64_t row, row_state& s) const;
  void accumulate(int phase, const tile& at, const row_state& s, T* kept, double* sums) const;
  void gradient(const tile& at, const row_state& s, const T* kept, const sinks<T>& to) const;
  void zero_gradient(const tile& at, const sinks<T>& to) const;
  void long_row_panel(std::int64_t first, std::int64_t n, const sinks<T>& to) const;

  // lane_driver.cpp: many rows at once, each in a vector lane.
  bool fits_lanes() const;
  struct lane_arrays;
  struct lane_weights;
  void prepare_lanes();
  double run_lanes();
  double lane_task(std::int64_t row, std::int64_t n, const sinks<T>& to) const;
  void label_lanes(std::int64_t row, std::int64_t n, lane_block<T> rows, const sink<T>& to) const;
  void weigh_lanes(std::int64_t row, std::int64_t n, const lane_weights& plain, lane_weights& own,
                   lane_block<T>& rows) const;

  bool transforms_target() const {
    return class_weight_ || target_scale_ != 1 || target_shift_ != 0;
  }
  // The targets of a tile of at most `block` elements as the formula sees them.
  const T* targets(const tile& at, T* scratch) const;
  // Gradients with respect to the given targets from those with respect to the transformed ones.
  void untransform(const tile& at, T* d_true) const;
  void multiply_by_class_weight(const tile& at, T* x) const;
  void prepare_class_weight();

  const request& r_;
  const kernel_set<T>& set_;
  const loss_kernel<T>& kernel_;
  const loss_info& info_;
  view t_, p_;
  std::optional<view> class_weight_, upstream_, grad_pred_, grad_true_, values_;
  double target_scale_, target_shift_;
  factors<T> weights_;
  int wants_ = 0, threads_ = 1;
  bool streams_ = false;           // gradients are written past the caches
  std::int64_t ahead_ = 0;         // how many elements ahead loops ask for memory
  std::int64_t rows_between_ = 1;  // this row and the one that its thread is likely to take next
  // From `prepare`. What multiplies sums of losses: `norm_` for a reduction, `mean_` where a row's
  // loss is a mean. What multiplies gradients beside weights: `scale_`.
  double slope_, norm_ = 1, mean_ = 1;
  T scale_ = 1;
  // A class weight that all classes have, where it may multiply the loss of a row instead.
  T row_factor_ = 1;
  std::vector<T> class_weight_copy_;
  std::shared_ptr<const lane_arrays> lanes_;
  std::shared_ptr<long_rows> long_rows_;
  alignas(16) unsigned char functor_[functor_bytes];
  alignas(16) unsigned char label_functor_[functor_bytes];
};

// Elements of which a gradient is streamed at once: while so few are written, the processor does
// not stop to read ahead.
inline constexpr std::int64_t streamed_piece = 256;

// Elements for which a team costs more than it saves.
inline constexpr std::int64_t serial_below = 16384;

// Elements from which loops ask for memory ahead: in smaller arrays, the next tile is mostly that
// of another thread. They do so for a page ahead, at whose end the processor stops to read on by
// itself.
inline constexpr std::int64_t prefetched_from = 1 << 18;
template <class T>
inline constexpr std::int64_t page = 4096 / sizeof(T);

// Whether a call that reads and writes so many arrays of so many elements writes its gradients past
// the caches. Those of a smaller one are found there by who reads them next.
template <class T>
bool fills_caches(std::int64_t arrays, std::int64_t elements) {
  constexpr std::int64_t caches = 32'000'000;  // bytes
  return arrays * elements * std::int64_t(sizeof(T)) >= caches;
}

}  // namespace fastloss::cpu
