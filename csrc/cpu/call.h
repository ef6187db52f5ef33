// One request in progress: its arrays, its kernel, and what the ways to run it share.
#pragma once

#include <cstdint>
#include <optional>

#include "api.h"
#include "cpu/kernels.h"
#include "cpu/tiles.h"
#include "cpu/view.h"

namespace fastloss::cpu {

template <class T>
class call {
 public:
  explicit call(const request& r);
  double run();
  void check_labels() const;

 private:
  // What the sum of weighted losses is multiplied by.
  double normalization() const;
  // The sum of the factors over the rows that count; per-element factors count as row means.
  double total(const factors<T>& f) const;
  void drop_ignored(const tile& at, T* w) const;
  void check_labels(std::int64_t first, std::int64_t n) const;
  bool is_integral(std::int64_t row) const;
  bool output_overlaps_input() const;

  // map_driver.cpp. `scale` multiplies gradients, `mean` the unreduced values; nothing if the
  // targets are to be binary and are not.
  std::optional<double> run_map(double scale, double mean, bool expect_binary);
  double run_hinge(double scale, double mean);
  bool labels_are_binary() const;
  bool are_labels(const T* t, std::int64_t n) const;
  void scales(const tile& at, const T* w, T scale, T* out) const;

  // row_driver.cpp: one row after the other, elements in vector lanes.
  struct row_state;
  double run_rows(double norm) const;
  template <class ForEachBlock>
  double run_row(std::int64_t row, double norm, T* kept, ForEachBlock for_each_block) const;
  template <class ForEachBlock>
  void reduce_by_blocks(std::int64_t row, row_state& s, T* kept, ForEachBlock for_each_block) const;
  void reduce_at_once(std::int64_t row, row_state& s, T* kept) const;
  bool prepare(std::int64_t row, double norm, row_state& s) const;
  void accumulate(int phase, const tile& at, const row_state& s, T* kept, double* sums) const;
  void gradient(const tile& at, const row_state& s, const T* kept) const;
  void zero_gradient(const tile& at) const;

  // lane_driver.cpp: many rows at once, each in a vector lane.
  bool fits_lanes() const;
  double run_lanes(double norm) const;
  struct lane_weights;
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

  // Where a kernel writes a gradient, and what brings it into the array if that is elsewhere.
  T* begin_output(const std::optional<view>& v, std::int64_t first, std::int64_t n,
                  T* scratch) const {
    return !v ? nullptr : streams_ ? scratch : output(*v, first, n, scratch);
  }
  void end_output(const std::optional<view>& v, std::int64_t first, std::int64_t n,
                  T* scratch) const;

  const request& r_;
  const kernel_set<T>& set_;
  const loss_kernel<T>& kernel_;
  const loss_info& info_;
  view t_, p_;
  std::optional<view> class_weight_, upstream_, grad_pred_, grad_true_, values_;
  double target_scale_, target_shift_;
  factors<T> weights_;
  int wants_ = 0, threads_ = 1;
  bool streams_ = false;  // the gradients are so large that they are written past the caches
  alignas(16) unsigned char functor_[functor_bytes];
  alignas(16) unsigned char label_functor_[functor_bytes];
};

}  // namespace fastloss::cpu
