// Losses of rows, one row after the other, with the elements of a row in vector lanes.
#include <algorithm>
#include <limits>

#include "cpu/call.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"

namespace fastloss::cpu {

using std::int64_t;

template <class T>
struct call<T>::row_state {
  alignas(16) unsigned char stats[stats_bytes] = {};
  one_hot<T> label{-1, T(1)};
  T weight = 1, scale = 1;
  bool counts = false;  // otherwise its loss and gradient are zero
};

// The long rows that the panels of a sum lie in.
template <class T>
struct call<T>::long_rows {
  int64_t first = 0;  // element
  std::vector<row_state> states;
  std::vector<T> kept;
};

template <class T>
double call<T>::run_rows() const {
  const sinks<T> to = arrays();
  if (r_.cols > (r_.rows < many_rows ? long_row : longest_row)) {
    // Threads share every row: their parts of it stay in their caches.
    std::vector<T> kept(kernel_.keeps ? r_.cols : 0);
    double sum = 0;
    for (int64_t row = 0; row < r_.rows; ++row) sum += run_long_row(row, kept.data(), to);
    return sum;
  }
  const int64_t rows_per_task = std::max<int64_t>(1, 2 * block / r_.cols);
  const int64_t tasks = (r_.rows + rows_per_task - 1) / rows_per_task;
  std::vector<double> partial(tasks);
  parallel_for(tasks, threads_, [&](int64_t i) {
    const int64_t end = std::min(r_.rows, (i + 1) * rows_per_task);
    if (kernel_.reads_label_alone) prefetch_labels(end, std::min(rows_per_task, r_.rows - end));
    for (int64_t row = i * rows_per_task; row < end; ++row) partial[i] += run_short_row(row, to);
  });
  return sum_in_order(partial);
}

// A row; returns its weighted loss. `kept` has room for what the functor keeps of every element.
template <class T>
double call<T>::run_long_row(int64_t row, T* kept, const sinks<T>& to) const {
  row_state s;
  const T loss = reduce_long_row(row, kept, s);
  gradients(row, s, kept, to, [&](auto body) { parallel_for(blocks_of_row(), threads_, body); });
  return loss;
}

template <class T>
double call<T>::run_short_row(int64_t row, const sinks<T>& to) const {
  T* kept = nullptr;
  if (kernel_.keeps) {
    // Streamed lines are made of what is kept, so it lies in lines as they do.
    constexpr int64_t line = cache_line / sizeof(T);
    const int64_t first = row * r_.cols, to_line = to.pred.to_line(first, r_.cols);
    kept = thread_scratch<T>(scratch_use::kept, r_.cols + line) + (line - to_line) % line;
  }
  row_state s;
  const T loss = reduce_row(row, s, [&] { reduce_at_once(row, s, kept); });
  gradients(row, s, kept, to, [&](auto body) {
    for (int64_t b = 0; b < blocks_of_row(); ++b) body(b);
  });
  return loss;
}

// Asks for the elements at the labels of n rows: each is in a line of its own, which no processor
// foresees.
template <class T>
void call<T>::prefetch_labels(int64_t row, int64_t n) const {
  int64_t scratch[16];
  T element;
  for (int64_t end = row + n; row < end; row += 16) {
    const int64_t m = std::min<int64_t>(16, end - row), *labels = load(t_, row, m, scratch);
    for (int64_t k = 0; k < m; ++k)
      if (labels[k] >= 0 && labels[k] < r_.cols) {
        const T* at = output(p_, (row + k) * r_.cols + labels[k], 1, &element);
        if (at != &element) prefetch(at, 1);
      }
  }
}

template <class T>
template <class ForEachBlock>
void call<T>::gradients(int64_t row, const row_state& s, const T* kept, const sinks<T>& to,
                        ForEachBlock for_each_block) const {
  if (!to.pred && !to.truth) return;
  for_each_block([&](int64_t b) {
    const tile at{row, 1, b * block, std::min(block, r_.cols - b * block)};
    gradient(at, s, kept + (kernel_.keeps ? b * block : 0), to);
  });
}

// Fills the state of a row; returns its weighted loss, which is stored if nothing reduces it.
template <class T>
template <class Reduce>
T call<T>::reduce_row(int64_t row, row_state& s, Reduce reduce) const {
  s.counts = prepare(row, s);
  T loss = 0;
  if (s.counts) {
    reduce();
    loss = s.weight * kernel_.row_loss(functor_, s.stats);
  }
  if (r_.reduce == reduction::none) store(*values_, row, 1, &loss);
  return loss;
}

template <class T>
T call<T>::reduce_long_row(int64_t row, T* kept, row_state& s) const {
  return reduce_row(row, s, [&] { reduce_by_blocks(row, s, kept); });
}

template <class T>
double call<T>::begin_long_rows(int64_t first, int64_t n) {
  if (!long_rows_) long_rows_ = std::make_shared<long_rows>();
  long_rows& rows = *long_rows_;
  rows.first = first;
  rows.states.assign(n / r_.cols, {});
  if (kernel_.keeps) rows.kept.resize(n);
  double sum = 0;
  for (std::size_t i = 0; i < rows.states.size(); ++i)
    sum += reduce_long_row(first / r_.cols + int64_t(i),
                           rows.kept.data() + (kernel_.keeps ? i * r_.cols : 0), rows.states[i]);
  return sum;
}

template <class T>
void call<T>::long_row_panel(int64_t first, int64_t n, const sinks<T>& to) const {
  if (!to.pred && !to.truth) return;
  const long_rows& rows = *long_rows_;
  for (int64_t e = first; e < first + n;) {
    const int64_t col = e % r_.cols;
    const tile at{e / r_.cols, 1, col, std::min({block, r_.cols - col, first + n - e})};
    gradient(at, rows.states[(e - rows.first) / r_.cols],
             rows.kept.data() + (kernel_.keeps ? e - rows.first : 0), to);
    e += at.cols;
  }
}

template <class T>
void call<T>::reduce_by_blocks(int64_t row, row_state& s, T* kept) const {
  struct sums_of_block {
    double v[3];
  };
  std::vector<sums_of_block> parts(blocks_of_row());
  for (int phase = 0; phase < kernel_.phases; ++phase) {
    const bool is_max = phase == 0 && kernel_.first_phase_is_max;
    const double start = is_max ? -std::numeric_limits<double>::infinity() : 0;
    parallel_for(blocks_of_row(), threads_, [&](int64_t b) {
      const int64_t col = b * block;
      parts[b] = {{start, start, start}};
      accumulate(phase, {row, 1, col, std::min(block, r_.cols - col)}, s,
                 kept + (kernel_.keeps ? col : 0), parts[b].v);
    });
    double sums[3] = {start, start, start};
    for (const sums_of_block& part : parts)
      for (int k = 0; k < 3; ++k)
        sums[k] = is_max ? std::max(sums[k], part.v[k]) : sums[k] + part.v[k];
    kernel_.finish[phase](functor_, sums, s.stats);
  }
}

template <class T>
void call<T>::reduce_at_once(int64_t row, row_state& s, T* kept) const {
  const int64_t first = row * r_.cols;
  const T* p = load(p_, first, r_.cols, thread_scratch<T>(scratch_use::pred, r_.cols));
  const T* t = nullptr;
  if (!info_.uses_target) {
    t = p;
  } else if (!info_.sparse) {
    T* scratch = thread_scratch<T>(scratch_use::target, r_.cols);
    t = scratch;
    if (!transforms_target())
      t = load(t_, first, r_.cols, scratch);
    else
      for (int64_t col = 0; col < r_.cols; col += block)
        targets({row, 1, col, std::min(block, r_.cols - col)}, scratch + col);
  }
  kernel_.summarize(functor_, t, s.label, p, kept, r_.cols, rows_between_ * r_.cols, s.stats);
}

// Fills the label, weight and scale of a row; false if the row does not count.
template <class T>
bool call<T>::prepare(int64_t row, row_state& s) const {
  if (!weights_.empty()) weights_.rows(row, 1, &s.weight);
  s.weight *= row_factor_;
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
  s.scale = scale_ * s.weight;
  if (upstream_) {
    T scratch;
    s.scale *= *load(*upstream_, row, 1, &scratch);
  }
  return true;
}

template <class T>
void call<T>::accumulate(int phase, const tile& at, const row_state& s, T* kept,
                         double* sums) const {
  T t_scratch[block], p_scratch[block];
  const T* t = info_.sparse ? nullptr : targets(at, t_scratch);
  const T* p = load(p_, at.row * r_.cols + at.col, at.cols, p_scratch);
  kernel_.accumulate[phase](functor_, s.stats, t, {s.label.position - at.col, s.label.value}, p,
                            kept, at.cols, sums);
}

template <class T>
void call<T>::gradient(const tile& at, const row_state& s, const T* kept,
                       const sinks<T>& to) const {
  if (!s.counts || s.scale == 0) return zero_gradient(at, to);
  const int64_t first = at.row * r_.cols + at.col;
  T t_scratch[block], p_scratch[block];
  alignas(cache_line) T d_pred_scratch[block], d_true_scratch[block];
  const T* t = info_.sparse ? nullptr : targets(at, t_scratch);
  const T* p = load(p_, first, at.cols, p_scratch);
  T* d_pred = to.pred ? to.pred.place(first, at.cols, d_pred_scratch) : nullptr;
  T* d_true = to.truth.begin(first, at.cols, d_true_scratch);
  const int wants = (d_pred ? wants_pred : 0) | (d_true ? wants_true : 0);
  const bool in_place = d_pred != d_pred_scratch, streams = to.pred.streams() && in_place;
  kernel_.gradient[wants](functor_, s.stats, t, {s.label.position - at.col, s.label.value}, p, kept,
                          s.scale, d_pred, streams, d_true, at.cols);
  if (d_true && transforms_target()) untransform(at, d_true);
  if (!in_place) to.pred.end(first, at.cols, d_pred_scratch);
  to.truth.end(first, at.cols, d_true_scratch);
}

template <class T>
void call<T>::zero_gradient(const tile& at, const sinks<T>& to) const {
  for (const sink<T>* one : {&to.pred, &to.truth})
    if (*one) one->clear(at.row * r_.cols + at.col, at.cols);
}

template class call<float>;
template class call<double>;

}  // namespace fastloss::cpu
