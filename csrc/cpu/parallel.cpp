#include "cpu/parallel.h"

#include <omp.h>
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>

#include "api.h"

namespace fastloss::cpu {
namespace {

std::atomic<bool> forked{false};

[[maybe_unused]] const bool watching_fork = [] {
#if defined(__unix__) || defined(__APPLE__)
  pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif
  return true;
}();

// What OpenMP would use when this library is loaded. Who lowers it later, as threadpoolctl does,
// means to limit everybody.
const int unlimited = omp_get_max_threads();

// 0 stands for what OpenMP says at the time of a call.
int initial_threads() {
  const char* given = std::getenv("FASTLOSS_NUM_THREADS");
  return given ? std::max(0, std::atoi(given)) : 0;
}

std::atomic<int> chosen{initial_threads()};

thread_local interruption interruption_of_thread = nullptr;

using std::chrono::milliseconds;

// Teams do without `spared` threads until `crowded_until`.
std::atomic<team_clock::rep> crowded_until{0};
std::atomic<int> spared{0};

// The time that was lost by waiting, less an eighth of the time that has gone by, which is
// bearable.
struct {
  std::mutex mutex;
  team_clock::time_point last, end_of_pause;
  team_clock::duration lost{0}, pause{0};
} waits;
constexpr milliseconds most_lost{10}, first_pause{200}, longest_pause{1600};

}  // namespace

bool threads_survive() { return !forked.load(std::memory_order_relaxed); }

int threads_that_run(int threads) {
  const auto until = crowded_until.load(std::memory_order_relaxed);
  if (until == 0 || team_clock::now().time_since_epoch().count() >= until) return threads;
  return std::max(1, threads - spared.load(std::memory_order_relaxed));
}

void note_wait(team_clock::duration waited, team_clock::duration worked) {
  if (waited < milliseconds(1) || waited < worked / 2) return;
  const std::lock_guard lock(waits.mutex);
  const auto now = team_clock::now();
  if (now < waits.end_of_pause) return;
  waits.lost = std::max(waits.lost - (now - waits.last) / 8, team_clock::duration(0)) + waited;
  waits.last = now;
  if (waits.lost < most_lost) return;
  const bool still = now - waits.end_of_pause < waits.pause;
  waits.pause = still ? std::min<team_clock::duration>(2 * waits.pause, longest_pause)
                      : team_clock::duration(first_pause);
  waits.end_of_pause = now + waits.pause;
  // Then less is needed to be sure.
  waits.lost = most_lost / 2;
  waits.last = waits.end_of_pause;
  spared = still ? spared + 1 : 1;
  crowded_until = waits.end_of_pause.time_since_epoch().count();
}

interruption current_interruption() { return interruption_of_thread; }
interruptible::interruptible(interruption check) { interruption_of_thread = check; }
interruptible::~interruptible() { interruption_of_thread = nullptr; }

}  // namespace fastloss::cpu

namespace fastloss {

int num_threads() {
  const int chosen = cpu::chosen.load(std::memory_order_relaxed), most = omp_get_max_threads();
  if (chosen == 0) return most;
  return most < cpu::unlimited ? std::min(chosen, most) : chosen;
}
void set_num_threads(int n) { cpu::chosen = n; }

}  // namespace fastloss
