// Losses of rows, many rows at once, each in a vector lane: for rows that are too short to fill
// vectors, and for classes that do not lie side by side in memory because their axis is not the
// last.
#include <algorithm>
#include <cstdlib>
#include <utility>

#include "cpu/call.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"

namespace fastloss::cpu {

using std::int64_t;

namespace {

// Columns up to which rows are faster in lanes although they have to be transposed.
constexpr int64_t short_row = 112;

// Columns up to which lanes are used where rows lie side by side: their blocks stay in the L2
// cache.
constexpr int64_t tall_column = 4096;

// An array of lanes in memory: class c of lane k at [c * stride + k].
template <class T>
struct lane_array {
  T* data;
  int64_t stride;
  T* next = data;  // where the lanes that follow are to be read, if not in the same place
};

// The grid as lanes.
template <class T>
class lane_view {
 public:
  lane_view(const view& grid, int64_t rows) : all_(coalesced(grid)) {
    view row_axes{grid.data, grid.type, {}}, col_axes{grid.data, grid.type, {}};
    int64_t product = 1;
    for (const axis& a : grid.axes) {
      (product < rows ? row_axes : col_axes).axes.push_back(a);
      product *= a.size;
    }
    rows_ = coalesced(row_axes);
    cols_ = coalesced(col_axes);
    for (const axis& a : cols_.axes) cols_size_ *= a.size;
    rows_are_adjacent_ =
        std::abs(rows_.axes.back().stride) < std::abs(cols_.axes.back().stride) || cols_size_ == 1;
  }

  // The rows [row, row + n) where they are, if they lie side by side; otherwise no data.
  lane_array<T> in_place(int64_t row, int64_t n) const {
    const int64_t stride = cols_.axes[0].stride;
    if (n < lanes<T> || cols_.axes.size() > 1 || stride % int64_t(sizeof(T)) != 0)
      return {nullptr, 0};
    T none;
    T* at = output(rows_, row, n, &none);
    if (at == &none) return {nullptr, 0};
    return {at, stride / int64_t(sizeof(T))};
  }

  lane_array<const T> load(int64_t row, int64_t n, T* scratch, const memory_loops<T>& loops) const {
    if (const auto here = in_place(row, n); here.data) return {here.data, here.stride};
    if (rows_are_adjacent_) {
      view rows = rows_;
      for (int64_t c = 0; c < cols_size_; ++c) {
        rows.data = rows_.data + offset(c);
        T* to = scratch + c * lanes<T>;
        const T* from = cpu::load(rows, row, n, to);
        if (from != to) std::copy_n(from, n, to);
        std::fill_n(to + n, lanes<T> - n, T(0));
      }
    } else {
      T* rows = thread_scratch<T>(scratch_use::rows, cols_size_ * lanes<T>);
      const T* from = cpu::load(*all_, row * cols_size_, n * cols_size_, rows);
      if (n < lanes<T>) {
        if (from != rows) std::copy_n(from, n * cols_size_, rows);
        std::fill_n(rows + n * cols_size_, (lanes<T> - n) * cols_size_, T(0));
        from = rows;
      }
      loops.to_lanes(from, cols_size_, scratch);
      if (from != rows) return {scratch, lanes<T>, from + n * cols_size_};
    }
    return {scratch, lanes<T>};
  }

  void store(int64_t row, int64_t n, const T* scratch, const memory_loops<T>& loops,
             bool streams) const {
    if (rows_are_adjacent_) {
      view rows = rows_;
      for (int64_t c = 0; c < cols_size_; ++c) {
        rows.data = rows_.data + offset(c);
        const T* from = scratch + c * lanes<T>;
        T none, *to = streams ? output(rows, row, n, &none) : &none;
        if (to != &none)
          loops.stream(from, n, to);
        else
          cpu::store(rows, row, n, from);
      }
    } else {
      store_rows(sink<T>(all_, streams, loops), row, n, scratch, loops);
    }
  }

  // The lanes as rows, one after the other.
  void store_rows(const sink<T>& sink_, int64_t row, int64_t n, const T* scratch,
                  const memory_loops<T>& loops) const {
    const int64_t first = row * cols_size_, size = n * cols_size_;
    T* rows = thread_scratch<T>(scratch_use::rows, cols_size_ * lanes<T>);
    T* to = sink_.begin(first, size, rows);
    loops.from_lanes(scratch, cols_size_, n < lanes<T> ? rows : to);
    if (to != rows && n < lanes<T>) std::copy_n(rows, size, to);
    sink_.end(first, size, rows);
  }

