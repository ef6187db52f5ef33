// Calls of several threads at once, long and short, soon after each other and not, some of which
// fail. Prints what is not so.
#include <cstdio>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cpu/parallel.h"

using fastloss::cpu::parallel_for;
using fastloss::cpu::team_clock;
using std::chrono::microseconds;

namespace {

std::atomic<int> failures{0};
std::atomic<std::int64_t> helped{0};

void spin(microseconds time) {
  const auto end = team_clock::now() + time;
  while (team_clock::now() < end) {
  }
}

void call_again_and_again(unsigned seed) {
  std::mt19937 random(seed);
  const auto one_of = [&](int n) { return static_cast<int>(random() % n); };
  const auto caller = std::this_thread::get_id();
  for (int k = 0; k < 400; ++k) {
    const std::int64_t n = 1 + one_of(200);
    const microseconds each(one_of(4) == 0 ? one_of(40) : 0);
    const std::int64_t bad = one_of(8) == 0 ? one_of(static_cast<int>(n)) : -1;
    std::vector<int> calls(n);
    bool failed = false;
    try {
      parallel_for(n, 1 + one_of(6), [&](std::int64_t i) {
        ++calls[i];
        spin(each);
        if (std::this_thread::get_id() != caller) ++helped;
        if (i == bad) throw std::runtime_error("bad");
      });
    } catch (const std::runtime_error&) {
      failed = true;
    }
    if (failed != (bad >= 0)) ++failures, std::puts("an exception was lost, or made up");
    for (const int c : calls)
      if (c > 1 || (c == 0 && !failed)) ++failures, std::puts("a task was not done once");
    if (one_of(10) == 0) std::this_thread::sleep_for(microseconds(500));
  }
}

// The rest of the thousands of tasks that a helper has fetched at once.
void leave_out_after_an_error() {
  const auto caller = std::this_thread::get_id();
  std::atomic<int> of_helper{0}, before{0};
  try {
    parallel_for(100'000, 2, [&](std::int64_t) {
      spin(microseconds(20));
      if (std::this_thread::get_id() != caller) return void(++of_helper);
      if ((before = of_helper.load()) >= 10) throw std::runtime_error("bad");
    });
  } catch (const std::runtime_error&) {
  }
  if (before == 0) ++failures, std::puts("nobody helped");
  if (of_helper - before > 1000) ++failures, std::puts("tasks were begun after an error");
}

}  // namespace

int main() {
  leave_out_after_an_error();
  std::vector<std::thread> callers;
  for (unsigned seed = 0; seed < 4; ++seed) callers.emplace_back(call_again_and_again, seed);
  for (std::thread& caller : callers) caller.join();
  if (helped == 0) ++failures, std::puts("no task was done by a helper");
  return failures;
}
