#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace fastloss::cuda {

inline void expect_success(cudaError_t status) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status));
}

}  // namespace fastloss::cuda
