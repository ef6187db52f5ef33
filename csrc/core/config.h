// Portability of the formulas: one source for host and device. What a block of threads does with
// them is FASTLOSS_DEVICE: compiled for the device, or for the host that stands in for one;
// FASTLOSS_DEVICE_CALL is what is seldom needed there and would swell every kernel.
#pragma once

// Forced inlining is not only for speed. The kernels are compiled once per instruction set, and an
// out-of-line copy of a shared inline function would be merged by the linker: the baseline path
// could then end up running AVX-512 code.
#if defined(__CUDACC__)
#define FASTLOSS_HD __host__ __device__ __forceinline__
#define FASTLOSS_DEVICE __device__ __forceinline__
#define FASTLOSS_DEVICE_CALL inline __device__ __noinline__
#else
#define FASTLOSS_DEVICE inline
#define FASTLOSS_DEVICE_CALL inline
#define FASTLOSS_HD inline __attribute__((always_inline))
#endif

// Where a fused multiply-add is an instruction. Elsewhere it is a slow call.
#if defined(__FP_FAST_FMAF) || defined(__FMA__) || defined(__ARM_FEATURE_FMA) || \
    defined(__CUDA_ARCH__)
#define FASTLOSS_FMA
#endif
