// The threads that help with a loop.
//
// They are the process's. OpenMP has a team for every thread that calls; where these are more than
// processors, as where TensorFlow runs its ops in threads of its own, all of them sleep between
// calls, and a call waits until they are awake. Here it takes those who are idle, begins, wakes
// others if much is left, and waits in the end for those alone that have begun as well.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace fastloss::cpu {

using team_clock = std::chrono::steady_clock;

class team {
 public:
  // Asks up to so many helpers, of those who are awake, to call work(), which must not throw.
  template <class Work>
  team(int helpers, Work& work)
      : work_([](void* context) { (*static_cast<Work*>(context))(); }),
        context_(&work),
        helpers_(helpers),
        missing_(helpers) {
    ask_the_awake();
  }
  team(const team&) = delete;
  team& operator=(const team&) = delete;

  // Whether to look if it grows, after so many tasks of the caller's own: the less often, the
  // longer it has taken.
  bool may_grow(std::int64_t done) const { return missing_ > 0 && (done & (done - 1)) == 0; }
  // Wakes other helpers, where there may be more, if what is left of all tasks takes much longer.
  void grow(std::int64_t done, std::int64_t left);

  // Waits until all that have begun have ended; how long that took.
  team_clock::duration end();

 private:
  friend class helper;

  void ask_the_awake();
  bool wake_one();
  bool start_one();

  void (*const work_)(void*);
  void* const context_;
  const int helpers_;
  const team_clock::time_point start_ = team_clock::now();
  int missing_;
  int core_ = -1;              // of the caller, if known
  bool follows_ = false;       // soon after another call
  std::atomic<int> asked_{0};  // helpers that may be at it
};

}  // namespace fastloss::cpu
