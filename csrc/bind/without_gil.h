// Long computations: other threads of Python run meanwhile, and Ctrl-C ends them.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <cstdint>
#include <optional>

#include "cpu/parallel.h"

namespace fastloss::bind {

namespace py = pybind11;

using clock = std::chrono::steady_clock;
inline thread_local clock::time_point last_check;

// Runs the handlers of signals that have come, at most ten times a second: to get the GIL back from
// a busy thread takes milliseconds. Python runs handlers in its main thread alone.
inline void check_signals() {
  const auto now = clock::now();
  if (now - last_check < std::chrono::milliseconds(100)) return;
  last_check = now;
  py::gil_scoped_acquire acquire;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

// Calls `compute`, which reads or writes so many elements, without the GIL. KeyboardInterrupt is
// thrown in the middle of it, and leaves outputs half written.
template <class Compute>
auto without_gil(std::int64_t elements, Compute compute) {
  constexpr std::int64_t lasting = std::int64_t(1) << 22;  // a millisecond, at the least
  std::optional<cpu::interruptible> interruptible;
  if (elements >= lasting) {
    last_check = clock::now();
    interruptible.emplace(check_signals);
  }
  py::gil_scoped_release release;
  return compute();
}

}  // namespace fastloss::bind
