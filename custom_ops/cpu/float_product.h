// Y = A · B in float32 with B narrow and its columns contiguous; one table per tier.
#pragma once

#include <stddef.h>

namespace qonnx::cpu {

constexpr size_t kColumnPad = 16;  // columns of B come in multiples of this on every tier

struct FloatProduct {
  // y[r, c] = Σ_n a[r, n] · b[n, c], or y += that: `rows` × `columns`, a sum of `count` terms. Strides in numbers.
  // columns is a multiple of kColumnPad.
  void (*multiply)(const float* a, size_t a_stride, const float* b, size_t b_stride, size_t count, size_t rows,
                   size_t columns, bool add, float* y, size_t y_stride);
};

}  // namespace qonnx::cpu
