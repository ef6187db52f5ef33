// Losses of rows: a row by a team of threads, or by many blocks.
#pragma once

#include "cuda/row_state.h"

namespace fastloss::cuda {

// Whole rows, each by one team, which sweeps over it once per phase and once for the gradient. If
// the launch has memory for it, only the first sweep reads the arrays.
template <class F, class T>
struct row_kernel {
  F f;
  arguments a;
  geometry g;

  template <class Block>
  FASTLOSS_DEVICE void operator()(Block& block) const {
    wide_team<Block> threads(block, g.team);
    const double norm = normalization(a);
    double total = 0;
    for (int64_t first = threads.first(); first < a.rows; first += threads.count()) {
      const int64_t index = first + threads.index();
      const bool exists = index < a.rows;
      const row_of<F, T> row(f, a, index, exists, norm,
                             {g.memory > 0, block.memory() + block.thread(), block.threads()});
      const int64_t end = row.state.counts ? a.cols : 0;
      typename F::stats stats{};
      if (g.memory) row.keep(block, end, threads.rank, threads.size);
      reduce(phase<0>{}, row, end, threads, stats);
      if constexpr (F::phases > 1) reduce(phase<1>{}, row, end, threads, stats);
      if constexpr (F::phases > 2) reduce(phase<2>{}, row, end, threads, stats);
      if (threads.rank == 0 && exists) {
        const T loss = row.loss(stats);
        total += loss;
        if (!a.reduces) store_one(a.values, index, loss);
      }
      if (exists && (a.grad_pred.data || a.grad_true.data))
        row.write_gradient(stats, 0, a.cols, threads.rank, threads.size);
      if (g.memory) block.barrier();  // the next row is copied after this one has been read
    }
    if (a.reduces) store_total<T>(block, a, g, total, norm);
  }

  template <int Phase, class Block>
  FASTLOSS_DEVICE static void reduce(phase<Phase> which, const row_of<F, T>& row, int64_t end,
                                     wide_team<Block>& threads, typename F::stats& stats) {
    constexpr bool is_max = Phase == 0 && F::first_phase_is_max;
    const sums own = row.accumulate(which, stats, 0, end, threads.rank, threads.size);
    row.finish(which, threads.combine(own, is_max), stats);
  }
};

// Few long rows, each in parts that blocks do. One launch per phase, after which the last block
// combines the parts; then one for the gradient.
template <class F, class T>
struct split_row_kernel {
  F f;
  arguments a;
  geometry g;

  template <class Block>
  FASTLOSS_DEVICE void operator()(Block& block) const {
    team<Block> threads(block, block.threads());
    if (g.launch == 0) return reduce(phase<0>{}, threads);
    if constexpr (F::phases > 1)
      if (g.launch == 1) return reduce(phase<1>{}, threads);
    if constexpr (F::phases > 2)
      if (g.launch == 2) return reduce(phase<2>{}, threads);
    const double norm = normalization(a);
    each_part(threads, norm, [&](const row_of<F, T>& row, int64_t begin, int64_t end, int64_t) {
      row.write_gradient(stats_of(row.row), begin, end, threads.rank, threads.size);
    });
  }

  FASTLOSS_DEVICE typename F::stats& stats_of(int64_t row) const {
    return static_cast<typename F::stats*>(a.stats)[row];
  }

  template <class Block, class Visit>
  FASTLOSS_DEVICE void each_part(team<Block>& threads, double norm, Visit visit) const {
    for (int64_t i = threads.block.index(); i < g.segments * g.parts; i += threads.block.blocks()) {
      const row_of<F, T> row(f, a, i / g.parts, true, norm, {});
      const int64_t begin = i % g.parts * g.part_length;
      visit(row, begin, begin + g.part_length < a.cols ? begin + g.part_length : a.cols, i);
    }
  }

  template <int Phase, class Block>
  FASTLOSS_DEVICE void reduce(phase<Phase> which, team<Block>& threads) const {
    constexpr bool is_max = Phase == 0 && F::first_phase_is_max;
    const double norm = normalization(a);
    each_part(threads, norm, [&](const row_of<F, T>& row, int64_t begin, int64_t end, int64_t i) {
      typename F::stats stats{};
      if (Phase > 0) stats = stats_of(row.row);
      const int64_t counted = row.state.counts ? end : begin;
      const sums own = row.accumulate(which, stats, begin, counted, threads.rank, threads.size);
      const sums part = threads.combine(own, is_max);
      if (threads.rank == 0) {
        double* to = a.partial + 3 * i;
        to[0] = part.a;
        to[1] = part.b;
        to[2] = part.c;
      }
    });
    if (!threads.block.is_last(&a.state->done[g.launch])) return;
    double total = 0;
    for (int64_t r = 0; r < a.rows; ++r) {
      sums x = identity(is_max);
      const volatile double* parts = a.partial + 3 * r * g.parts;
      for (int64_t i = threads.rank; i < g.parts; i += threads.size)
        x.merge({parts[3 * i], parts[3 * i + 1], parts[3 * i + 2]}, is_max);
      x = threads.combine(x, is_max);
      if (threads.rank != 0) continue;
      const row_of<F, T> row(f, a, r, true, norm, {});
      typename F::stats stats{};
      if (Phase > 0) stats = stats_of(r);
      row.finish(which, x, stats);
      stats_of(r) = stats;
      if (Phase < F::phases - 1) continue;
      const T loss = row.loss(stats);
      total += loss;
      if (!a.reduces) store_one(a.values, r, loss);
    }
    if (Phase == F::phases - 1 && a.reduces && threads.rank == 0)
      store_one(a.values, 0, T(norm * total));
  }
};

}  // namespace fastloss::cuda
