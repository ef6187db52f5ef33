// Losses of elements.
#pragma once

#include "cuda/factors.h"
#include "cuda/team.h"
#include "losses/loss.h"

namespace fastloss::cuda {

// A segment is what one value is the mean of: a row, or the whole grid if the call reduces.
template <class F, class T>
struct map_kernel {
  F f;
  arguments a;
  geometry g;

  template <class Block>
  FASTLOSS_DEVICE void operator()(Block& block) const {
    team<Block> threads(block, g.team);
    const bool one_part = g.parts == 1 && !a.reduces;
    const double norm = normalization(a);
    T target_scale = T(a.target_scale), target_shift = T(a.target_shift);
    if (a.labels_may_be_binary && !a.state->has_other_labels) {
      target_scale = 2;
      target_shift = -1;
    }
    const T scale = T(norm * a.mean * a.upstream);
    const int64_t units = g.segments * g.parts;
    for (int64_t base = block.index() * threads.per_block(); base < units;
         base += block.blocks() * threads.per_block()) {
      const int64_t unit = base + threads.index();
      double sum = 0;
      if (unit < units) {
        const int64_t begin = unit % g.parts * g.part_length;
        const int64_t end = begin + g.part_length < g.length ? begin + g.part_length : g.length;
        const int64_t start = unit / g.parts * g.length;
        for (int64_t i = begin + threads.rank * packet; i < end; i += threads.size * packet)
          sum += one_packet(start + i, int(end - i < packet ? end - i : packet), scale,
                            target_scale, target_shift);
      }
      sum = threads.combine(sum);
      if (unit >= units || threads.rank != 0) continue;
      if (one_part)
        store_one(a.values, unit, T(a.mean * sum));
      else
        a.partial[unit] = sum;
    }
    if (one_part || !block.is_last(&a.state->done[g.launch])) return;
    team<Block> all(block, block.threads());
    for (int64_t s = 0; s < g.segments; ++s) {
      const double sum = sum_of(all, a.partial + s * g.parts, g.parts);
      if (all.rank == 0) store_one(a.values, s, T(norm * a.mean * sum));
    }
  }

  // Writes the gradients of n elements; returns the sum of their weighted losses.
  FASTLOSS_DEVICE double one_packet(int64_t first, int n, T scale, T target_scale,
                                    T target_shift) const {
    const fetched<T> t_bits = fetch<T>(a.y_true, first, n), p_bits = fetch<T>(a.y_pred, first, n);
    numbers<T> w = filled(T(1)), s = filled(scale);
    multiply(a.weight, first, n, a.cols, w);
    multiply(a.mask, first, n, a.cols, w);
    if (a.upstream_by_row.data) {
      const numbers<T> u = gather_by_row<T>(a.upstream_by_row, first, n, a.cols);
#pragma unroll
      for (int i = 0; i < packet; ++i) s.x[i] *= u.x[i];
    }
    const numbers<T> t = loaded<T>(t_bits, a.y_true, first, n);
    const numbers<T> p = loaded<T>(p_bits, a.y_pred, first, n);
    numbers<T> d_pred, d_true;
    double sum = 0;
#pragma unroll
    for (int i = 0; i < packet; ++i) {
      const map_terms<T> r = f(t.x[i] * target_scale + target_shift, p.x[i]);
      const T by = product(s.x[i], w.x[i]);
      d_pred.x[i] = by == 0 ? T(0) : by * r.d_pred;
      d_true.x[i] = by == 0 ? T(0) : by * r.d_true * target_scale;
      if (i < n && w.x[i] != 0) sum += double(r.loss) * double(w.x[i]);
    }
    if (a.grad_pred.data) store(a.grad_pred, first, n, d_pred);
    if (a.grad_true.data) store(a.grad_true, first, n, d_true);
    return sum;
  }
};

}  // namespace fastloss::cuda
