// What teams learn from waiting, as csrc/cpu/parallel.h describes it. Prints what is not so.
#include <chrono>
#include <cstdio>
#include <thread>

#include "cpu/parallel.h"

using namespace fastloss::cpu;
using std::chrono::milliseconds;

namespace {

int failures = 0;

void expect(bool holds, const char* what) {
  if (holds) return;
  std::printf("%s\n", what);
  ++failures;
}

template <class Condition>
bool in_time(Condition holds) {
  for (int i = 0; i < 20000; ++i) {
    if (holds()) return true;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return false;
}

}  // namespace

int main() {
  expect(threads_that_run(4) == 4, "a team is whole at first");

  for (int i = 0; i < 1000; ++i) note_wait(milliseconds(9), milliseconds(20));
  expect(threads_that_run(4) == 4, "to wait for less than half of the work is bearable");
  for (int i = 0; i < 1000; ++i) note_wait(std::chrono::microseconds(900), milliseconds(0));
  expect(threads_that_run(4) == 4, "to wait for less than a millisecond is bearable");

  const auto smaller = [](int than) {
    return in_time([=] {
      note_wait(milliseconds(20), milliseconds(1));
      return threads_that_run(4) < than;
    });
  };
  expect(smaller(4), "a team that waits becomes smaller");
  expect(threads_that_run(1) == 1, "a team has a thread");
  expect(in_time([] { return threads_that_run(4) == 4; }), "it is whole again after a while");
  expect(smaller(3), "where it waits again, a thread more is spared");
  expect(in_time([] { return threads_that_run(4) == 4; }), "it is whole again even then");
  return failures;
}
