// What multiplies the losses and the gradients of elements and rows.
#pragma once

#include "cuda/team.h"
#include "cuda/view.h"

namespace fastloss::cuda {

// A zero wins over NaN.
template <class T>
FASTLOSS_DEVICE T product(T a, T b) {
  return a == 0 || b == 0 ? T(0) : a * b;
}

template <class T>
FASTLOSS_DEVICE T row_factor(const factor_view& f, int64_t row) {
  return f.values.data ? load_one<T>(f.values, row) : T(1);
}

template <class T>
FASTLOSS_DEVICE T row_weight(const arguments& a, int64_t row) {
  return product(row_factor<T>(a.weight, row), row_factor<T>(a.mask, row));
}

// What an array on the rows holds for each of the n elements of the grid from `first` on.
template <class T>
FASTLOSS_DEVICE_CALL numbers<T> gather_by_row(const device_view& v, int64_t first, int n,
                                              int64_t cols) {
  numbers<T> out = {};
  int64_t row = first / cols, col = first % cols;
  T x = load_one<T>(v, row);
#pragma unroll 1
  for (int i = 0; i < n; ++i, ++col) {
    if (col == cols) {
      col = 0;
      x = load_one<T>(v, ++row);
    }
    out.x[i] = x;
  }
  return out;
}

template <class T>
FASTLOSS_DEVICE numbers<T> filled(T x) {
  numbers<T> out;
#pragma unroll
  for (int i = 0; i < packet; ++i) out.x[i] = x;
  return out;
}

// The factors of n elements; those after them are of no use.
template <class T>
FASTLOSS_DEVICE void multiply(const factor_view& f, int64_t first, int n, int64_t cols,
                              numbers<T>& w) {
  if (!f.values.data) return;
  const numbers<T> x =
      f.per_element ? gather<T>(f.values, first, n) : gather_by_row<T>(f.values, first, n, cols);
#pragma unroll
  for (int i = 0; i < packet; ++i) w.x[i] = product(w.x[i], x.x[i]);
}

FASTLOSS_DEVICE double divided(double x, double by) { return by == 0 ? 0 : x / by; }

// What the sum of the weighted losses is multiplied by, without the mean over a row.
FASTLOSS_DEVICE double normalization(const arguments& a) {
  return divided(1, a.divisor ? *a.divisor : a.count);
}

// Ends a kernel whose blocks have each summed some weighted losses (`total`, of thread 0 of any
// team): the last of them writes the value.
template <class T, class Block>
FASTLOSS_DEVICE void store_total(Block& block, const arguments& a, const geometry& g, double total,
                                 double norm) {
  team<Block> all(block, block.threads());
  total = all.combine(total);
  if (all.rank == 0) a.partial[block.index()] = total;
  if (!block.is_last(&a.state->done[g.launch])) return;
  total = sum_of(all, a.partial, block.blocks());
  if (all.rank == 0) store_one(a.values, 0, T(norm * total));
}

}  // namespace fastloss::cuda
