// A sum of losses of the same arrays: every term is done on a panel, a part of the grid that stays
// in the cache, before the next panel is begun. The first term writes the gradient of the panel,
// the others add to it, and memory gets it once.
#include <algorithm>
#include <deque>

#include "cpu/call.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"

namespace fastloss {
namespace cpu {
namespace {

using std::int64_t;

template <class T>
constexpr dtype own_type = sizeof(T) == 8 ? dtype::f64 : dtype::f32;

// Elements that losses of elements are computed on, one after the other: the fewer, the sooner the
// processor reads on.
constexpr int64_t plain_piece = 512;

// Terms whose sums are kept in the L1 cache side by side.
constexpr std::size_t max_plain = 8;

bool same_axes(const view& a, const view& b) {
  const view x = coalesced(a), y = coalesced(b);
  return x.data == y.data && x.type == y.type &&
         std::equal(
             x.axes.begin(), x.axes.end(), y.axes.begin(), y.axes.end(),
             [](const axis& i, const axis& j) { return i.size == j.size && i.stride == j.stride; });
}

bool same_axes(const std::optional<view>& a, const std::optional<view>& b) {
  return !a || !b || same_axes(*a, *b);
}

template <class T>
class sum_of_losses {
 public:
  sum_of_losses(const std::vector<request>& terms, const std::vector<double>& coefficients)
      : coefficients_(coefficients), terms_(terms), values_(terms.size()) {
    const request& r = terms_[0];
    values_out_ = r.values;
    reduces_ = r.reduce != reduction::none;
    size_ = r.rows * r.cols;
    threads_ = size_ < serial_below ? 1 : r.threads;
    t_ = p_ = coalesced(r.y_pred);
    for (request& term : terms_) {
      if (losses()[term.loss].uses_target) t_ = coalesced(term.y_true);
      if (!reduces_) {
        std::vector<T>& own = values_[&term - terms_.data()];
        own.resize(term.rows);
        term.values =
            view{reinterpret_cast<char*>(own.data()), own_type<T>, {{term.rows, sizeof(T)}}};
      }
      if (term.grad_pred) grad_pred_ = coalesced(*term.grad_pred);
      if (term.grad_true) grad_true_ = coalesced(*term.grad_true);
    }
    const int64_t outputs = (grad_pred_ ? 1 : 0) + (grad_true_ ? 1 : 0);
    streams_ = outputs * size_ * int64_t(sizeof(T)) >= stream_from;
  }

  double run() {
    for (std::size_t k = 0; k < terms_.size(); ++k)
      calls_.emplace_back(terms_[k], coefficients_[k]);
    if (size_ == 0) return 0;
    for (call<T>& term : calls_) term.prepare_for_panels();
    cut();
    const int64_t panels = size_ / row_ * panels_per_row_;
    std::vector<std::vector<double>> partial(calls_.size(), std::vector<double>(panels));
    std::vector<double> sums(calls_.size());
    for (int64_t start = 0; start < size_; start += segment_) {
      for (std::size_t k = 0; k < calls_.size(); ++k)
        if (calls_[k].has_long_rows()) sums[k] += calls_[k].begin_long_rows(start, segment_);
      const int64_t before = start / row_ * panels_per_row_;
      parallel_for(segment_ / row_ * panels_per_row_, threads_, [&](int64_t i) {
        const int64_t panel = before + i, offset = panel % panels_per_row_ * panel_;
        const int64_t first = panel / panels_per_row_ * row_ + offset;
        run_panel(first, std::min(panel_, row_ - offset), panel, partial);
      });
    }
    return combine(partial, sums);
  }

 private:
  // Panels are whole rows of the losses whose rows are short, and parts of the rows of the others;
  // so they do not cross the end of any long row. A segment is what the coarsest row loss with long
  // rows takes one value over: these have to be summed up before the panels in them begin.
  void cut() {
    all_plain_ = calls_.size() <= max_plain &&
                 std::all_of(calls_.begin(), calls_.end(),
                             [](const call<T>& term) { return term.is_plain(); });
    row_ = segment_ = size_;
    panel_ = std::min(size_, block);
    panels_per_row_ = (size_ + panel_ - 1) / panel_;
    if (all_plain_) return;
    int64_t unit = 1, longest = 0, in_lanes = 0;
    for (const call<T>& term : calls_) {
      const int64_t cols = term.cols();
      if (term.has_long_rows())
        longest = std::max(longest, cols);
      else if (!term.is_map() || cols <= block)
        unit = std::max(unit, cols);
      if (term.uses_lanes()) in_lanes = std::max(in_lanes, cols);
    }
    if (longest) segment_ = longest;
    for (const call<T>& term : calls_)
      if (term.cols() > unit) row_ = std::min(row_, term.cols());
    // Rows in lanes come in full sets of lanes, unless the panels have to hold longer rows.
    if (in_lanes == unit) unit *= lanes<T>;
    panel_ = std::min(row_, (std::max(block, lanes<T> * in_lanes) + unit - 1) / unit * unit);
    panels_per_row_ = (row_ + panel_ - 1) / panel_;
  }

