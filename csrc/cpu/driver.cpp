// Runs a request on the CPU: cuts the grid into tiles, feeds tiles to the kernels, and adds partial
// sums in an order that depends on shapes alone. So the result has the same bits for every number
// of threads.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "api.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/view.h"

namespace fastloss {
namespace cpu {
namespace {

using std::int64_t;

constexpr int64_t block = 2048;  // elements handed to a kernel at once; a few fit into L1
constexpr int64_t serial_below =
    32768;  // elements for which waking a team costs more than it saves
constexpr int64_t split_rows_above = 65536;  // columns from which threads share a row

bool is_floating(dtype type) {
  return type == dtype::f16 || type == dtype::bf16 || type == dtype::f32 || type == dtype::f64;
}

// A rectangle of the grid: whole rows, or a part of one row.
struct tile {
  int64_t row, rows, col, cols;
  int64_t size() const { return rows * cols; }
};

struct tiling {
  int64_t rows, cols, rows_per_tile, tiles_per_row, cols_per_tile;
  tiling(int64_t rows, int64_t cols) : rows(rows), cols(cols) {
    rows_per_tile = std::max<int64_t>(1, block / cols);
    tiles_per_row = (cols + block - 1) / block;
    cols_per_tile = (cols + tiles_per_row - 1) / tiles_per_row;
    if (tiles_per_row > 1) cols_per_tile = (cols_per_tile + 15) / 16 * 16;  // whole cache lines
  }
  int64_t count() const {
    return tiles_per_row > 1 ? rows * tiles_per_row : (rows + rows_per_tile - 1) / rows_per_tile;
  }
  tile at(int64_t i) const {
    if (tiles_per_row > 1) {
      int64_t col = i % tiles_per_row * cols_per_tile;
      return {i / tiles_per_row, 1, col, std::clamp<int64_t>(cols - col, 0, cols_per_tile)};
    }
    int64_t row = i * rows_per_tile;
    return {row, std::min(rows_per_tile, rows - row), 0, cols};
  }
};

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
  void rows(int64_t first, int64_t n, T* out) const {
    fill(out, n, [&](const view& v, bool, T* scratch) { return load(v, first, n, scratch); });
  }
  void elements(const tile& t, int64_t cols, T* out) const {
    fill(out, t.size(), [&](const view& v, bool per_element, T* scratch) {
      if (per_element) return load(v, t.row * cols + t.col, t.size(), scratch);
      T by_row[block];
      const T* row = load(v, t.row, t.rows, by_row);
      for (int64_t r = 0; r < t.rows; ++r) std::fill_n(scratch + r * t.cols, t.cols, row[r]);
      return static_cast<const T*>(scratch);
    });
  }

 private:
  template <class Get>
  void fill(T* out, int64_t n, Get get) const {
    std::fill_n(out, n, T(1));
    T scratch[block];
    for (const factor& f : sources_) {
      const T* x = get(f.values, f.per_element, scratch);
      for (int64_t i = 0; i < n; ++i) out[i] = out[i] == 0 || x[i] == 0 ? T(0) : out[i] * x[i];
    }
  }
  std::vector<factor> sources_;
  bool per_element_ = false;
};

template <class T>
class call {
 public:
  explicit call(const request& r)
      : r_(r),
        set_(kernels().get<T>()),
        kernel_(set_.losses[r.loss].chosen_for(r.parameters.data())),
        info_(losses()[r.loss]),
        t_(coalesced(r.y_true)),
        p_(coalesced(r.y_pred)),
        target_scale_(r.target_scale),
        target_shift_(r.target_shift) {
    kernel_.construct(r.parameters.data(), functor_);
    if (r.class_weight) class_weight_ = coalesced(*r.class_weight);
    if (r.row_upstream) upstream_ = coalesced(*r.row_upstream);
    if (r.grad_pred) grad_pred_ = coalesced(*r.grad_pred);
    if (r.grad_true) grad_true_ = coalesced(*r.grad_true);
    if (r.values) values_ = coalesced(*r.values);
    wants_ = (r.grad_pred ? wants_pred : 0) | (r.grad_true ? wants_true : 0);
    weights_.add(r.sample_weight);
    weights_.add(r.mask);
    threads_ = r.rows * r.cols < serial_below ? 1 : r.threads;
  }

