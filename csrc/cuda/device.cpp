#include "cuda/device.h"

#include "cuda/status.h"

namespace fastloss::cuda {

std::vector<device_info> devices() {
  int count = 0;
  expect_success(cudaGetDeviceCount(&count));
  std::vector<device_info> out;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp p;
    expect_success(cudaGetDeviceProperties(&p, i));
    out.push_back({p.name, p.major, p.minor, p.multiProcessorCount, p.totalGlobalMem});
  }
  return out;
}

int driver_version() {
  int version = 0;
  expect_success(cudaDriverGetVersion(&version));
  return version;
}

int runtime_version() {
  int version = 0;
  expect_success(cudaRuntimeGetVersion(&version));
  return version;
}

void use_device(int index) { expect_success(cudaSetDevice(index)); }

int capability() {
  int device = 0, major = 0, minor = 0;
  expect_success(cudaGetDevice(&device));
  expect_success(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  expect_success(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  return 10 * major + minor;
}

void copy_to_device(void* to, const void* from, std::size_t bytes, void* stream) {
  expect_success(
      cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, static_cast<cudaStream_t>(stream)));
}

}  // namespace fastloss::cuda
