// float16 for the shim.
#pragma once

#include "cuda_shim.h"

struct __half {
  _Float16 number;
};
inline float __half2float(__half half) { return float(half.number); }
inline __half __float2half_rn(float number) { return {_Float16(number)}; }
