// The only use of OpenMP threads.
#pragma once

#include <cstdint>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace fastloss::cpu {

// False in a child made by fork() of a process that had a thread team: GNU OpenMP would wait there
// for threads that no longer exist.
bool threads_survive();

// What a thread has streamed past the caches is seen by others only after this.
inline void end_of_writes() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Calls body(i) for i in [0, n), on up to `threads` threads, in no particular order.
template <class Body>
void parallel_for(std::int64_t n, int threads, Body body) {
  if (threads > n) threads = static_cast<int>(n);
  if (threads <= 1 || !threads_survive()) {
    for (std::int64_t i = 0; i < n; ++i) body(i);
    end_of_writes();
    return;
  }
  // Chunks small enough to even out a core that another process keeps busy, large enough that
  // neighbouring elements are mostly done by one thread.
  std::int64_t chunk = n / (16 * threads);
  if (chunk < 1) chunk = 1;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(dynamic, chunk) nowait
    for (std::int64_t i = 0; i < n; ++i) body(i);
    end_of_writes();
  }
}

}  // namespace fastloss::cpu
