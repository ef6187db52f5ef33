// What a thread keeps of its row in memory of its block, from one sweep over the row to the next.
#pragma once

#include "cuda/view.h"

namespace fastloss::cuda {

// Packets of so many arrays, that only this thread sees, so that it waits for no other. They are
// copied as they are stored, if they are adjacent: all are then under way together, and none takes
// registers. Words of neighbouring threads are neighbours, which keeps banks apart.
template <class T, int arrays>
struct kept_row {
  static constexpr int most_words = packet * sizeof(T) / sizeof(word);  // of a packet
  bool used = false;
  word* own = nullptr;  // the first of this thread
  int threads = 0;      // of the block

  template <class Block>
  FASTLOSS_DEVICE void copy(Block& block, int array, int i, const run_of<T>& r, int64_t col,
                            int n) const {
    const char* from = r.packet_at(col, n);
    if (!from) return;
#pragma unroll
    for (int w = 0; w < most_words; ++w)
      if (w < words_of(r.v)) block.copy(at(array, i, w), from + w * sizeof(word));
  }

  // The same as cuda::fetch of the array that was copied.
  FASTLOSS_DEVICE fetched<T> fetch(int array, int i, const run_of<T>& r, int n) const {
    fetched<T> out = {};
    out.is_adjacent = r.packet_at(0, n) != nullptr;
    if (!out.is_adjacent) return out;
#pragma unroll
    for (int w = 0; w < most_words; ++w)
      if (w < words_of(r.v)) out.words[w] = *at(array, i, w);
    return out;
  }

  // Numbers in place of what was copied.
  FASTLOSS_DEVICE void put(int array, int i, const numbers<T>& x) const {
    word words[most_words];
    std::memcpy(words, &x, sizeof x);
#pragma unroll
    for (int w = 0; w < most_words; ++w) *at(array, i, w) = words[w];
  }
  FASTLOSS_DEVICE numbers<T> get(int array, int i) const {
    word words[most_words];
#pragma unroll
    for (int w = 0; w < most_words; ++w) words[w] = *at(array, i, w);
    numbers<T> out;
    std::memcpy(&out, words, sizeof out);
    return out;
  }

 private:
  FASTLOSS_DEVICE static int words_of(const device_view& v) {
    return packet * v.floating_bytes / int(sizeof(word));
  }
  FASTLOSS_DEVICE word* at(int array, int i, int w) const {
    return own + ((i * arrays + array) * most_words + w) * threads;
  }
};

}  // namespace fastloss::cuda
