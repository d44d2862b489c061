// Vectors of sixteen numbers, which compilers map to the registers of the tier; and rounding by an addition.
#pragma once

#include <stdint.h>

namespace qonnx::cpu::QONNX_TIER {

typedef float Numbers __attribute__((vector_size(64)));
typedef int32_t Integers __attribute__((vector_size(64)));
typedef uint8_t Sixteen __attribute__((vector_size(16)));

static inline Numbers all(float x) {
  Numbers v;
  for (int i = 0; i < 16; ++i) v[i] = x;
  return v;
}

// Whole numbers, ties to even, of |x| < 2^22.
static inline Numbers rounded(Numbers x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 · 2^23: behind the sum no digit is left after the point
  return (x + kMagic) - kMagic;
}

}  // namespace qonnx::cpu::QONNX_TIER
