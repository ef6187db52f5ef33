#include "cuda/cuts.h"

#include <algorithm>

namespace fastloss::cuda {
namespace {

constexpr int block_threads = 256, long_row_threads = 512;
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
          length,
          0};
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
          part_length,
          0};
}

}  // namespace

geometry cut_map(int64_t segments, int64_t length) {
  return has_few_long_rows(segments, length) ? parts(segments, length, part_of_row)
                                             : whole_segments(segments, length);
}

geometry cut_sum(int64_t length) { return parts(1, length, part_of_sum); }

// Blocks of a call that reduces leave one partial sum each.
geometry cut_rows(int64_t rows, int64_t cols) {
  geometry g = whole_segments(rows, cols);
  g.blocks = std::min(g.blocks, most_parts);
  return g;
}

bool has_few_long_rows(int64_t rows, int64_t cols) { return cols >= long_row && rows < few_rows; }

geometry cut_parts_of_rows(int64_t rows, int64_t cols) { return parts(rows, cols, part_of_row); }

geometry cut_samples(int64_t samples) {
  return {std::clamp<int64_t>(samples, 1, blocks_of_samples),
          block_threads,
          block_threads,
          samples,
          1,
          1,
          1,
          0};
}

}  // namespace fastloss::cuda
