// From the sum of a product to its output: scale, bias, low-rank branch, requantization (Epilogue of product.h).
#pragma once

#include "numbers.cuh"
#include "product.h"

namespace qonnx::cuda {

// clip(round(x / scale) + zero_point, minimum, maximum), each step rounded as QuantizeLinear does.
QONNX_DEVICE int static_code(float x, const StaticGrid& grid) {
  const float low = static_cast<float>(grid.minimum - grid.zero_point);
  const float high = static_cast<float>(grid.maximum - grid.zero_point);
  float ratio = divide_rounded(x, grid.scale);
  ratio = ratio > low ? ratio : low;  // before it is an integer: it may be infinite
  return nearest_integer(ratio < high ? ratio : high) + grid.zero_point;
}

QONNX_DEVICE void write_output(const Epilogue& to, size_t m, int n, float sum) {
  if (to.offsets) sum = fmaf(to.offset, to.offsets[n], sum);
  float value = fmaf(to.factor, sum, to.bias ? to.bias[n] : 0.0f);
  for (int r = 0; r < to.rank; ++r)
    value = fmaf(to.down[m * to.rank + r], to.up[static_cast<size_t>(r) * to.outputs + n], value);
  const size_t at = m * to.outputs + n;
  switch (to.element) {
    case Element::float32: return store_number<Element::float32>(to.y, at, value);
    case Element::float16: return store_number<Element::float16>(to.y, at, value);
    case Element::bfloat16: return store_number<Element::bfloat16>(to.y, at, value);
    default: static_cast<uint8_t*>(to.y)[at] = static_cast<uint8_t>(static_code(value, to.grid));
  }
}

}  // namespace qonnx::cuda
