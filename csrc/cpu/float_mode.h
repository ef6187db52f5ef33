// What becomes of numbers that are too small to be normal.
#pragma once

#include <cstdint>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace fastloss::cpu {

// While it lives, whatever the caller has set for this thread: subnormal results become zero, since
// a processor may take a hundred times as long for a vector that has one; subnormal operands count,
// since those of float16 are widened through some. TensorFlow's threads have both become zero.
class float_mode {
#if defined(__SSE2__)
  static constexpr unsigned results_become_zero = 0x8000, operands_become_zero = 0x0040;
  const unsigned before_ = _mm_getcsr();

 public:
  float_mode() { _mm_setcsr((before_ & ~operands_become_zero) | results_become_zero); }
  ~float_mode() { _mm_setcsr(before_); }
#elif defined(__aarch64__)
  // One setting for both. These processors do not slow down.
  static constexpr std::uint64_t become_zero = 1 << 24;
  std::uint64_t before_;

 public:
  float_mode() {
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    asm volatile("msr fpcr, %0" : : "r"(before_ & ~become_zero));
  }
  ~float_mode() { asm volatile("msr fpcr, %0" : : "r"(before_)); }
#else

 public:
  float_mode() {}  // which makes a variable of it used
#endif
  float_mode(const float_mode&) = delete;
  float_mode& operator=(const float_mode&) = delete;
};

}  // namespace fastloss::cpu