  double run() {
    if (info_.sparse) check_labels();
    if (kernel_.label_signs && labels_are_binary()) {
      target_scale_ = 2;
      target_shift_ = -1;
    }
    const double norm = normalization();
    const double mean = kernel_.averages ? 1.0 / double(r_.cols) : 1.0;
    const double sum = info_.kind == "map" ? run_map(norm * mean, mean) : run_rows(norm);
    return r_.reduce == reduction::none ? 0 : norm * mean * sum;
  }

 private:
  // What the sum of weighted losses is multiplied by.
  double normalization() {
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
  static double inverse(double x) { return x == 0 ? 0 : 1 / x; }

  // The sum of the factors over the rows that count; per-element factors count as row means.
  double total(const factors<T>& f) {
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
      partial[i] = set_.weighted_sum(w, nullptr, at.size());
    });
    return sum_in_order(partial) / double(tiles.cols);
  }
  void drop_ignored(const tile& at, T* w) const {
    int64_t scratch[block];
    const int64_t* labels = load(t_, at.row, at.rows, scratch);
    for (int64_t i = 0; i < at.rows; ++i)
      if (labels[i] == *r_.ignore_class) w[i] = 0;
  }

  static double sum_in_order(const std::vector<double>& partial) {
    double sum = 0;
    for (double x : partial) sum += x;
    return sum;
  }

