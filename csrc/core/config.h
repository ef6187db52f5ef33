// Portability of the formulas: one source for host and device.
#pragma once

// Forced inlining is not only for speed. The kernels are compiled once per instruction set, and an
// out-of-line copy of a shared inline function would be merged by the linker: the baseline path
// could then end up running AVX-512 code.
#if defined(__CUDACC__)
#define FASTLOSS_HD __host__ __device__ __forceinline__
#else
#define FASTLOSS_HD inline __attribute__((always_inline))
#endif
