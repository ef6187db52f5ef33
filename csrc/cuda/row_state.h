// What the losses of rows have in common, whether one block does a row or many do.
#pragma once

#include "cuda/factors.h"
#include "cuda/kept_row.h"
#include "cuda/team.h"
#include "losses/loss.h"

namespace fastloss::cuda {

template <class T>
struct row_state {
  bool counts = false;     // otherwise its loss and gradient are zero
  bool is_broken = false;  // its label is none: the loss is NaN and the gradient zero
  int64_t label = -1;
  T label_weight = 1, weight = 0, scale = 0;
};

// A row of one of the losses in rows, as one thread of the team that does it sees it.
template <class F, class T>
struct row_of {
  using stats = typename F::stats;
  // A sparse loss whose entries are costly keeps them, once it has them, in place of y_pred.
  static constexpr bool keeps_entries = F::sparse && F::keeps > 0;
  static constexpr int arrays = F::sparse || !F::uses_target ? 1 : 2;
  using kept_row = cuda::kept_row<T, arrays>;
  const F& f;
  const arguments& a;
  int64_t row;
  run_of<T> preds, trues;
  kept_row kept;
  row_state<T> state;

  FASTLOSS_DEVICE row_of(const F& f, const arguments& a, int64_t row, bool exists, double norm,
                         const kept_row& kept)
      : f(f),
        a(a),
        row(row),
        preds(a.y_pred, row * a.cols, a.cols),
        trues(a.y_true, row * a.cols, a.cols),
        kept(kept) {
    if (!exists) return;
    state.weight = row_weight<T>(a, row);
    if (state.weight == 0) return;
    if constexpr (F::sparse) {
      state.label = load_one<int64_t>(a.y_true, row);
      const bool is_whole = double(state.label) == load_one<double>(a.y_true, row);
      if (is_whole && a.has_ignored_class && state.label == a.ignored_class) return;
      if (!is_whole || state.label < 0 || state.label >= a.cols) {
        state.is_broken = true;
        return;
      }
      if (a.class_weight.data) state.label_weight = load_one<T>(a.class_weight, state.label);
    }
    state.counts = true;
    state.scale = T(norm * a.upstream) * state.weight;
    if (a.upstream_by_row.data) state.scale *= load_one<T>(a.upstream_by_row, row);
  }

  // The targets of a packet as the formula sees them; of sparse rows the label is done apart.
  FASTLOSS_DEVICE numbers<T> targets(const fetched<T>& bits, int64_t col, int n) const {
    if constexpr (F::sparse) {
      return filled(T(0));
    } else {
      numbers<T> t = loaded<T>(bits, trues, col, n);
#pragma unroll
      for (int i = 0; i < packet; ++i) t.x[i] = t.x[i] * T(a.target_scale) + T(a.target_shift);
      multiply_by_class_weight(col, n, t);
      return t;
    }
  }
  // Begins to fetch the i-th packet of this thread.
  FASTLOSS_DEVICE fetched<T> fetch_preds(int i, int64_t col, int n) const {
    return kept.used ? kept.fetch(0, i, preds, n) : fetch<T>(preds, col, n);
  }
  FASTLOSS_DEVICE fetched<T> fetch_targets(int i, int64_t col, int n) const {
    if constexpr (F::sparse)
      return {};
    else
      return kept.used ? kept.fetch(arrays - 1, i, trues, n) : fetch<T>(trues, col, n);
  }
  FASTLOSS_DEVICE void multiply_by_class_weight(int64_t col, int n, numbers<T>& x) const {
    if (!a.class_weight.data) return;
    const numbers<T> c = gather<T>(a.class_weight, col, n);
#pragma unroll
    for (int i = 0; i < packet; ++i) x.x[i] *= c.x[i];
  }

  // Copies what this thread has of the columns to where it is kept.
  template <class Block>
  FASTLOSS_DEVICE void keep(Block& block, int64_t end, int rank, int threads) const {
    int i = 0;
    for (int64_t col = rank * packet; col < end; col += int64_t(threads) * packet, ++i) {
      const int n = int(end - col < packet ? end - col : packet);
      kept.copy(block, 0, i, preds, col, n);
      if constexpr (arrays == 2) kept.copy(block, 1, i, trues, col, n);
    }
    block.wait_for_copies();
  }

