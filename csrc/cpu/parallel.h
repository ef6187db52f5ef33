// Loops of several threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "cpu/float_mode.h"
#include "cpu/team.h"

namespace fastloss::cpu {

// False in a child made by fork(), which has none of its parent's other threads.
bool threads_survive();

// A core that another process keeps busy: the thread of a team that the system has put there may be
// stopped in the middle of its part for a whole turn of the other, milliseconds, and the team waits
// for it. Where teams lose more by that than they gain, they are made smaller for a while.
//
// How many of these threads are worth a team now.
int threads_that_run(int threads);
// What the thread that called has waited for the others of its team, after it has worked for so
// long.
void note_wait(team_clock::duration waited, team_clock::duration worked);

// What a loop of this thread calls now and then, or null; see interruptible.
using interruption = void (*)();
interruption current_interruption();

// While it lives, long loops of this thread call `check`, which ends them by an exception.
class interruptible {
 public:
  explicit interruptible(interruption check);
  ~interruptible();
  interruptible(const interruptible&) = delete;
  interruptible& operator=(const interruptible&) = delete;
};

// What a thread has streamed past the caches is seen by others only after this.
inline void end_of_writes() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// The first exception of a team. None may leave the region of a team, so it is kept until the end.
class first_error {
 public:
  bool occurred() const { return occurred_.load(std::memory_order_relaxed); }
  void keep_current() {
    if (!occurred_.exchange(true)) error_ = std::current_exception();
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::atomic<bool> occurred_{false};
  std::exception_ptr error_;
};

// Chunks of work for each thread: small enough to even out a core that another process keeps busy,
// large enough that neighbouring elements are mostly done by one thread.
inline constexpr int chunks_per_thread = 16;

// Calls body(i) for i in [0, n), on up to `threads` threads, in no particular order. If one throws,
// no further ones are begun, and the first exception is thrown here.
template <class Body>
void parallel_for(std::int64_t n, int threads, Body body) {
  if (threads > n) threads = static_cast<int>(n);
  if (threads > 1) threads = threads_that_run(threads);
  if (!threads_survive()) threads = 1;
  const std::int64_t chunk =
      std::max<std::int64_t>(n / (chunks_per_thread * std::max(threads, 1)), 1);
  // A task may be a row of a million elements, which takes milliseconds; to look at the clock takes
  // as long as a few hundred elements.
  const std::int64_t between_checks = chunk < 8 ? chunk : 8;
  const interruption interrupt = n > 1 ? current_interruption() : nullptr;
  if (threads <= 1) {
    for (std::int64_t i = 0; i < n; ++i) {
      if (interrupt && i % between_checks == 0) interrupt();
      body(i);
    }
    end_of_writes();
    return;
  }
  first_error error;
  alignas(64) std::atomic<std::int64_t> next{0};
  // What a thread does; the one that called grows its team meanwhile.
  auto part = [&](team* own) {
    const float_mode mode;
    const interruption check = own ? interrupt : nullptr;
    std::int64_t done = 0;
    try {
      for (std::int64_t first; (first = next.fetch_add(chunk)) < n;) {
        const std::int64_t end = std::min(first + chunk, n);
        for (std::int64_t i = first; i < end && !error.occurred(); ++i) {
          if (check && i % between_checks == 0) check();
          body(i);
          if (own && own->may_grow(++done))
            own->grow(done, end - i - 1 + std::max<std::int64_t>(n - next, 0));
        }
      }
    } catch (...) {
      error.keep_current();
    }
    end_of_writes();
  };
  auto part_of_helper = [&] { part(nullptr); };
  const auto start = team_clock::now();
  team helpers(threads - 1, part_of_helper);
  part(&helpers);
  const auto waited = helpers.end();
  // Of a few tasks, one may take long.
  if (n >= 16 * threads) note_wait(waited, team_clock::now() - start - waited);
  error.rethrow();
}

}  // namespace fastloss::cpu
