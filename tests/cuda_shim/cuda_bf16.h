// bfloat16 for the shim; a bfloat16 is the upper half of a float32.
#pragma once

#include "cuda_shim.h"

struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 half) {
  const uint32_t word = uint32_t(half.bits) << 16;
  float number;
  std::memcpy(&number, &word, 4);
  return number;
}
inline __nv_bfloat16 __float2bfloat16_rn(float number) {  // to nearest, ties to even
  uint32_t word;
  std::memcpy(&word, &number, 4);
  if ((word & 0x7fffffffu) > 0x7f800000u) return {0x7fff};  // NaN
  return {uint16_t((word + 0x7fffu + ((word >> 16) & 1)) >> 16)};
}
