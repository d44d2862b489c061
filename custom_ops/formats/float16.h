// Decode and encode of the two 16-bit float types, bit by bit, portable.
//
// float16 (IEEE binary16): 1 sign, 5 exponent (bias 15), 10 fraction bits. bfloat16: the upper half of a float32.
// Encoding rounds to nearest, ties to even; NaN stays NaN (quiet), values above the range become infinity.
// Everything is `static inline`: these headers are compiled once per instruction-set tier, and a shared copy could be
// the one with instructions that the machine lacks.
#pragma once

#include <stdint.h>
#include <string.h>

namespace qonnx {

static inline uint32_t float_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

static inline float bits_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static inline float decode_float16(uint16_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x8000) << 16;
  const uint32_t exponent = (code >> 10) & 31, fraction = code & 0x3ff;
  if (exponent == 31) return bits_float(sign | 0x7f800000 | (fraction << 13));
  if (exponent) return bits_float(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;  // zero and subnormals, exact
  return bits_float(sign | float_bits(magnitude));
}

static inline uint16_t encode_float16(float value) {
  const uint32_t bits = float_bits(value), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | ((magnitude >> 13) & 0x3ff));
  if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // 65520 rounds to infinity
  if (magnitude < 0x38800000) {  // below 2^-14: adding 0.5 puts the units of 2^-24 at the end of the fraction
    const float shifted = bits_float(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (float_bits(shifted) - 0x3f000000));
  }
  const uint32_t rounded = magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1);
  return static_cast<uint16_t>(sign | (rounded >> 13));
}

static inline float decode_bfloat16(uint16_t code) { return bits_float(static_cast<uint32_t>(code) << 16); }

static inline uint16_t encode_bfloat16(float value) {
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace qonnx
