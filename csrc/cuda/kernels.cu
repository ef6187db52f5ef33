// The kernels on the device, in the compute type that FASTLOSS_COMPUTE names.
#include <cooperative_groups.h>
#include <cuda_pipeline_primitives.h>
#include <cuda_runtime.h>

#include "cuda/make_kernels.h"
#include "cuda/status.h"

namespace fastloss::cuda {
namespace {

// See cuda/team.h.
struct device_block {
  sums* shared;
  word* own_memory;

  __device__ int thread() const { return int(threadIdx.x); }
  __device__ int threads() const { return int(blockDim.x); }
  __device__ int64_t index() const { return blockIdx.x; }
  __device__ int64_t blocks() const { return gridDim.x; }
  __device__ void barrier() const { __syncthreads(); }
  __device__ sums* scratch() const { return shared; }
  __device__ word* memory() const { return own_memory; }
  __device__ void copy(word* to, const void* from) const {
    __pipeline_memcpy_async(to, from, sizeof(word));
  }
  __device__ void wait_for_copies() const {
    __pipeline_commit();
    __pipeline_wait_prior(0);
  }

  // Older devices have no clusters, and cuts.cpp makes none for them.
  __device__ void cluster_barrier() const {
#if __CUDA_ARCH__ >= 900
    cooperative_groups::this_cluster().sync();
#endif
  }
  __device__ sums* scratch_of(int block) const {
#if __CUDA_ARCH__ >= 900
    return cooperative_groups::this_cluster().map_shared_rank(shared, block);
#else
    return shared;
#endif
  }

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
  __shared__ sums
      shared[warp_threads];  // with `last` above, what allow_most_memory leaves room for
  extern __shared__ word own_memory[];
  device_block block{shared, own_memory};
  body(block);
}

// All that a block may have, less what kernels have beside it: always the same, because another
// thread may be about to launch the same kernel.
template <class Kernel>
void allow_most_memory(Kernel kernel) {
  constexpr int beside = 1 << 10;
  int device = 0, most = 0;
  expect_success(cudaGetDevice(&device));
  expect_success(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  expect_success(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most - beside));
}

struct device {
  template <class Body>
  static void launch(const Body& body, const geometry& g, stream_handle s) {
    constexpr int memory_of_any_kernel = 48 << 10;
    if (g.memory > memory_of_any_kernel) allow_most_memory(run<Body>);
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = unsigned(std::max(g.team / g.threads, 1));
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = unsigned(g.blocks);
    config.blockDim = unsigned(g.threads);
    config.dynamicSmemBytes = std::size_t(g.memory);
    config.stream = static_cast<cudaStream_t>(s);
    config.attrs = &cluster;
    config.numAttrs = g.team > g.threads;
    expect_success(cudaLaunchKernelEx(&config, run<Body>, body));
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
