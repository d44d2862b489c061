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

// One number after the other takes as long as the sums of a small convolution: tiles of eight by eight, or four by four,
// are turned in registers.
#if defined(__AVX2__)
constexpr size_t kTurned = 8;

void turn_tile(const float* x, size_t x_stride, const float* bias, float* y, size_t y_stride) {
  __m256 row[8], pair[8], four[8];
#pragma GCC unroll 8
  for (size_t r = 0; r < 8; ++r) row[r] = _mm256_loadu_ps(x + r * x_stride);
#pragma GCC unroll 4
  for (size_t r = 0; r < 8; r += 2) {
    pair[r] = _mm256_unpacklo_ps(row[r], row[r + 1]);
    pair[r + 1] = _mm256_unpackhi_ps(row[r], row[r + 1]);
  }
#pragma GCC unroll 2
  for (size_t r = 0; r < 8; r += 4) {
    four[r] = _mm256_shuffle_ps(pair[r], pair[r + 2], 0x44);
    four[r + 1] = _mm256_shuffle_ps(pair[r], pair[r + 2], 0xee);
    four[r + 2] = _mm256_shuffle_ps(pair[r + 1], pair[r + 3], 0x44);
    four[r + 3] = _mm256_shuffle_ps(pair[r + 1], pair[r + 3], 0xee);
  }
#pragma GCC unroll 4
  for (size_t c = 0; c < 4; ++c) {
    const __m256 low = _mm256_permute2f128_ps(four[c], four[c + 4], 0x20),
                 high = _mm256_permute2f128_ps(four[c], four[c + 4], 0x31);
    _mm256_storeu_ps(y + c * y_stride, _mm256_add_ps(low, _mm256_set1_ps(bias[c])));
    _mm256_storeu_ps(y + (c + 4) * y_stride, _mm256_add_ps(high, _mm256_set1_ps(bias[c + 4])));
  }
}
#else
constexpr size_t kTurned = 4;

void turn_tile(const float* x, size_t x_stride, const float* bias, float* y, size_t y_stride) {
  float turned[4][4];
  for (size_t r = 0; r < 4; ++r)
    for (size_t c = 0; c < 4; ++c) turned[c][r] = x[r * x_stride + c] + bias[c];
  for (size_t c = 0; c < 4; ++c) memcpy(y + c * y_stride, turned[c], sizeof turned[c]);
}
#endif

void transpose_add(const float* x, size_t x_stride, size_t rows, size_t columns, const float* bias, float* y,
                   size_t y_stride) {
  const auto one_by_one = [&](size_t first_row, size_t first, size_t last) {
    for (size_t c = first; c < last; ++c)
      for (size_t r = first_row; r < rows; ++r) y[c * y_stride + r] = x[r * x_stride + c] + bias[c];
  };
  const size_t whole_rows = rows / kTurned * kTurned, whole_columns = columns / kTurned * kTurned;
  for (size_t c = 0; c < whole_columns; c += kTurned) {
    for (size_t r = 0; r < whole_rows; r += kTurned)
      turn_tile(x + r * x_stride + c, x_stride, bias + c, y + c * y_stride + r, y_stride);
    one_by_one(whole_rows, c, c + kTurned);
  }
  one_by_one(0, whole_columns, columns);
}

}  // namespace

extern const NumberKernels number_kernels;
const NumberKernels number_kernels = {from_float16, from_bfloat16, to_float16, to_bfloat16, scale_add, transpose_add};

}  // namespace qonnx::cpu::QONNX_TIER