 private:
  int64_t offset(int64_t c) const {
    int64_t bytes = 0;
    for (std::size_t d = cols_.axes.size(); d-- > 0; c /= cols_.axes[d].size)
      bytes += c % cols_.axes[d].size * cols_.axes[d].stride;
    return bytes;
  }
  std::optional<view> all_;
  view rows_, cols_;
  int64_t cols_size_ = 1;
  bool rows_are_adjacent_ = false;
};

}  // namespace

template <class T>
bool call<T>::fits_lanes() const {
  if (r_.rows < lanes<T> / 4) return false;
  return r_.cols <= short_row || (r_.inner_rows >= lanes<T> / 4 && r_.cols <= tall_column);
}

template <class T>
struct call<T>::lane_weights {
  alignas(cache_line) T weight[lanes<T>], scale[lanes<T>], label_value[lanes<T>];
  int64_t label[lanes<T>];
};

// What all tasks of a call read.
template <class T>
struct call<T>::lane_arrays {
  lane_view<T> t, p;
  std::optional<lane_view<T>> d_pred, d_true;
  lane_weights plain;  // what rows without weights have
};

template <class T>
void call<T>::prepare_lanes() {
  auto own = std::make_shared<lane_arrays>(lane_arrays{
      {info_.sparse ? r_.y_pred : r_.y_true, r_.rows}, {r_.y_pred, r_.rows}, {}, {}, {}});
  if (grad_pred_) own->d_pred.emplace(*r_.grad_pred, r_.rows);
  if (grad_true_) own->d_true.emplace(*r_.grad_true, r_.rows);
  std::fill_n(own->plain.weight, lanes<T>, row_factor_);
  std::fill_n(own->plain.scale, lanes<T>, scale_ * row_factor_);
  std::fill_n(own->plain.label_value, lanes<T>, T(1));
  lanes_ = own;
}

template <class T>
double call<T>::run_lanes() {
  prepare_lanes();
  const int64_t tasks = (r_.rows + lanes<T> - 1) / lanes<T>;
  std::vector<double> partial(tasks);
  const sinks<T> to = arrays();
  parallel_for(tasks, threads_, [&](int64_t i) {
    const int64_t row = i * lanes<T>;
    partial[i] = lane_task(row, std::min<int64_t>(lanes<T>, r_.rows - row), to);
  });
  return sum_in_order(partial);
}

// A loss that reads the label alone of each row, as if the label were the only class.
template <class T>
void call<T>::label_lanes(int64_t row, int64_t n, lane_block<T> rows, const sink<T>& to) const {
  const int64_t first = row * r_.cols, size = n * r_.cols;
  alignas(cache_line) T p[lanes<T>], kept[lanes<T>], d_pred[lanes<T>];
  int64_t only_class[lanes<T>];
  T none;
  const T* here = output(p_, first, size, &none);
  for (int k = 0; k < lanes<T>; ++k) {
    const int64_t at = k * r_.cols + rows.label[k];
    const bool counts = k < n && rows.label[k] >= 0;
    only_class[k] = counts ? 0 : -1;
    p[k] = !counts ? T(1) : here != &none ? here[at] : *load(p_, first + at, 1, &none);
  }
  const int64_t* label = std::exchange(rows.label, only_class);
  rows.classes = 1;
  rows.p = rows.next_p = p;
  rows.kept = kept;
  rows.d_pred = d_pred;
  kernel_.in_lanes[to ? wants_pred : wants_value](functor_, rows);
  if (!to) return;
  T* scratch = thread_scratch<T>(scratch_use::rows, size);
  T* out = to.begin(first, size, scratch);
  std::fill_n(out, size, T(0));
  for (int k = 0; k < n; ++k) {
    if (const T others = rows.scale[k] * T(0); others != 0)  // an upstream that is not finite
      std::fill_n(out + k * r_.cols, r_.cols, others);
    if (only_class[k] == 0) out[k * r_.cols + label[k]] = d_pred[k];
  }
  to.end(first, size, scratch);
}

// The rows [row, row + n), at most `lanes`; returns the sum of their losses, or stores these.
template <class T>
double call<T>::lane_task(int64_t row, int64_t n, const sinks<T>& to) const {
  const int64_t size = r_.cols * lanes<T>;
  const memory_loops<T>& loops = set_.memory;
  alignas(cache_line) T loss[lanes<T>];
  lane_block<T> rows{};
  rows.classes = r_.cols;
  lane_weights own;
  weigh_lanes(row, n, lanes_->plain, own, rows);
  rows.loss = loss;
  const auto finish = [&] {
    if (r_.reduce != reduction::none) return loops.weighted_sum(loss, nullptr, n);
    store(*values_, row, n, loss);
    return 0.0;
  };
  if (kernel_.reads_label_alone && r_.inner_rows < lanes<T> / 4) {
    label_lanes(row, n, rows, to.pred);
    return finish();
  }
  rows.kept = thread_scratch<T>(scratch_use::kept, kernel_.keeps ? size : 0);

  const auto p = lanes_->p.load(row, n, thread_scratch<T>(scratch_use::pred, size), loops);
  rows.p = p.data;
  rows.p_stride = p.stride;
  rows.next_p = rows.next_t = p.next;
  const T* class_weight = class_weight_ ? class_weight_copy_.data() : nullptr;
  if (!info_.uses_target) {
    rows.t = p.data;
    rows.t_stride = p.stride;
  } else if (!info_.sparse) {
    T* scratch = thread_scratch<T>(scratch_use::target, size);
    auto t = lanes_->t.load(row, n, scratch, loops);
    if (transforms_target()) {
      const T by = T(target_scale_), shift = T(target_shift_);
      for (int64_t c = 0; c < r_.cols; ++c)
        for (int k = 0; k < lanes<T>; ++k) {
          const T x = t.data[c * t.stride + k] * by + shift;
          scratch[c * lanes<T> + k] = class_weight ? x * class_weight[c] : x;
        }
      t = {scratch, lanes<T>, t.next};
    }
    rows.next_t = t.next;
    rows.t = t.data;
    rows.t_stride = t.stride;
  }
  const auto begin = [&](const sink<T>& one, const std::optional<lane_view<T>>& array,
                         scratch_use use) {
    if (!one) return lane_array<T>{nullptr, 0};
    if (one.array() && !one.streams())
      if (const lane_array<T> here = array->in_place(row, n); here.data) return here;
    return lane_array<T>{thread_scratch<T>(use, size), lanes<T>};
  };
  const lane_array<T> d_pred = begin(to.pred, lanes_->d_pred, scratch_use::d_pred),
                      d_true = begin(to.truth, lanes_->d_true, scratch_use::d_true);
  rows.d_pred = d_pred.data;
  rows.d_pred_stride = d_pred.stride;
  rows.d_true = d_true.data;
  rows.d_true_stride = d_true.stride;

  to.pred.ask(row * r_.cols, n * r_.cols);
  to.truth.ask(row * r_.cols, n * r_.cols);
  const int wants = (to.pred ? wants_pred : 0) | (to.truth ? wants_true : 0);
  kernel_.in_lanes[wants](functor_, rows);

  if (d_true.data && transforms_target())
    for (int64_t c = 0; c < r_.cols; ++c) {
      const T by = T(target_scale_);
      T* x = d_true.data + c * d_true.stride;
      for (int k = 0; k < lanes<T>; ++k)
        x[k] = class_weight ? x[k] * by * class_weight[c] : x[k] * by;
    }
  const auto end = [&](const sink<T>& one, const std::optional<lane_view<T>>& array,
                       scratch_use use, const T* data) {
    if (!one || data != thread_scratch<T>(use, size)) return;
    if (one.array())
      array->store(row, n, data, loops, one.streams());
    else
      lanes_->p.store_rows(one, row, n, data, loops);
  };
  end(to.pred, lanes_->d_pred, scratch_use::d_pred, d_pred.data);
  end(to.truth, lanes_->d_true, scratch_use::d_true, d_true.data);
  return finish();
}

// The weight, gradient scale and label of each lane. A row that does not count, or is none, gets a
// weight and scale of zero and no label. `plain` holds what rows without weights have.
template <class T>
void call<T>::weigh_lanes(int64_t row, int64_t n, const lane_weights& plain, lane_weights& own,
                          lane_block<T>& rows) const {
  const bool even = weights_.empty() && !upstream_ && !r_.ignore_class && n == lanes<T>;
  if (!even) {
    weights_.rows(row, n, own.weight);
    for (int64_t k = 0; k < n; ++k) own.weight[k] *= row_factor_;
    std::fill_n(own.weight + n, lanes<T> - n, T(0));
  }
  rows.label_value = plain.label_value;
  if (info_.sparse) {
    rows.label = load(t_, row, n, own.label);
    if (!even) {
      for (int64_t k = 0; k < lanes<T>; ++k) {
        if (k < n && r_.ignore_class && rows.label[k] == *r_.ignore_class) own.weight[k] = 0;
        own.label[k] = own.weight[k] == 0 ? -1 : rows.label[k];
      }
      rows.label = own.label;
    }
    if (class_weight_) {
      for (int k = 0; k < lanes<T>; ++k)
        if (rows.label[k] >= 0) own.label_value[k] = class_weight_copy_[rows.label[k]];
      rows.label_value = own.label_value;
    }
  }
  rows.weight = even ? plain.weight : own.weight;
  rows.scale = even ? plain.scale : own.scale;
  if (even) return;
  for (int k = 0; k < lanes<T>; ++k) own.scale[k] = scale_ * own.weight[k];
  if (upstream_) {
    T scratch[lanes<T>];
    const T* upstream = load(*upstream_, row, n, scratch);
    for (int64_t k = 0; k < n; ++k)
      own.scale[k] = own.weight[k] == 0 ? T(0) : own.scale[k] * upstream[k];
  }
}

template class call<float>;
template class call<double>;

}  // namespace fastloss::cpu
