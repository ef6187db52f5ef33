#include "cpu/team.h"

#include <omp.h>
#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

#include <condition_variable>
#include <mutex>
#include <thread>

namespace fastloss::cpu {
namespace {

using std::chrono::microseconds;

// What it takes a caller to wake a helper, and the helper to be there, in a virtual machine.
constexpr microseconds waking{25};

// Calls that follow each other so soon are worth to wake helpers for, whatever each takes; after
// such a job a helper looks for another for as long before it sleeps. After others it does not,
// since what the process does between them may want the core.
constexpr microseconds patience{200};

// More threads than these would keep each other from running.
const int processors = omp_get_num_procs();

// What else runs on the same core gets more of it for a moment.
void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Looks until the condition holds or the time is over, and lets others have the core if they want
// it; whether it holds.
template <class Condition>
bool comes_true_before(team_clock::time_point end, Condition holds) {
  constexpr int looks_at_once = 32;
  for (;;) {
    for (int i = 0; i < looks_at_once; ++i) {
      if (holds()) return true;
      pause();
    }
    if (team_clock::now() >= end) return false;
    std::this_thread::yield();
  }
}

// Makes a thread that sleeps wake up on another core than that of this thread. Linux wakes it on
// this one unless it sees another idle, which in a virtual machine it does not, and there it would
// keep the call itself from running.
class elsewhere {
#if defined(__linux__)
  cpu_set_t anywhere_;
  bool was_moved_ = false;

 public:
  static int core() { return sched_getcpu(); }
  void move(std::thread::native_handle_type thread) {
    if (pthread_getaffinity_np(pthread_self(), sizeof anywhere_, &anywhere_)) return;
    cpu_set_t others = anywhere_;
    CPU_CLR(core(), &others);
    if (CPU_COUNT(&others) == 0) return;
    was_moved_ = pthread_setaffinity_np(thread, sizeof others, &others) == 0;
  }
  // By the thread itself: from here on it may run wherever who woke it may.
  void let_go() {
    if (was_moved_) pthread_setaffinity_np(pthread_self(), sizeof anywhere_, &anywhere_);
    was_moved_ = false;
  }
#else
 public:
  static int core() { return -1; }
  void move(std::thread::native_handle_type) {}
  void let_go() {}
#endif
};

}  // namespace

class helper {
 public:
  explicit helper(int number) : number_(number) {}

  std::atomic<helper*> next{nullptr};

  void start() {
    std::thread thread(&helper::run, this);
    thread_ = thread.native_handle();
    thread.detach();
  }

  // Whether it was idle, and awake if it is not to be woken; then it does its part, unless it is
  // taken back before it has begun.
  bool ask(team& t, bool wakes) {
    if (sleeps_ && !wakes) return false;
    team* none = nullptr;
    ++t.asked_;
    if (!job_.compare_exchange_strong(none, &t)) {
      --t.asked_;
      return false;
    }
    if (sleeps_) {
      {
        const std::lock_guard lock(mutex_);
        if (sleeps_) {
          called_ = true;
          place_.move(thread_);
        }
      }
      wakes_.notify_one();
    }
    return true;
  }
  void take_back(team& t) {
    team* asked = &t;
    if (job_.compare_exchange_strong(asked, nullptr)) --t.asked_;
  }

 private:
  [[noreturn]] void run() {
    team* const at_work = reinterpret_cast<team*>(this);  // is no team, and not idle
    const auto awake_for = number_ < processors ? patience : microseconds(0);
    auto idle_since = team_clock::now(), awake_until = idle_since;
    for (;;) {
      team* t = nullptr;
      if (!comes_true_before(awake_until, [&] { return (t = job_) != nullptr; })) {
        sleep();
        awake_until = team_clock::now() + awake_for;
        continue;
      }
      bool stays = team_clock::now() - idle_since < patience;
      team* asked = t;
      if (job_.compare_exchange_strong(asked, at_work)) {
        if (t->core_ >= 0 && t->core_ == elsewhere::core()) stays = false;  // in the way of it
        t->work_(t->context_);
        job_ = nullptr;
        --t->asked_;  // from here on there may be no team
      }
      idle_since = team_clock::now();
      awake_until = stays ? idle_since + awake_for : idle_since;
    }
  }

  void sleep() {
    std::unique_lock lock(mutex_);
    sleeps_ = true;
    wakes_.wait(lock, [this] { return called_ || job_ != nullptr; });
    sleeps_ = called_ = false;
    place_.let_go();
  }

  const int number_;
  alignas(64) std::atomic<team*> job_{nullptr};  // null where it is idle
  std::atomic<bool> sleeps_{false};
  std::mutex mutex_;
  std::condition_variable wakes_;
  bool called_ = false;
  elsewhere place_;
  std::thread::native_handle_type thread_{};
};

// All that were ever needed, the first of whom is asked first. They live as long as the process.
static std::atomic<helper*> all_helpers{nullptr};

static std::atomic<team_clock::time_point> end_of_last_call{team_clock::time_point{}};

void team::ask_the_awake() {
  core_ = elsewhere::core();
  follows_ = start_ - end_of_last_call.load(std::memory_order_relaxed) < patience;
  for (helper* h = all_helpers; h && missing_ > 0; h = h->next)
    if (h->ask(*this, false)) --missing_;
}

void team::grow(std::int64_t done, std::int64_t left) {
  if (follows_ && helpers_ - missing_ < processors - 1) wake_one();
  const team_clock::duration each = waking, taken = team_clock::now() - start_;
  // Of what this thread and those who help already need for the rest.
  const auto pays = [&] {
    const int members = helpers_ - missing_ + 1;
    return double(taken.count()) * left >= 2.0 * each.count() * members * done;
  };
  while (missing_ > 0 && taken >= each && pays() && wake_one()) {
  }
}

// Whether there was one.
bool team::wake_one() {
  helper* h = all_helpers;
  while (h && !h->ask(*this, true)) h = h->next;
  const bool found = h || start_one();
  missing_ = found ? missing_ - 1 : 0;
  return found;
}

// Where more are wanted than there are, even if all were idle.
bool team::start_one() {
  static std::mutex mutex;
  static int started = 0;
  static std::atomic<helper*>* end_of_all = &all_helpers;
  const std::lock_guard lock(mutex);
  if (started >= helpers_) return false;
  helper* h = nullptr;
  try {
    h = new helper(started + 1);
    h->start();
  } catch (...) {  // there is no memory, or there can be no more threads
    delete h;
    return false;
  }
  ++started;
  *end_of_all = h;
  end_of_all = &h->next;
  return h->ask(*this, true);
}

team_clock::duration team::end() {
  const auto start = team_clock::now();
  for (helper* h = all_helpers; h; h = h->next) h->take_back(*this);
  comes_true_before(team_clock::time_point::max(), [this] { return asked_ == 0; });
  const auto now = team_clock::now();
  end_of_last_call.store(now, std::memory_order_relaxed);
  return now - start;
}

}  // namespace fastloss::cpu
