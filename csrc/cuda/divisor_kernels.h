// What has to be known before losses are computed: how much weight there is, and what labels mean.
#pragma once

#include "cuda/factors.h"
#include "cuda/team.h"

namespace fastloss::cuda {

// The sum of the factors over the rows that count; factors of elements count as row means. Parts
// are of rows, or of elements if a factor is per element.
template <class T>
struct divisor_kernel {
  arguments a;
  geometry g;
  bool with_weight;  // otherwise the mask alone counts
  bool by_element;

  template <class Block>
  FASTLOSS_DEVICE void operator()(Block& block) const {
    team<Block> all(block, block.threads());
    const int64_t cols = by_element ? a.cols : 1;
    for (int64_t part = block.index(); part < g.parts; part += block.blocks()) {
      const int64_t begin = part * g.part_length;
      const int64_t end = begin + g.part_length < g.length ? begin + g.part_length : g.length;
      double sum = 0;
      for (int64_t i = begin + all.rank * packet; i < end; i += all.size * packet)
        sum += one_packet(i, int(end - i < packet ? end - i : packet), cols);
      sum = all.combine(sum);
      if (all.rank == 0) a.partial[part] = sum;
    }
    if (!block.is_last(&a.state->done[g.launch])) return;
    const double sum = sum_of(all, a.partial, g.parts);
    if (all.rank == 0) *a.divisor = sum / double(cols);
  }

  FASTLOSS_DEVICE double one_packet(int64_t first, int n, int64_t cols) const {
    numbers<T> w = filled(T(1));
    if (with_weight) multiply(a.weight, first, n, cols, w);
    multiply(a.mask, first, n, cols, w);
    if (a.has_ignored_class) {
      const numbers<int64_t> labels = gather_by_row<int64_t>(a.y_true, first, n, cols);
#pragma unroll
      for (int i = 0; i < packet; ++i)
        if (labels.x[i] == a.ignored_class) w.x[i] = 0;
    }
    double sum = 0;
#pragma unroll
    for (int i = 0; i < packet; ++i)
      if (i < n) sum += w.x[i];
    return sum;
  }
};

// Whether any label is neither 0 nor 1. Several blocks find the answer `no` where they write.
template <class T>
struct label_kernel {
  arguments a;
  geometry g;

  template <class Block>
  FASTLOSS_DEVICE void operator()(Block& block) const {
    if (block.blocks() == 1) {
      if (block.thread() == 0) a.state->has_other_labels = 0;
      block.barrier();
    }
    const int64_t step = block.blocks() * block.threads() * packet;
    for (int64_t i = (block.index() * block.threads() + block.thread()) * packet; i < g.length;
         i += step) {
      const int n = int(g.length - i < packet ? g.length - i : packet);
      const numbers<T> t = load<T>(a.y_true, i, n);
      bool others = false;
#pragma unroll
      for (int k = 0; k < packet; ++k) others |= k < n && t.x[k] != T(0) && t.x[k] != T(1);
      if (others) a.state->has_other_labels = 1;
    }
  }
};

}  // namespace fastloss::cuda