  // Adds (or takes the maxima of) the terms of a phase over the columns that this thread has.
  template <int Phase>
  FASTLOSS_DEVICE sums accumulate(phase<Phase> which, const stats& s, int64_t begin, int64_t end,
                                  int rank, int threads) const {
    constexpr bool is_max = Phase == 0 && F::first_phase_is_max;
    if constexpr (F::sparse) {
      if constexpr (Phase >= F::target_phase) {  // all but the label add nothing
        if (rank != 0 || state.label < begin || state.label >= end) return identity(is_max);
        const T p = load_one<T>(a.y_pred, row * a.cols + state.label);
        const row_terms<T> r = f.terms(which, state.label_weight, p, s);
        return {double(r.a), double(r.b), double(r.c)};
      }
    }
    constexpr int used = F::terms_used[Phase];
    constexpr bool has_new_entries = keeps_entries && Phase == F::keeps;
    constexpr T nothing = is_max ? -math::infinity<T> : T(0);
    sums total = identity(is_max);
    int i = 0;
    for (int64_t col = begin + rank * packet; col < end; col += int64_t(threads) * packet, ++i) {
      const int n = int(end - col < packet ? end - col : packet);
      const fetched<T> t_bits = fetch_targets(i, col, n), p_bits = fetch_preds(i, col, n);
      const numbers<T> t = targets(t_bits, col, n);
      const numbers<T> p = loaded<T>(p_bits, preds, col, n);
      numbers<T> entries;
      row_terms<T> sum{nothing, nothing, nothing};
#pragma unroll
      for (int k = 0; k < packet; ++k) {
        row_terms<T> r;
        if constexpr (has_new_entries) {
          entries.x[k] = f.keep(t.x[k], p.x[k], s);
          r = f.terms(which, t.x[k], p.x[k], entries.x[k], s);
        } else {
          r = f.terms(which, t.x[k], p.x[k], s);
        }
        if (k < n) combine(sum, r, is_max);
      }
      if constexpr (has_new_entries)
        if (kept.used) kept.put(0, i, entries);
      total.merge({double(sum.a), double(sum.b), double(sum.c)}, is_max, used);
    }
    return total;
  }
  FASTLOSS_DEVICE static void combine(row_terms<T>& sum, const row_terms<T>& r, bool is_max) {
    sum.a = is_max ? math::max(sum.a, r.a) : sum.a + r.a;
    sum.b = is_max ? math::max(sum.b, r.b) : sum.b + r.b;
    sum.c = is_max ? math::max(sum.c, r.c) : sum.c + r.c;
  }

  template <int Phase>
  FASTLOSS_DEVICE void finish(phase<Phase> which, const sums& x, stats& s) const {
    f.finish(which, row_terms<T>{T(x.a), T(x.b), T(x.c)}, s);
  }

  // Weighted.
  FASTLOSS_DEVICE T loss(const stats& s) const {
    if (state.is_broken) return math::infinity<T> - math::infinity<T>;
    return state.counts ? state.weight * f.loss(s) : T(0);
  }

  FASTLOSS_DEVICE void write_gradient(const stats& s, int64_t begin, int64_t end, int rank,
                                      int threads) const {
    const run_of<T> d_preds(a.grad_pred, row * a.cols, a.cols);
    const run_of<T> d_trues(a.grad_true, row * a.cols, a.cols);
    const bool is_zero = !state.counts || state.scale == 0;
    int i = 0;
    for (int64_t col = begin + rank * packet; col < end; col += int64_t(threads) * packet, ++i) {
      const int n = int(end - col < packet ? end - col : packet);
      numbers<T> d_pred = {}, d_true = {};
      if (!is_zero) {
        if (keeps_entries && kept.used)
          slopes_beside_label(i, s, d_pred);
        else
          slopes(i, col, n, s, d_pred, d_true);
        if (F::sparse && state.label >= col && state.label < col + n) {
          const T p = load_one<T>(a.y_pred, row * a.cols + state.label);
          const gradient_terms<T> r = f.gradient(state.label_weight, p, s);
#pragma unroll
          for (int k = 0; k < packet; ++k)
            if (col + k == state.label) d_pred.x[k] = state.scale * r.d_pred;
        }
      }
      if (a.grad_pred.data) store(d_preds, col, n, d_pred);
      if constexpr (!F::sparse) {
        if (!a.grad_true.data) continue;
        if (!is_zero) multiply_by_class_weight(col, n, d_true);
        store(d_trues, col, n, d_true);
      }
    }
  }

 private:
  FASTLOSS_DEVICE void slopes(int i, int64_t col, int n, const stats& s, numbers<T>& d_pred,
                              numbers<T>& d_true) const {
    const fetched<T> t_bits = fetch_targets(i, col, n), p_bits = fetch_preds(i, col, n);
    const numbers<T> t = targets(t_bits, col, n);
    const numbers<T> p = loaded<T>(p_bits, preds, col, n);
#pragma unroll
    for (int k = 0; k < packet; ++k) {
      const gradient_terms<T> r = f.gradient(t.x[k], p.x[k], s);
      d_pred.x[k] = state.scale * r.d_pred;
      d_true.x[k] = state.scale * r.d_true * T(a.target_scale);
    }
  }

  // From entries alone: see `keeps` in losses/loss.h.
  FASTLOSS_DEVICE void slopes_beside_label(int i, const stats& s, numbers<T>& d_pred) const {
    if constexpr (keeps_entries) {
      constexpr T unknown = std::numeric_limits<T>::quiet_NaN();
      const numbers<T> entries = kept.get(0, i);
#pragma unroll
      for (int k = 0; k < packet; ++k)
        d_pred.x[k] = state.scale * f.gradient(T(0), unknown, entries.x[k], s).d_pred;
    }
  }
};

}  // namespace fastloss::cuda