  void run_panel(int64_t first, int64_t n, int64_t panel,
                 std::vector<std::vector<double>>& partial) const {
    if (all_plain_) return run_plain_panel(first, n, panel, partial);
    const memory_loops<T>& loops = kernels().get<T>().memory;
    const auto room = [n](bool wanted, scratch_use use) {
      return wanted ? thread_scratch<T>(use, n) : nullptr;
    };
    T *sum_pred = room(grad_pred_.has_value(), scratch_use::sum_pred),
      *term_pred = room(grad_pred_.has_value(), scratch_use::term_pred),
      *sum_true = room(grad_true_.has_value(), scratch_use::sum_true),
      *term_true = room(grad_true_.has_value(), scratch_use::term_true);
    const auto to_panel = [first](T* at) { return at ? sink<T>(at, first) : sink<T>(); };
    for (std::size_t k = 0; k < calls_.size(); ++k) {
      const bool adds = k > 0;
      partial[k][panel] = calls_[k].on_panel(
          first, n, {to_panel(adds ? term_pred : sum_pred), to_panel(adds ? term_true : sum_true)});
      if (adds && sum_pred) loops.add(term_pred, n, sum_pred);
      if (adds && sum_true) loops.add(term_true, n, sum_true);
    }
    write(grad_pred_, first, n, sum_pred, loops);
    write(grad_true_, first, n, sum_true, loops);
  }

  // Losses of elements, in pieces so small that the processor reads ahead while the terms are
  // computed. The last term adds to those before it on the way to memory.
  void run_plain_panel(int64_t first, int64_t n, int64_t panel,
                       std::vector<std::vector<double>>& partial) const {
    T t_scratch[block], p_scratch[block];
    alignas(cache_line) T out_scratch[block], before[plain_piece];
    lane_sums sums[max_plain];
    const T *t = load(t_, first, n, t_scratch), *p = load(p_, first, n, p_scratch);
    T* out = grad_pred_ ? output(*grad_pred_, first, n, out_scratch) : nullptr;
    const bool in_place = out && out != out_scratch, streams = in_place && streams_ && is_line(out);
    const std::size_t last = calls_.size() - 1;
    bool labels[max_plain];
    for (std::size_t k = 0; k <= last; ++k) labels[k] = calls_[k].are_labels(t, n);
    for (int64_t i = 0; i < n; i += plain_piece) {
      const int64_t m = std::min(plain_piece, n - i);
      for (std::size_t k = 0; k <= last; ++k) {
        T* to = !out ? nullptr : k < last ? before : out + i;
        calls_[k].plain_piece(labels[k], t + i, p + i, k ? before : nullptr, to,
                              k == last && streams, m, sums[k]);
      }
    }
    if (out && !in_place) store(*grad_pred_, first, n, out);
    for (std::size_t k = 0; k <= last; ++k) partial[k][panel] = sums[k].total();
  }

  void write(const std::optional<view>& array, int64_t first, int64_t n, const T* panel,
             const memory_loops<T>& loops) const {
    if (!array) return;
    T none, *to = output(*array, first, n, &none);
    if (to != &none && streams_)
      loops.stream(panel, n, to);
    else
      store(*array, first, n, panel);
  }

  // Every sum is added up in an order that the shapes alone decide.
  double combine(const std::vector<std::vector<double>>& partial, std::vector<double>& sums) {
    double total = 0;
    for (std::size_t k = 0; k < calls_.size(); ++k) {
      const double c = coefficients_[k];
      const double value = calls_[k].value(sums[k] + sum_in_order(partial[k]));
      if (c != 0) total += c * value;
      if (!reduces_ && calls_[k].is_map() && calls_[k].cols() > panel_) add_up_rows(k, partial[k]);
    }
    if (!reduces_) store_values();
    return total;
  }

  void add_up_rows(std::size_t k, const std::vector<double>& partial) {
    const int64_t panels = calls_[k].cols() / row_ * panels_per_row_;
    for (int64_t row = 0; row < terms_[k].rows; ++row) {
      double sum = 0;
      for (int64_t i = 0; i < panels; ++i) sum += partial[row * panels + i];
      calls_[k].row_value(row, sum);
    }
  }

  void store_values() const {
    const view out = coalesced(*values_out_);
    for (int64_t row = 0; row < terms_[0].rows; ++row) {
      double sum = 0;
      for (std::size_t k = 0; k < calls_.size(); ++k)
        if (coefficients_[k] != 0) sum += coefficients_[k] * double(values_[k][row]);
      const T value = T(sum);
      store(out, row, 1, &value);
    }
  }

  const std::vector<double>& coefficients_;
  std::vector<request> terms_;
  std::vector<std::vector<T>> values_;  // of the terms, where nothing is reduced
  std::optional<view> values_out_;
  std::deque<call<T>> calls_;
  std::optional<view> grad_pred_, grad_true_;
  view t_, p_;
  bool reduces_ = true, streams_ = false, all_plain_ = false;
  int threads_ = 1;
  int64_t size_ = 0, row_ = 1, panel_ = 1, panels_per_row_ = 1, segment_ = 1;
};

}  // namespace
}  // namespace cpu

double run_sum(const std::vector<request>& terms, const std::vector<double>& coefficients) {
  if (terms[0].compute == dtype::f64) return cpu::sum_of_losses<double>(terms, coefficients).run();
  return cpu::sum_of_losses<float>(terms, coefficients).run();
}

bool runs_as_sum(const std::vector<request>& terms) {
  std::vector<std::int64_t> cols;
  for (const request& r : terms) {
    cols.push_back(r.cols);
    if (!cpu::same_axes(r.y_pred, terms[0].y_pred) ||
        !cpu::same_axes(r.grad_pred, terms[0].grad_pred) ||
        !cpu::same_axes(r.grad_true, terms[0].grad_true))
      return false;
  }
  // Rows lie in each other.
  std::sort(cols.begin(), cols.end());
  for (std::size_t k = 1; k < cols.size(); ++k)
    if (cols[k] % cols[k - 1] != 0) return false;
  return true;
}

}  // namespace fastloss
