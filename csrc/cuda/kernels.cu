// The kernels on the device, in the compute type that FASTLOSS_COMPUTE names.
#include <cuda_runtime.h>

#include "cuda/make_kernels.h"
#include "cuda/status.h"

namespace fastloss::cuda {
namespace {

// See cuda/team.h.
struct device_block {
  sums* shared;

  __device__ int thread() const { return int(threadIdx.x); }
  __device__ int threads() const { return int(blockDim.x); }
  __device__ int64_t index() const { return blockIdx.x; }
  __device__ int64_t blocks() const { return gridDim.x; }
  __device__ void barrier() const { __syncthreads(); }
  __device__ sums* scratch() const { return shared; }

  template <class X>
  __device__ X exchange(X x, int mask) const {
    constexpr int words = sizeof(X) / sizeof(unsigned);
    static_assert(sizeof(X) == words * sizeof(unsigned));
    unsigned w[words];
    memcpy(w, &x, sizeof x);
#pragma unroll
    for (int i = 0; i < words; ++i) w[i] = __shfl_xor_sync(0xffffffffu, w[i], mask);
    memcpy(&x, w, sizeof x);
    return x;
  }

  __device__ bool is_last(unsigned* counter) const {
    if (gridDim.x == 1) {
      __syncthreads();
      return true;
    }
    __shared__ bool last;
    __threadfence();  // what this block has written is seen before its arrival
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(counter, 1u) == gridDim.x - 1;
    __syncthreads();
    __threadfence();
    return last;
  }
};

template <class Body>
__global__ void __launch_bounds__(512) run(const __grid_constant__ Body body) {
  __shared__ sums shared[warp_threads];
  device_block block{shared};
  body(block);
}

struct device {
  template <class Body>
  static void launch(const Body& body, const geometry& g, stream_handle s) {
    run<<<unsigned(g.blocks), unsigned(g.threads), 0, static_cast<cudaStream_t>(s)>>>(body);
    expect_success(cudaGetLastError());
  }
  static void clear(void* memory, std::size_t bytes, stream_handle s) {
    expect_success(cudaMemsetAsync(memory, 0, bytes, static_cast<cudaStream_t>(s)));
  }
};

}  // namespace

const kernel_set& FASTLOSS_KERNELS() {
  static const kernel_set set = make_kernels<device, FASTLOSS_COMPUTE>(all_losses{});
  return set;
}

}  // namespace fastloss::cuda
