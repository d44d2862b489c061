// Rows of float32, float16 and bfloat16 numbers in and out of float32, one table per tier.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace qonnx::cpu {

struct NumberKernels {
  void (*from_float16)(const uint16_t* x, float* y, size_t n);
  void (*from_bfloat16)(const uint16_t* x, float* y, size_t n);
  void (*to_float16)(const float* x, uint16_t* y, size_t n);
  void (*to_bfloat16)(const float* x, uint16_t* y, size_t n);
  // y = factor · x + bias; bias may be null. y may be x.
  void (*scale_add)(const float* x, float factor, const float* bias, float* y, size_t n);
  // y[c · y_stride + r] = x[r · x_stride + c] + bias[c].
  void (*transpose_add)(const float* x, size_t x_stride, size_t rows, size_t columns, const float* bias, float* y,
                        size_t y_stride);
};

}  // namespace qonnx::cpu
