// Memory that a thread keeps from call to call.
#pragma once

#include <cstdint>
#include <memory>

#include "cpu/kernels.h"

namespace fastloss::cpu {

enum class scratch_use {
  pred,
  target,
  kept,
  d_pred,
  d_true,
  rows,
  sum_pred,
  sum_true,
  term_pred,
  term_true,
  count
};

// Room for n numbers, on whole cache lines, until this thread asks again for the same use.
template <class T>
T* thread_scratch(scratch_use use, std::int64_t n) {
  struct room {
    std::unique_ptr<T[]> memory;
    std::int64_t size = 0;
  };
  constexpr std::int64_t line = cache_line / sizeof(T);
  thread_local room rooms[static_cast<int>(scratch_use::count)];
  room& own = rooms[static_cast<int>(use)];
  if (own.size < n + line) {
    own.size = 0;  // in case that there is no memory
    own.memory.reset();
    own.memory.reset(new T[n + line]);
    own.size = n + line;
  }
  const auto past = reinterpret_cast<std::uintptr_t>(own.memory.get()) % cache_line;
  return own.memory.get() + (past ? (cache_line - past) / sizeof(T) : 0);
}

}  // namespace fastloss::cpu
