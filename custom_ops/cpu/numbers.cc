// Conversions of rows between number types; compiled once per tier.
#include "numbers.h"

#include "../formats/float16.h"
#include "vector.h"

namespace qonnx::cpu::QONNX_TIER {

namespace {

void from_float16(const uint16_t* x, float* y, size_t n) {
  size_t i = 0;
#ifdef __F16C__
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
#endif
  for (; i < n; ++i) y[i] = decode_float16(x[i]);
}

void from_bfloat16(const uint16_t* x, float* y, size_t n) {
  for (size_t i = 0; i < n; ++i) y[i] = decode_bfloat16(x[i]);
}

void to_float16(const float* x, uint16_t* y, size_t n) {
  size_t i = 0;
#ifdef __F16C__
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
#endif
  for (; i < n; ++i) y[i] = encode_float16(x[i]);
}

void to_bfloat16(const float* x, uint16_t* y, size_t n) {
  for (size_t i = 0; i < n; ++i) y[i] = encode_bfloat16(x[i]);
}

void scale_add(const float* x, float factor, const float* bias, float* y, size_t n) {
  if (bias)
    for (size_t i = 0; i < n; ++i) y[i] = factor * x[i] + bias[i];
  else
    for (size_t i = 0; i < n; ++i) y[i] = factor * x[i];
}

}  // namespace

extern const NumberKernels number_kernels;
const NumberKernels number_kernels = {from_float16, from_bfloat16, to_float16, to_bfloat16, scale_add};

}  // namespace qonnx::cpu::QONNX_TIER
