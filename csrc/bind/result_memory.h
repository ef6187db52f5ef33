// The memory of arrays for results.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>

namespace fastloss::bind {

struct result_memory {
  void* first;  // at a multiple of 64
  pybind11::capsule owner;
};

// So many bytes with any contents. That of large arrays is kept when they are gone, for the next
// ones: to get new pages from the system takes longer than most losses do. The system may take them
// back meanwhile. Needs the GIL.
result_memory allocate_result(std::size_t bytes);

}  // namespace fastloss::bind
