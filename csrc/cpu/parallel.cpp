#include "cpu/parallel.h"

#include <omp.h>
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include <atomic>

namespace fastloss::cpu {
namespace {

std::atomic<bool> forked{false};

[[maybe_unused]] const bool watching_fork = [] {
#if defined(__unix__) || defined(__APPLE__)
  pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif
  return true;
}();

}  // namespace

int max_threads() { return omp_get_max_threads(); }

bool threads_survive() { return !forked.load(std::memory_order_relaxed); }

}  // namespace fastloss::cpu