  // Rows that are ignored or have no weight may hold any label.
  void check_labels() {
    for (int64_t first = 0; first < r_.rows; first += block) {
      const int64_t n = std::min(block, r_.rows - first);
      int64_t scratch[block];
      const int64_t* labels = load(t_, first, n, scratch);
      int64_t least = labels[0], most = labels[0];
      for (int64_t i = 1; i < n; ++i) {
        least = std::min(least, labels[i]);
        most = std::max(most, labels[i]);
      }
      const bool floating = is_floating(t_.type);
      if (least >= 0 && most < r_.cols && !floating) continue;
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
  }
  bool is_integral(int64_t row) const {
    double scratch;
    const double label = *load(t_, row, 1, &scratch);
    return std::isfinite(label) && label == std::floor(label);
  }

  bool labels_are_binary() const {
    const int64_t size = r_.rows * r_.cols;
    std::atomic<bool> binary{true};
    parallel_for((size + block - 1) / block, threads_, [&](int64_t b) {
      if (!binary.load(std::memory_order_relaxed)) return;
      T scratch[block];
      const int64_t n = std::min(block, size - b * block);
      const T* t = load(t_, b * block, n, scratch);
      int64_t others = 0;
      for (int64_t i = 0; i < n; ++i) others += t[i] != T(0) && t[i] != T(1);
      if (others > 0) binary = false;
    });
    return binary;
  }

  bool transforms_target() const {
    return class_weight_ || target_scale_ != 1 || target_shift_ != 0;
  }
  // The targets of a tile as the formula sees them.
  const T* targets(const tile& at, T* scratch) const {
    const T* t = load(t_, at.row * r_.cols + at.col, at.size(), scratch);
    if (!transforms_target()) return t;
    const T scale = T(target_scale_), shift = T(target_shift_);
    for (int64_t i = 0; i < at.size(); ++i) scratch[i] = t[i] * scale + shift;
    multiply_by_class_weight(at, scratch);
    return scratch;
  }
  // Gradients with respect to the given targets from those with respect to the transformed ones.
  void untransform(const tile& at, T* d_true) const {
    const T scale = T(target_scale_);
    for (int64_t i = 0; i < at.size(); ++i) d_true[i] *= scale;
    multiply_by_class_weight(at, d_true);
  }
  void multiply_by_class_weight(const tile& at, T* x) const {
    if (!class_weight_) return;
    T scratch[block];
    const T* c = load(*class_weight_, at.col, at.cols, scratch);
    for (int64_t r = 0; r < at.rows; ++r)
      for (int64_t j = 0; j < at.cols; ++j) x[r * at.cols + j] *= c[j];
  }

  // ---- map ----

  // `scale` multiplies gradients, `mean` the unreduced values.
  double run_map(double scale, double mean) {
    const tiling tiles(r_.rows, r_.cols);
    std::vector<double> partial(tiles.count());
    std::vector<T> constant(std::min(block, r_.rows * r_.cols), T(scale * r_.upstream));
    parallel_for(tiles.count(), threads_, [&](int64_t i) {
      const tile at = tiles.at(i);
      if (at.size() == 0) return;
      const int64_t first = at.row * r_.cols + at.col;
      T t_scratch[block], p_scratch[block], w[block], s_scratch[block], loss[block];
      T d_pred_scratch[block], d_true_scratch[block];
      const T* t = targets(at, t_scratch);
      const T* p = load(p_, first, at.size(), p_scratch);
      const T* s = constant.data();
      const bool weighted = !weights_.empty();
      if (weighted) weights_.elements(at, r_.cols, w);
      if (weighted || upstream_) {
        scales(at, weighted ? w : nullptr, s[0], s_scratch);
        s = s_scratch;
      }
      T* d_pred = grad_pred_ ? output(*grad_pred_, first, at.size(), d_pred_scratch) : nullptr;
      T* d_true = grad_true_ ? output(*grad_true_, first, at.size(), d_true_scratch) : nullptr;
      kernel_.map[wants_](functor_, t, p, s, loss, d_pred, d_true, at.size());
      if (d_true && transforms_target()) untransform(at, d_true);
      if (d_pred == d_pred_scratch) store(*grad_pred_, first, at.size(), d_pred);
      if (d_true == d_true_scratch) store(*grad_true_, first, at.size(), d_true);

      const T* weight = weighted ? w : nullptr;
      if (r_.reduce != reduction::none || tiles.tiles_per_row > 1) {
        partial[i] = set_.weighted_sum(loss, weight, at.size());
      } else {
        T sums[block];
        for (int64_t r = 0; r < at.rows; ++r)
          sums[r] = T(mean * set_.weighted_sum(loss + r * at.cols,
                                               weight ? weight + r * at.cols : nullptr, at.cols));
        store(*values_, at.row, at.rows, sums);
      }
    });
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

  // scale * weight * upstream, per element.
  void scales(const tile& at, const T* w, T scale, T* out) const {
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

  // ---- row and region ----

  struct row_state {
    alignas(16) unsigned char stats[stats_bytes] = {};
    one_hot<T> label{-1, T(1)};
    T weight = 1, scale = 1;
  };

  double run_rows(double norm) {
    const int64_t blocks = (r_.cols + block - 1) / block;
    if (r_.cols >= split_rows_above && r_.rows < 4 * int64_t(threads_)) {
      double sum = 0;
      for (int64_t row = 0; row < r_.rows; ++row)
        sum += run_row(row, norm, [&](auto body) { parallel_for(blocks, threads_, body); });
      return sum;
    }
    const int64_t rows_per_task = std::max<int64_t>(1, 2 * block / r_.cols);
    const int64_t tasks = (r_.rows + rows_per_task - 1) / rows_per_task;
    std::vector<double> partial(r_.rows);
    parallel_for(tasks, threads_, [&](int64_t i) {
      const int64_t end = std::min(r_.rows, (i + 1) * rows_per_task);
      for (int64_t row = i * rows_per_task; row < end; ++row)
        partial[row] = run_row(row, norm, [&](auto body) {
          for (int64_t b = 0; b < blocks; ++b) body(b);
        });
    });
    return sum_in_order(partial);
  }

  // One row, its blocks run by `for_each_block`; returns its weighted loss.
  template <class ForEachBlock>
  double run_row(int64_t row, double norm, ForEachBlock for_each_block) {
    row_state s;
    if (!prepare(row, norm, s)) {
      write_value(row, T(0));
      for_each_block([&](int64_t b) { zero_gradient(block_at(row, b)); });
      return 0;
    }
    const int64_t blocks = (r_.cols + block - 1) / block;
    for (int phase = 0; phase < kernel_.phases; ++phase) {
      const bool is_max = phase == 0 && kernel_.first_phase_is_max;
      const double start = is_max ? -std::numeric_limits<double>::infinity() : 0;
      struct sums_of_block {
        double v[3];
      };
      sums_of_block one{{start, start, start}};
      std::vector<sums_of_block> many(blocks > 1 ? blocks : 0, one);
      for_each_block([&](int64_t b) {
        accumulate(phase, block_at(row, b), s, (blocks > 1 ? many[b] : one).v);
      });
      for (const sums_of_block& part : many)
        for (int k = 0; k < 3; ++k)
          one.v[k] = is_max ? std::max(one.v[k], part.v[k]) : one.v[k] + part.v[k];
      kernel_.finish[phase](functor_, one.v, s.stats);
    }
    const T loss = s.weight * kernel_.row_loss(functor_, s.stats);
    write_value(row, loss);
    if (wants_) for_each_block([&](int64_t b) { gradient(block_at(row, b), s); });
    return loss;
  }

  tile block_at(int64_t row, int64_t b) const {
    return {row, 1, b * block, std::min(block, r_.cols - b * block)};
  }

  // Fills the label, weight and scale of a row; false if the row does not count.
  bool prepare(int64_t row, double norm, row_state& s) const {
    if (!weights_.empty()) weights_.rows(row, 1, &s.weight);
    if (s.weight == 0) return false;
    if (info_.sparse) {
      int64_t scratch;
      s.label.position = *load(t_, row, 1, &scratch);
      if (r_.ignore_class && s.label.position == *r_.ignore_class) return false;
      if (class_weight_) {
        T weight;
        s.label.value = *load(*class_weight_, s.label.position, 1, &weight);
      }
    }
    s.scale = T(norm * r_.upstream) * s.weight;
    if (upstream_) {
      T scratch;
      s.scale *= *load(*upstream_, row, 1, &scratch);
    }
    return true;
  }

  one_hot<T> label_in(const tile& at, const row_state& s) const {
    return {s.label.position - at.col, s.label.value};
  }

  void accumulate(int phase, const tile& at, const row_state& s, double* sums) const {
    T t_scratch[block], p_scratch[block];
    const T* t = info_.sparse ? nullptr : targets(at, t_scratch);
    const T* p = load(p_, at.row * r_.cols + at.col, at.cols, p_scratch);
    kernel_.accumulate[phase](functor_, s.stats, t, label_in(at, s), p, at.cols, sums);
  }

  void gradient(const tile& at, const row_state& s) const {
    if (s.scale == 0) return zero_gradient(at);
    const int64_t first = at.row * r_.cols + at.col;
    T t_scratch[block], p_scratch[block], d_pred_scratch[block], d_true_scratch[block];
    const T* t = info_.sparse ? nullptr : targets(at, t_scratch);
    const T* p = load(p_, first, at.cols, p_scratch);
    T* d_pred = grad_pred_ ? output(*grad_pred_, first, at.cols, d_pred_scratch) : nullptr;
    T* d_true = grad_true_ ? output(*grad_true_, first, at.cols, d_true_scratch) : nullptr;
    kernel_.gradient[wants_](functor_, s.stats, t, label_in(at, s), p, s.scale, d_pred, d_true,
                             at.cols);
    if (d_true && transforms_target()) untransform(at, d_true);
    if (d_pred == d_pred_scratch) store(*grad_pred_, first, at.cols, d_pred);
    if (d_true == d_true_scratch) store(*grad_true_, first, at.cols, d_true);
  }

  void zero_gradient(const tile& at) const {
    const T zeros[block] = {};
    const int64_t first = at.row * r_.cols + at.col;
    if (grad_pred_) store(*grad_pred_, first, at.cols, zeros);
    if (grad_true_) store(*grad_true_, first, at.cols, zeros);
  }

  void write_value(int64_t row, T value) const {
    if (r_.reduce == reduction::none) store(*values_, row, 1, &value);
  }

  const request& r_;
  const kernel_set<T>& set_;
  const loss_kernel<T>& kernel_;
  const loss_info& info_;
  view t_, p_;
  std::optional<view> class_weight_, upstream_, grad_pred_, grad_true_, values_;
  double target_scale_, target_shift_;
  factors<T> weights_;
  int wants_ = 0, threads_ = 1;
  alignas(16) unsigned char functor_[functor_bytes];
};

template <std::size_t N>
std::vector<std::string> as_vector(const names<N>& n) {
  return {n.values, n.values + N};
}
std::vector<std::string> as_vector(const no_names&) { return {}; }

template <template <class> class... Loss>
std::vector<loss_info> describe(loss_list<Loss...>) {
  constexpr const char* kinds[] = {"map", "row", "region", "pairwise"};
  return {{Loss<float>::name, kinds[static_cast<int>(Loss<float>::loss_kind)], Loss<float>::sparse,
           as_vector(Loss<float>::parameters)}...};
}

}  // namespace
}  // namespace cpu

const std::vector<loss_info>& losses() {
  static const std::vector<loss_info> all = cpu::describe(all_losses{});
  return all;
}

double run(const request& r) {
  if (r.compute == dtype::f64) return cpu::call<double>(r).run();
  return cpu::call<float>(r).run();
}

}  // namespace fastloss
