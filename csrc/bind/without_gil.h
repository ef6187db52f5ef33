// Long computations: other threads of Python run meanwhile, and Ctrl-C ends them.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <cstdint>
#include <exception>
#include <optional>
#include <thread>

#include "cpu/parallel.h"

namespace fastloss::bind {

namespace py = pybind11;

using clock = std::chrono::steady_clock;
inline thread_local clock::time_point last_check;

// Calls `take`, which takes the GIL. Before 3.14, Python ends a thread that asks for it when the
// interpreter is gone, by unwinding its stack, which destructors do not survive: such a thread of a
// daemon waits for the end of the process here, as later versions let it.
template <class Take>
void take_gil(Take take) {
  try {
    take();
  } catch (...) {
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }
}

// Runs the handlers of signals that have come, at most ten times a second: to get the GIL back from
// a busy thread takes milliseconds. Python runs handlers in its main thread alone.
inline void check_signals() {
  const auto now = clock::now();
  if (now - last_check < std::chrono::milliseconds(100)) return;
  last_check = now;
  PyGILState_STATE gil{};
  take_gil([&] { gil = PyGILState_Ensure(); });
  std::optional<py::error_already_set> error;
  if (PyErr_CheckSignals() != 0) error.emplace();
  PyGILState_Release(gil);
  if (error) throw *error;
}

// Calls `compute` without the GIL.
template <class Compute>
void without_gil(Compute compute) {
  std::exception_ptr error;
  PyThreadState* const state = PyEval_SaveThread();
  try {
    compute();
  } catch (...) {
    error = std::current_exception();
  }
  take_gil([&] { PyEval_RestoreThread(state); });
  if (error) std::rethrow_exception(error);
}

// The same for one that reads or writes so many elements: KeyboardInterrupt is thrown in the middle
// of it, and leaves outputs half written.
template <class Compute>
void without_gil(std::int64_t elements, Compute compute) {
  constexpr std::int64_t lasting = std::int64_t(1) << 22;  // a millisecond, at the least
  std::optional<cpu::interruptible> interruptible;
  if (elements >= lasting) {
    last_check = clock::now();
    interruptible.emplace(check_signals);
  }
  without_gil(compute);
}

}  // namespace fastloss::bind
