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
        const part_of_arrays part(a, start + begin, end - begin);
        for (int64_t i = threads.rank * packet; i < end - begin; i += threads.size * packet)
          sum += one_packet(part, i, int(end - begin - i < packet ? end - begin - i : packet),
                            scale, target_scale, target_shift);
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

  struct part_of_arrays {
    int64_t first;
    run_of<T> trues, preds, d_preds, d_trues;
    FASTLOSS_DEVICE part_of_arrays(const arguments& a, int64_t first, int64_t n)
        : first(first),
          trues(a.y_true, first, n),
          preds(a.y_pred, first, n),
          d_preds(a.grad_pred, first, n),
          d_trues(a.grad_true, first, n) {}
  };

  // Writes the gradients of n elements from the i-th on; returns the sum of their weighted losses.
  FASTLOSS_DEVICE double one_packet(const part_of_arrays& part, int64_t i, int n, T scale,
                                    T target_scale, T target_shift) const {
    const fetched<T> t_bits = fetch<T>(part.trues, i, n), p_bits = fetch<T>(part.preds, i, n);
    const numbers<T> t = loaded<T>(t_bits, part.trues, i, n);
    const numbers<T> p = loaded<T>(p_bits, part.preds, i, n);
    numbers<T> loss, d_pred, d_true;
#pragma unroll
    for (int k = 0; k < packet; ++k) {
      const map_terms<T> r = f(t.x[k] * target_scale + target_shift, p.x[k]);
      loss.x[k] = r.loss;
      d_pred.x[k] = r.d_pred;
      d_true.x[k] = r.d_true * target_scale;
    }
    double sum = 0;
    if (scale != 0 && !a.weight.values.data && !a.mask.values.data && !a.upstream_by_row.data) {
#pragma unroll
      for (int k = 0; k < packet; ++k) {
        d_pred.x[k] *= scale;
        d_true.x[k] *= scale;
        if (k < n) sum += double(loss.x[k]);
      }
    } else {
      sum = weigh(part.first + i, n, scale, loss, d_pred, d_true);
    }
    if (a.grad_pred.data) store(part.d_preds, i, n, d_pred);
    if (a.grad_true.data) store(part.d_trues, i, n, d_true);
    return sum;
  }

  // Multiplies gradients by what is theirs; returns the sum of the weighted losses. What counts for
  // nothing may be anything.
  FASTLOSS_DEVICE double weigh(int64_t first, int n, T scale, const numbers<T>& loss,
                               numbers<T>& d_pred, numbers<T>& d_true) const {
    numbers<T> w = filled(T(1)), s = filled(scale);
    multiply(a.weight, first, n, a.cols, w);
    multiply(a.mask, first, n, a.cols, w);
    if (a.upstream_by_row.data) {
      const numbers<T> u = gather_by_row<T>(a.upstream_by_row, first, n, a.cols);
#pragma unroll
      for (int k = 0; k < packet; ++k) s.x[k] *= u.x[k];
    }
    double sum = 0;
#pragma unroll
    for (int k = 0; k < packet; ++k) {
      const T by = product(s.x[k], w.x[k]);
      d_pred.x[k] = by == 0 ? T(0) : by * d_pred.x[k];
      d_true.x[k] = by == 0 ? T(0) : by * d_true.x[k];
      if (k < n && w.x[k] != 0) sum += double(loss.x[k]) * double(w.x[k]);
    }
    return sum;
  }
};

}  // namespace fastloss::cuda
