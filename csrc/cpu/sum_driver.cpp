// A sum of losses of the same arrays: every term is done on a panel, a part of the grid that stays
// in the cache, before the next panel is begun. The first term writes the gradient of the panel,
// the others add to it, and memory gets it once. Plain losses come last, because their loops add
// on the way to memory; two of them may share one.
#include <algorithm>
#include <deque>

#include "cpu/call.h"
#include "cpu/float_mode.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"

namespace fastloss {
namespace cpu {
namespace {

using std::int64_t;

template <class T>
constexpr dtype own_type = sizeof(T) == 8 ? dtype::f64 : dtype::f32;

// Elements that plain losses are computed on, one after the other: the fewer, the sooner the
// processor reads on.
constexpr int64_t plain_piece = 128;

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
    int64_t inputs = 1;
    for (request& term : terms_) {
      const loss_info& info = losses()[term.loss];
      if (info.uses_target) t_ = coalesced(term.y_true);
      if (info.uses_target && !info.sparse) inputs = 2;
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
    streams_ = fills_caches<T>(inputs + outputs, size_);
  }

  double run() {
    for (std::size_t k = 0; k < terms_.size(); ++k)
      calls_.emplace_back(terms_[k], coefficients_[k]);
    if (size_ == 0) return 0;
    for (call<T>& term : calls_) term.prepare_for_panels();
    arrange();
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
  // Plain losses that one loop does.
  struct step {
    std::size_t terms;
    const map_sums<T>* pair;  // null for a single one, whose loop depends on the targets
  };

  // What takes long comes first, because the processor reads on meanwhile: losses of elements
  // before those of rows and, among plain ones, pairs last. Beside other losses, only those that
  // take little are done as plain ones.
  void arrange() {
    std::vector<std::size_t> rest, paired;
    const bool all_plain = std::all_of(calls_.begin(), calls_.end(),
                                       [](const call<T>& term) { return term.is_plain(); });
    for (std::size_t k = 0; k < calls_.size(); ++k) {
      const call<T>& term = calls_[k];
      const bool joins = term.is_plain() && (all_plain || term.takes_little());
      (joins && rest.size() < max_plain ? rest : others_).push_back(k);
    }
    std::stable_partition(others_.begin(), others_.end(),
                          [this](std::size_t k) { return calls_[k].is_map(); });
    // As pairs name their losses.
    std::stable_sort(rest.begin(), rest.end(), [this](std::size_t a, std::size_t b) {
      return terms_[a].loss < terms_[b].loss;
    });
    std::vector<step> pairs;
    while (!rest.empty()) {
      const std::size_t first = rest.front();
      rest.erase(rest.begin());
      const map_sums<T>* loops = nullptr;
      const auto second = std::find_if(rest.begin(), rest.end(), [&](std::size_t k) {
        return (loops = calls_[first].loops_with(calls_[k])) != nullptr;
      });
      if (loops) {
        paired.insert(paired.end(), {first, *second});
        pairs.push_back({2, loops});
        rest.erase(second);
      } else {
        plain_.push_back(first);
        steps_.push_back({1, nullptr});
      }
    }
    plain_.insert(plain_.end(), paired.begin(), paired.end());
    steps_.insert(steps_.end(), pairs.begin(), pairs.end());
  }

  // Panels are whole rows of the losses whose rows are short, and parts of the rows of the others;
  // so they do not cross the end of any long row. A segment is what the coarsest row loss with long
  // rows takes one value over: these have to be summed up before the panels in them begin. Plain
  // losses take any part.
  void cut() {
    row_ = segment_ = size_;
    panel_ = std::min(size_, block);
    panels_per_row_ = (size_ + panel_ - 1) / panel_;
    if (others_.empty()) return;
    int64_t unit = 1, longest = 0, in_lanes = 0;
    for (const std::size_t k : others_) {
      const call<T>& term = calls_[k];
      const int64_t cols = term.cols();
      if (term.has_long_rows())
        longest = std::max(longest, cols);
      else if (!term.is_map() || cols <= block)
        unit = std::max(unit, cols);
      if (term.uses_lanes()) in_lanes = std::max(in_lanes, cols);
    }
    if (longest) segment_ = longest;
    for (const std::size_t k : others_)
      if (calls_[k].cols() > unit) row_ = std::min(row_, calls_[k].cols());
    // Rows in lanes come in full sets of lanes, unless the panels have to hold longer rows.
    if (in_lanes == unit) unit *= lanes<T>;
    panel_ = std::min(row_, (std::max(block, lanes<T> * in_lanes) + unit - 1) / unit * unit);
    panels_per_row_ = (row_ + panel_ - 1) / panel_;
  }

  void run_panel(int64_t first, int64_t n, int64_t panel,
                 std::vector<std::vector<double>>& partial) const {
    const memory_loops<T>& loops = kernels().get<T>().memory;
    const auto room = [&](const std::optional<view>& array, scratch_use use) {
      return array && !others_.empty() ? thread_scratch<T>(use, n) : nullptr;
    };
    T *sum_pred = room(grad_pred_, scratch_use::sum_pred),
      *term_pred = room(grad_pred_, scratch_use::term_pred),
      *sum_true = room(grad_true_, scratch_use::sum_true),
      *term_true = room(grad_true_, scratch_use::term_true);
    const auto to_panel = [first](T* at) { return at ? sink<T>(at, first) : sink<T>(); };
    for (const std::size_t k : others_) {
      const bool adds = k != others_[0];
      partial[k][panel] = calls_[k].on_panel(
          first, n, {to_panel(adds ? term_pred : sum_pred), to_panel(adds ? term_true : sum_true)});
      if (adds && sum_pred) loops.add(term_pred, n, sum_pred);
      if (adds && sum_true) loops.add(term_true, n, sum_true);
    }
    if (sum_true) write(*grad_true_, first, n, sum_true, loops);
    if (plain_.empty()) {
      if (sum_pred) write(*grad_pred_, first, n, sum_pred, loops);
      return;
    }
    map_term<T> terms[max_plain];
    for (std::size_t k = 0; k < plain_.size(); ++k) terms[k] = calls_[plain_[k]].plain_term();
    for (int64_t i = 0; i < n; i += block)
      run_plain(first + i, std::min(block, n - i), sum_pred ? sum_pred + i : nullptr, terms);
    for (std::size_t k = 0; k < plain_.size(); ++k)
      partial[plain_[k]][panel] = terms[k].sums.total();
  }

  // The plain losses of a block, in pieces so small that the processor reads ahead while the terms
  // are computed. `sum` has the gradients of the other losses, if there are any.
  void run_plain(int64_t first, int64_t n, T* sum, map_term<T>* terms) const {
    T t_scratch[block], p_scratch[block];
    alignas(cache_line) T out_scratch[block], steps_before[plain_piece];
    const T *t = load(t_, first, n, t_scratch), *p = load(p_, first, n, p_scratch);
    const map_sums<T>* loops[max_plain];
    std::size_t of_step = 0;
    for (std::size_t s = 0; s < steps_.size(); of_step += steps_[s++].terms)
      loops[s] = steps_[s].pair ? steps_[s].pair
                                : &calls_[plain_[of_step]].plain_loops(t, n, terms[of_step]);
    T* out = grad_pred_ ? output(*grad_pred_, first, n, out_scratch) : nullptr;
    const bool in_place = out && out != out_scratch, streams = in_place && streams_;
    const int64_t to_line = streams ? elements_to_line(out) : 0;
    const int64_t piece = steps_.size() > 1 ? plain_piece : block;
    // Each loss is added to the lane of its element, wherever lines begin.
    const auto turn = [&](int64_t by) {
      for (std::size_t k = 0; k < plain_.size(); ++k) rotate(terms[k].sums, by);
    };
    for (int64_t i = 0, m; i < n; i += m) {
      m = std::min(i < to_line ? to_line : piece, n - i);
      const T* before = sum ? sum + i : nullptr;
      map_term<T>* term = terms;
      for (std::size_t s = 0; s < steps_.size(); term += steps_[s++].terms) {
        const bool is_last = s + 1 == steps_.size();
        T* to = !out ? nullptr : is_last ? out + i : sum ? sum + i : steps_before;
        loops[s]->run(term, t + i, p + i, before, to, is_last && streams && i >= to_line, m);
        before = to;
      }
      if (i < to_line) turn(m);
    }
    if (to_line > 0) turn(sum_lanes - std::min(to_line, n));
    if (out && !in_place) store(*grad_pred_, first, n, out);
  }

  void write(const view& array, int64_t first, int64_t n, const T* panel,
             const memory_loops<T>& loops) const {
    T none, *to = output(array, first, n, &none);
    if (to != &none && streams_)
      loops.stream(panel, n, to);
    else
      store(array, first, n, panel);
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
  std::vector<std::size_t> others_, plain_;  // the terms, in the order of their steps
  std::vector<step> steps_;
  bool reduces_ = true, streams_ = false;
  int threads_ = 1;
  int64_t size_ = 0, row_ = 1, panel_ = 1, panels_per_row_ = 1, segment_ = 1;
};

}  // namespace
}  // namespace cpu

double run_sum(const std::vector<request>& terms, const std::vector<double>& coefficients) {
  const cpu::float_mode mode;
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
