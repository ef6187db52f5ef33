#include "cpu/parallel.h"

#include <omp.h>
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

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

int initial_threads() {
  const char* given = std::getenv("FASTLOSS_NUM_THREADS");
  const int n = given ? std::atoi(given) : 0;
  return n > 0 ? n : omp_get_max_threads();
}

std::atomic<int>& threads() {
  static std::atomic<int> n{initial_threads()};
  return n;
}

}  // namespace

bool threads_survive() { return !forked.load(std::memory_order_relaxed); }

}  // namespace fastloss::cpu

namespace fastloss {

int num_threads() { return cpu::threads().load(std::memory_order_relaxed); }
void set_num_threads(int n) { cpu::threads() = n; }

}  // namespace fastloss
