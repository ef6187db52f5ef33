// What the threads of a block do together, written against a few primitives.
//
// `Block` is the block of a launch as one of its threads sees it:
//   thread(), threads(), index(), blocks()    positions and counts
//   barrier()            waits for all threads of the block
//   exchange(x, mask)    the x of the thread whose index differs by `mask`, less than 32
//   scratch()            memory of the block for 32 `sums`
//   is_last(counter)     whether all other blocks of the launch have been here; counts from zero
//                        on, but not where there are no others
//   memory()             what the launch asks for, per block (geometry::memory)
//   copy(to, from)       begins to copy 16 bytes from memory of the device to that of the block,
//   wait_for_copies()    after which this thread, and it alone, sees what it has begun to copy
// and, where blocks of a launch are clusters:
//   cluster_barrier()    waits for all threads of the cluster
//   scratch_of(i)        scratch() of the i-th block of the cluster
// Every thread of a block calls barrier(), exchange() and is_last() equally often and in step, and
// every thread of a cluster cluster_barrier().
#pragma once

#include <cstdint>

#include "core/math.h"

namespace fastloss::cuda {

using std::int64_t;

inline constexpr int warp_threads = 32;

struct sums {
  double a, b, c;
  // The first `used` of them.
  FASTLOSS_DEVICE void merge(const sums& x, bool is_max, int used = 3) {
    a = is_max ? math::max(a, x.a) : a + x.a;
    if (used > 1) b = is_max ? math::max(b, x.b) : b + x.b;
    if (used > 2) c = is_max ? math::max(c, x.c) : c + x.c;
  }
};

FASTLOSS_DEVICE sums identity(bool is_max) {
  const double x = is_max ? -math::infinity<double> : 0.0;
  return {x, x, x};
}

// Threads that share a row: a power of two of them within a warp, or a whole block.
template <class Block>
struct team {
  Block& block;
  int size, rank;

  FASTLOSS_DEVICE team(Block& b, int size) : team(b, size, b.thread() % size) {}
  FASTLOSS_DEVICE int per_block() const { return block.threads() / size; }
  FASTLOSS_DEVICE int index() const { return block.thread() / size; }

  // The same for every thread, in an order that depends on the size of the team alone.
  FASTLOSS_DEVICE sums combine(sums x, bool is_max = false) {
    return merged(x, [is_max](sums& into, const sums& other) { into.merge(other, is_max); });
  }

  FASTLOSS_DEVICE double combine(double x) { return combine(sums{x, 0, 0}).a; }

  template <class X>
  FASTLOSS_DEVICE X largest(X x) {
    return merged(x, [](X& into, X other) { into = math::max(into, other); });
  }

 protected:
  FASTLOSS_DEVICE team(Block& b, int size, int rank) : block(b), size(size), rank(rank) {}

 private:
  template <class X, class Merge>
  FASTLOSS_DEVICE X merged(X x, Merge merge) {
    static_assert(sizeof(X) <= sizeof(sums));
    for (int mask = (size < warp_threads ? size : warp_threads) / 2; mask > 0; mask /= 2)
      merge(x, block.exchange(x, mask));
    if (size <= warp_threads) return x;
    X* by_warp = reinterpret_cast<X*>(block.scratch());
    const int thread = block.thread();
    if (thread % warp_threads == 0) by_warp[thread / warp_threads] = x;
    block.barrier();
    x = by_warp[0];
    for (int w = 1; w < block.threads() / warp_threads; ++w) merge(x, by_warp[w]);
    block.barrier();
    return x;
  }
};

// The same, or the threads of all blocks of a cluster.
template <class Block>
struct wide_team : team<Block> {
  using team<Block>::block;
  using team<Block>::size;

  FASTLOSS_DEVICE wide_team(Block& b, int size)
      : team<Block>(b, size,
                    size > b.threads()
                        ? int(b.index() % (size / b.threads())) * b.threads() + b.thread()
                        : b.thread() % size) {}
  FASTLOSS_DEVICE bool spans_blocks() const { return size > block.threads(); }
  FASTLOSS_DEVICE int blocks() const { return size / block.threads(); }

  // Of all teams of the launch: how many, and the first that has threads in this block.
  FASTLOSS_DEVICE int64_t count() const { return teams_of(block.blocks()); }
  FASTLOSS_DEVICE int64_t first() const { return teams_of(block.index()); }

  FASTLOSS_DEVICE sums combine(sums x, bool is_max = false) {
    x = team<Block>::combine(x, is_max);
    if (!spans_blocks()) return x;
    if (block.thread() == 0) *block.scratch() = x;
    block.cluster_barrier();
    x = *block.scratch_of(0);
    for (int b = 1; b < blocks(); ++b) x.merge(*block.scratch_of(b), is_max);
    block.cluster_barrier();
    return x;
  }

 private:
  FASTLOSS_DEVICE int64_t teams_of(int64_t n) const {
    return spans_blocks() ? n / blocks() : n * this->per_block();
  }
};

// The sum of n numbers that other blocks have written (volatile: they may not be cached).
template <class Block>
FASTLOSS_DEVICE double sum_of(team<Block>& threads, const volatile double* x, int64_t n) {
  double sum = 0;
  for (int64_t i = threads.rank; i < n; i += threads.size) sum += x[i];
  return threads.combine(sum);
}

}  // namespace fastloss::cuda
