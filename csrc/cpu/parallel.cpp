#include "cpu/parallel.h"

#include <omp.h>
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdlib>

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

}  // namespace

bool threads_survive() { return !forked.load(std::memory_order_relaxed); }

interruption current_interruption() { return interruption_of_thread; }
interruptible::interruptible(interruption check) { interruption_of_thread = check; }
interruptible::~interruptible() { interruption_of_thread = nullptr; }

#if defined(__SANITIZE_THREAD__)
namespace {
char edges[2];
}
void happens_before(team_edge edge) { __tsan_release(&edges[static_cast<int>(edge)]); }
void happens_after(team_edge edge) { __tsan_acquire(&edges[static_cast<int>(edge)]); }
#endif

}  // namespace fastloss::cpu

namespace fastloss {

int num_threads() {
  const int chosen = cpu::chosen.load(std::memory_order_relaxed), most = omp_get_max_threads();
  if (chosen == 0) return most;
  return most < cpu::unlimited ? std::min(chosen, most) : chosen;
}
void set_num_threads(int n) { cpu::chosen = n; }

}  // namespace fastloss
