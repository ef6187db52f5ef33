// Cuts launches for many shapes, and checks that every element is in exactly one part and that the
// kernels can run them on every device. Prints what is wrong with the first bad one.
#include "cuda/cuts.h"

#include <cstdio>

using namespace fastloss::cuda;

namespace {

const char* fault(const geometry& g, int64_t segments, int64_t length) {
  if (g.segments != segments || g.length != length) return "other work";
  if (g.blocks < 1 || g.blocks > 0x7fffffff) return "blocks";
  if (g.threads % 32 != 0 || g.threads < 32 || g.threads > 512) return "threads";
  const bool in_warp = g.team <= 32 && (g.team & (g.team - 1)) == 0;
  if (g.team < 1 || (!in_warp && g.team % g.threads != 0)) return "team";
  if (g.parts < 1 || g.parts * g.part_length < length) return "parts do not cover";
  if (length > 0 && (g.parts - 1) * g.part_length >= length) return "an empty part";
  if (g.parts > 1 && g.part_length % packet != 0) return "parts are not whole packets";
  if (g.parts > 16384) return "more partial sums than one block adds up in time";
  return nullptr;
}

// Of devices as CUDA's programming guide lists them: the shared memory that a block can have, less
// that of the kernels themselves, and whether there are clusters, of eight blocks everywhere.
struct device {
  int capability;
  int64_t memory;
  bool has_clusters;
};
constexpr int64_t own_memory = 1024;
constexpr device devices[] = {
    {70, 0, false},         {75, 64 << 10, false}, {80, 163 << 10, false}, {86, 99 << 10, false},
    {87, 163 << 10, false}, {89, 99 << 10, false}, {90, 227 << 10, true},  {100, 227 << 10, true},
    {103, 227 << 10, true}, {120, 99 << 10, true}, {121, 99 << 10, true},
};

const char* fault_of_rows(int64_t rows, int64_t cols, int kept_bytes, const device& d) {
  const geometry g = cut_rows(rows, cols, kept_bytes, d.capability);
  if (const char* wrong = fault(g, rows, cols)) return wrong;
  const int64_t cluster = g.team > g.threads ? g.team / g.threads : 1;
  if (g.blocks > 16384) return "too many partial sums";
  if (g.blocks % cluster != 0) return "clusters that are not whole";
  if (cluster > (d.has_clusters ? 8 : 1)) return "blocks of a cluster";
  if (g.memory > 0 && g.memory + own_memory > d.memory) return "more memory than a block has";
  if (kept_bytes == 0 && (g.memory > 0 || cluster > 1)) return "memory for what is read once";
  const int64_t packets = (cols + int64_t(g.team) * packet - 1) / (int64_t(g.team) * packet);
  if (g.memory > 0 && g.memory < packets * packet * g.threads * kept_bytes) return "little memory";
  // Of rows that blocks have to themselves: eight of a cluster have most of their memory for it.
  const int64_t room = d.memory / 5 * (d.has_clusters ? 8 : 2);
  if (kept_bytes > 0 && cols > 1024 && cols * kept_bytes <= room && g.memory == 0)
    return "a row that is not kept";
  return nullptr;
}

}  // namespace

int main() {
  int64_t sizes[64];
  int count = 0;
  for (int64_t n : {0, 1, 3, 7, 8, 9, 63, 64, 65, 423, 1000, 1024, 1025, 8192, 8193, 16384, 32000,
                    32767, 32768, 70001, 128256,
                    // Kept, these would take a little more than a block of some device has.
                    25000, 42000, 200000, 460000})
    sizes[count++] = n;
  for (int shift = 20; shift < 38; shift += 3) sizes[count++] = (int64_t(1) << shift) + 5;
  for (int i = 0; i < count; ++i)
    for (int j = 0; j < count; ++j) {
      const int64_t rows = sizes[i], cols = sizes[j];
      if (cols == 0 || rows > (int64_t(1) << 40) / cols) continue;
      const char* wrong = fault(cut_map(rows, cols), rows, cols);
      for (const device& d : devices)
        for (int kept_bytes : {0, 4, 8, 16})
          if (!wrong) wrong = fault_of_rows(rows, cols, kept_bytes, d);
      if (!wrong) wrong = fault(cut_parts_of_rows(rows, cols), rows, cols);
      if (!wrong) wrong = fault(cut_sum(rows * cols), 1, rows * cols);
      if (!wrong) wrong = fault(cut_samples(rows), rows, 1);
      if (!wrong && cut_samples(rows).threads <= 32) wrong = "one warp, which has no barrier";
      if (!wrong) continue;
      std::printf("%lld x %lld: %s\n", (long long)rows, (long long)cols, wrong);
      return 1;
    }
}
