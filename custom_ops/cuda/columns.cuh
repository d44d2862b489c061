// Where the numbers of a unit of x lie among the operands of the tensor cores (Columns of product.h).
#pragma once

#include "ptx.cuh"
#include "product.h"

namespace qonnx::cuda {

// Of the number at a place of a unit; the first of a pair stands for both.
template <Math math>
QONNX_DEVICE int order_of(bool interleaved, int place) {
  if (!interleaved) return place;
  const int t = place / 16, within = place % 16;
  if constexpr (math == Math::int8) return within / 8 * 32 + within / 4 % 2 * 16 + 4 * t + within % 4;
  return within / 4 * 16 + within / 2 % 2 * 8 + 2 * t + within % 2;
}

}  // namespace qonnx::cuda
