#include "cuda/cuts.h"

#include <algorithm>
#include <iterator>

namespace fastloss::cuda {
namespace {

constexpr int block_threads = 256, long_row_threads = 512, warp = 32;
constexpr int64_t most_parts = 16384, most_blocks = int64_t(1) << 20;
constexpr int64_t part_of_sum = 8192, part_of_row = 16384;
constexpr int64_t blocks_of_samples = 512;
constexpr int64_t long_row = 32768, few_rows = 64;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t to) { return ceil_div(a, to) * to; }

// Threads per row, by the columns up to which they suit.
struct team_size {
  int64_t cols;
  int team, threads;
};
constexpr team_size teams[] = {
    {packet, 1, block_threads},
    {2 * packet, 2, block_threads},
    {4 * packet, 4, block_threads},
    {8 * packet, 8, block_threads},
    {16 * packet, 16, block_threads},
    {1024, 32, block_threads},
    {16384, block_threads, block_threads},
};

// What the memory of a block is used for, by the compute capability from which on.
struct device_tuning {
  int capability;
  int most_memory;  // of a block, in bytes, less what kernels take beside; none: rows are not kept
  int few_memory;   // with which several blocks fit on a multiprocessor, some of which read while
                    // others write
  int most_blocks;  // of a cluster
};
constexpr int KiB = 1024;
constexpr device_tuning tunings[] = {
    {120, 96 * KiB, 48 * KiB, 8}, {90, 224 * KiB, 64 * KiB, 8}, {86, 96 * KiB, 48 * KiB, 1},
    {80, 160 * KiB, 64 * KiB, 1}, {75, 60 * KiB, 32 * KiB, 1},  {0, 0, 0, 1},
};

const device_tuning& tuning_of(int capability) {
  return *std::find_if(std::begin(tunings), std::end(tunings),
                       [=](const device_tuning& t) { return t.capability <= capability; });
}

geometry whole_segments(int64_t segments, int64_t length) {
  team_size chosen{0, long_row_threads, long_row_threads};
  for (const team_size& t : teams)
    if (length <= t.cols) {
      chosen = t;
      break;
    }
  const int64_t blocks = ceil_div(segments, chosen.threads / chosen.team);
  return {std::clamp<int64_t>(blocks, 1, most_blocks),
          chosen.threads,
          chosen.team,
          segments,
          length,
          1,
          length};
}

geometry parts(int64_t segments, int64_t length, int64_t part_length) {
  part_length = std::max(part_length, round_up(ceil_div(length, most_parts), packet));
  const int64_t count = std::max<int64_t>(1, ceil_div(length, part_length));
  return {std::clamp<int64_t>(segments * count, 1, most_blocks),
          block_threads,
          block_threads,
          segments,
          length,
          count,
          part_length};
}

// Of a thread, packets of the row; of a block, those of its threads.
int64_t memory_of_block(int64_t cols, int kept_bytes, int team, int threads) {
  return ceil_div(cols, int64_t(team) * packet) * packet * kept_bytes * threads;
}

}  // namespace

geometry cut_map(int64_t segments, int64_t length) {
  const geometry whole = whole_segments(segments, length);
  return has_few_long_rows(whole) ? parts(segments, length, part_of_row) : whole;
}

geometry cut_sum(int64_t length) { return parts(1, length, part_of_sum); }

geometry cut_rows(int64_t rows, int64_t cols, int kept_bytes, int capability) {
  const device_tuning& tuning = tuning_of(capability);
  geometry g = whole_segments(rows, cols);
  if (kept_bytes > 0) {
    int cluster = 1;
    if (g.team > warp)
      while (cluster < tuning.most_blocks &&
             memory_of_block(cols, kept_bytes, block_threads * cluster, block_threads) >
                 tuning.few_memory)
        cluster *= 2;
    if (cluster > 1) {
      g.threads = block_threads;
      g.team = block_threads * cluster;
      g.blocks = std::max<int64_t>(rows, 1) * cluster;
    }
    const int64_t memory = memory_of_block(cols, kept_bytes, g.team, g.threads);
    if (memory <= tuning.most_memory) g.memory = int(memory);
  }
  // Blocks of a call that reduces leave one partial sum each.
  g.blocks = std::min(g.blocks, most_parts);
  return g;
}

bool has_few_long_rows(const geometry& whole) {
  const int64_t blocks_per_row = std::max(whole.team / whole.threads, 1);
  return whole.length >= long_row && whole.segments * blocks_per_row < few_rows;
}

geometry cut_parts_of_rows(int64_t rows, int64_t cols) { return parts(rows, cols, part_of_row); }

geometry cut_samples(int64_t samples) {
  return {std::clamp<int64_t>(samples, 1, blocks_of_samples),
          block_threads,
          block_threads,
          samples,
          1,
          1,
          1};
}

}  // namespace fastloss::cuda
