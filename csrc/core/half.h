// float16 and bfloat16 as storage: conversions to and from float, without branches; on the device,
// by its instructions.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include "core/math.h"

namespace fastloss {

struct float16 {
  std::uint16_t bits;
};
struct bfloat16 {
  std::uint16_t bits;
};

FASTLOSS_HD float widen(bfloat16 x) { return math::bit_cast<float>(std::uint32_t(x.bits) << 16); }

// Without a `?:`, of which GCC makes a branch here, and no vectors of the loops around it.
FASTLOSS_HD float widen(float16 x) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(x.bits));
#else
  std::int32_t magnitude = (x.bits & 0x7fff) << 13;
  std::uint32_t sign = std::uint32_t(x.bits & 0x8000) << 16;
  // Moving the exponent by a product makes subnormals right, too; infinity and NaN, whose exponents
  // have all bits set, need the rest of them.
  float scaled = math::bit_cast<float>(magnitude) * 0x1p112f;
  std::uint32_t rest = (0x0f7fffff - magnitude) >> 31 & 0x7f800000;
  return math::bit_cast<float>(math::bit_cast<std::uint32_t>(scaled) | rest | sign);
#endif
}

// Both round to nearest, ties to even.
FASTLOSS_HD void narrow(float x, bfloat16& out) {
#if defined(__CUDA_ARCH__)
  out.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
#else
  std::uint32_t bits = math::bit_cast<std::uint32_t>(x);
  std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  out.bits = std::uint16_t(x == x ? rounded : (bits >> 16) | 0x40);
#endif
}

FASTLOSS_HD void narrow(float x, float16& out) {
#if defined(__CUDA_ARCH__)
  out.bits = __half_as_ushort(__float2half_rn(x));
#else
  std::int32_t bits = math::bit_cast<std::int32_t>(x);
  std::int32_t magnitude = bits & 0x7fffffff;
  // Below the smallest normal number, adding a constant whose last place is that of the subnormals
  // lets the addition round.
  std::int32_t subnormal =
      math::bit_cast<std::int32_t>(math::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000;
  std::int32_t normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  std::int32_t finite = magnitude < 0x38800000 ? subnormal : normal;
  std::int32_t not_nan = magnitude < 0x477ff000 ? finite : 0x7c00;
  std::int32_t any = magnitude > 0x7f800000 ? 0x7e00 : not_nan;
  out.bits = std::uint16_t(any | ((bits >> 16) & 0x8000));
#endif
}

}  // namespace fastloss
