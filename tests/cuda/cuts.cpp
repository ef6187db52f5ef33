// Cuts launches for many shapes, and checks that every element is in exactly one part and that the
// kernels can run them. Prints what is wrong with the first bad one.
#include "cuda/cuts.h"

#include <cstdio>

using namespace fastloss::cuda;

namespace {

const char* fault(const geometry& g, int64_t segments, int64_t length) {
  if (g.segments != segments || g.length != length) return "other work";
  if (g.blocks < 1 || g.blocks > 0x7fffffff) return "blocks";
  if (g.threads % 32 != 0 || g.threads < 32 || g.threads > 512) return "threads";
  const bool in_warp = g.team <= 32 && (g.team & (g.team - 1)) == 0;
  if (g.team < 1 || (!in_warp && g.team != g.threads)) return "team";
  if (g.parts < 1 || g.parts * g.part_length < length) return "parts do not cover";
  if (length > 0 && (g.parts - 1) * g.part_length >= length) return "an empty part";
  if (g.parts > 1 && g.part_length % packet != 0) return "parts are not whole packets";
  if (g.parts > 16384) return "more partial sums than one block adds up in time";
  return nullptr;
}

}  // namespace

int main() {
  int64_t sizes[64];
  int count = 0;
  for (int64_t n : {0,    1,    3,    7,    8,     9,     63,    64,    65,    423,   1000,
                    1024, 1025, 8192, 8193, 16384, 32000, 32767, 32768, 70001, 128256})
    sizes[count++] = n;
  for (int shift = 20; shift < 38; shift += 3) sizes[count++] = (int64_t(1) << shift) + 5;
  for (int i = 0; i < count; ++i)
    for (int j = 0; j < count; ++j) {
      const int64_t rows = sizes[i], cols = sizes[j];
      if (cols == 0 || rows > (int64_t(1) << 40) / cols) continue;
      const char* wrong = fault(cut_map(rows, cols), rows, cols);
      if (!wrong) wrong = fault(cut_rows(rows, cols), rows, cols);
      if (!wrong) wrong = fault(cut_parts_of_rows(rows, cols), rows, cols);
      if (!wrong) wrong = fault(cut_sum(rows * cols), 1, rows * cols);
      if (!wrong) wrong = fault(cut_samples(rows), rows, 1);
      if (!wrong && cut_samples(rows).threads <= 32) wrong = "one warp, which has no barrier";
      if (!wrong && cut_rows(rows, cols).blocks > 16384) wrong = "too many partial sums";
      if (!wrong) continue;
      std::printf("%lld x %lld: %s\n", (long long)rows, (long long)cols, wrong);
      return 1;
    }
}
