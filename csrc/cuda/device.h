// What there is to run on.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace fastloss::cuda {

struct device_info {
  std::string name;
  int major, minor;  // compute capability
  int multiprocessors;
  std::size_t memory;  // bytes
};

// Throws runtime_error with CUDA's reason, such as a missing driver.
std::vector<device_info> devices();

// As CUDA writes them: 13020 is 13.2. The driver's is 0 without one.
int driver_version();
int runtime_version();

// Makes it the current device of this thread.
void use_device(int index);

// The compute capability of the current device: 90 is 9.0.
int capability();

// Enqueues a copy from memory of the host, which may change once this returns.
void copy_to_device(void* to, const void* from, std::size_t bytes, void* stream);

}  // namespace fastloss::cuda
