// How the grid of a call is cut, and the weights of what was cut.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "api.h"
#include "cpu/kernels.h"
#include "cpu/view.h"

namespace fastloss::cpu {

inline constexpr std::int64_t block =
    2048;  // elements handed to a kernel at once; some fit into L1

// The same where rows do not matter, and there is less to each element.
inline constexpr std::int64_t flat_block = 2 * block;

// A rectangle of the grid: whole rows, or a part of one row.
struct tile {
  std::int64_t row, rows, col, cols;
  std::int64_t size() const { return rows * cols; }
};

struct tiling {
  std::int64_t rows, cols, rows_per_tile, tiles_per_row, cols_per_tile;
  tiling(std::int64_t rows, std::int64_t cols, std::int64_t most = block) : rows(rows), cols(cols) {
    rows_per_tile = std::max<std::int64_t>(1, most / cols);
    tiles_per_row = (cols + most - 1) / most;
    cols_per_tile = (cols + tiles_per_row - 1) / tiles_per_row;
    if (tiles_per_row > 1) cols_per_tile = (cols_per_tile + sum_lanes - 1) / sum_lanes * sum_lanes;
  }
  std::int64_t count() const {
    return tiles_per_row > 1 ? rows * tiles_per_row : (rows + rows_per_tile - 1) / rows_per_tile;
  }
  tile at(std::int64_t i) const {
    if (tiles_per_row > 1) {
      std::int64_t col = i % tiles_per_row * cols_per_tile;
      return {i / tiles_per_row, 1, col, std::clamp<std::int64_t>(cols - col, 0, cols_per_tile)};
    }
    std::int64_t row = i * rows_per_tile;
    return {row, std::min(rows_per_tile, rows - row), 0, cols};
  }
};

inline double sum_in_order(const std::vector<double>& partial) {
  double sum = 0;
  for (double x : partial) sum += x;
  return sum;
}

// The product of factors (weight, mask, upstream) over rows or elements. A zero wins over NaN.
template <class T>
class factors {
 public:
  void add(const std::optional<factor>& f) {
    if (!f) return;
    sources_.push_back({coalesced(f->values), f->per_element});
    per_element_ |= f->per_element;
  }
  bool empty() const { return sources_.empty(); }
  bool per_element() const { return per_element_; }

  // out[i] = product for row first + i; only if no factor is per element.
  void rows(std::int64_t first, std::int64_t n, T* out) const {
    fill(out, n, [&](const view& v, bool, T* scratch) { return load(v, first, n, scratch); });
  }
  void elements(const tile& t, std::int64_t cols, T* out) const {
    fill(out, t.size(), [&](const view& v, bool per_element, T* scratch) {
      return per_element ? load(v, t.row * cols + t.col, t.size(), scratch)
                         : for_elements(v, t, scratch);
    });
  }
  // What each row has, for each of its elements.
  static const T* for_elements(const view& of_rows, const tile& t, T* out) {
    if (t.cols == 1) return load(of_rows, t.row, t.rows, out);
    T scratch[block];
    const T* row = load(of_rows, t.row, t.rows, scratch);
    for (std::int64_t r = 0; r < t.rows; ++r) std::fill_n(out + r * t.cols, t.cols, row[r]);
    return out;
  }

 private:
  template <class Get>
  void fill(T* out, std::int64_t n, Get get) const {
    if (sources_.empty()) return void(std::fill_n(out, n, T(1)));
    T scratch[block];
    for (const factor& f : sources_) {
      const bool is_first = &f == sources_.data();
      const T* x = get(f.values, f.per_element, is_first ? out : scratch);
      if (!is_first)
        kernels().get<T>().memory.multiply(x, n, out);
      else if (x != out)
        std::copy_n(x, n, out);
    }
  }
  std::vector<factor> sources_;
  bool per_element_ = false;
};

}  // namespace fastloss::cpu
