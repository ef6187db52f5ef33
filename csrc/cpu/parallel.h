// The only use of OpenMP threads.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "cpu/float_mode.h"

namespace fastloss::cpu {

// False in a child made by fork() of a process that had a thread team: GNU OpenMP would wait there
// for threads that no longer exist.
bool threads_survive();

// A core that another process keeps busy: the thread of a team that the system has put there does
// not run for whole turns of the other, milliseconds, and a team ends with its last thread. Where
// teams lose more by that than they gain, they are made smaller for a while.
using team_clock = std::chrono::steady_clock;
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

// The start and the end of a team as the thread sanitizer has to see them: it does not know GNU
// OpenMP's own synchronization. What hands the variables of parallel_for itself to the threads runs
// before a thread can say that it has started, so that function is not looked at; the bodies, which
// must not become part of it, are. Nothing in other builds.
enum class team_edge { start, end };
#if defined(__SANITIZE_THREAD__)
#define FASTLOSS_STARTS_TEAM __attribute__((no_sanitize("thread")))
#define FASTLOSS_IN_TEAM __attribute__((noinline))
void happens_before(team_edge edge);
void happens_after(team_edge edge);
#else
#define FASTLOSS_STARTS_TEAM
#define FASTLOSS_IN_TEAM
inline void happens_before(team_edge) {}
inline void happens_after(team_edge) {}
#endif

template <class Body>
FASTLOSS_IN_TEAM void call_body(Body& body, std::int64_t i) {
  body(i);
}

// Chunks of work for each thread: small enough to even out a core that another process keeps busy,
// large enough that neighbouring elements are mostly done by one thread.
inline constexpr int chunks_per_thread = 16;

// Calls body(i) for i in [0, n), on up to `threads` threads, in no particular order. If one throws,
// no further ones are begun, and the first exception is thrown here.
template <class Body>
FASTLOSS_STARTS_TEAM void parallel_for(std::int64_t n, int threads, Body body) {
  if (threads > n) threads = static_cast<int>(n);
  if (threads > 1) threads = threads_that_run(threads);
  const bool serial = threads <= 1 || !threads_survive();
  std::int64_t chunk = n / (chunks_per_thread * (serial ? 1 : threads));
  if (chunk < 1) chunk = 1;
  // A task may be a row of a million elements, which takes milliseconds; to look at the clock takes
  // as long as a few hundred elements.
  const std::int64_t between_checks = chunk < 8 ? chunk : 8;
  const interruption interrupt = n > 1 ? current_interruption() : nullptr;
  if (serial) {
    for (std::int64_t i = 0; i < n; ++i) {
      if (interrupt && i % between_checks == 0) interrupt();
      body(i);
    }
    end_of_writes();
    return;
  }
  first_error error;
  const auto start = team_clock::now();
  auto end = start;
  happens_before(team_edge::start);
#pragma omp parallel num_threads(threads)
  {
    happens_after(team_edge::start);
    const float_mode mode;
    // In the thread that called: the others have none.
    const interruption check = interrupt ? current_interruption() : nullptr;
#pragma omp for schedule(dynamic, chunk) nowait
    for (std::int64_t i = 0; i < n; ++i) {
      if (error.occurred()) continue;
      try {
        if (check && i % between_checks == 0) check();
        call_body(body, i);
      } catch (...) {
        error.keep_current();
      }
    }
    end_of_writes();
    happens_before(team_edge::end);
#pragma omp master
    end = team_clock::now();
  }
  happens_after(team_edge::end);
  // Of a few tasks, one may take long.
  if (n >= 16 * threads) note_wait(team_clock::now() - end, end - start);
  error.rethrow();
}

}  // namespace fastloss::cpu
