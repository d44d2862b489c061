// Shapes and types of outputs that operators of every device infer alike.
#pragma once

#include "ort_op.h"

namespace qonnx {

// Codes (uint8) in the shape of the first input.
inline void infer_codes(ShapeInference& shapes) {
  auto codes = shapes.input(0);
  codes.type = Type::uint8;
  shapes.output(0, codes);
}

// A product: the first input with as many columns as input `codes` has rows; its type that of input `typed`.
inline void infer_product(ShapeInference& shapes, size_t codes, size_t typed = 0) {
  auto y = shapes.input(0);
  const auto weight = shapes.input(codes);
  if (!y.known || !weight.known || weight.dims.size() != 2) return;
  // One function serves an operator in all its types: without this, the type of y would be one of them.
  if (typed) y.type = shapes.input(typed).type;
  y.dims.back() = weight.dims[0];
  y.symbols.back() = weight.symbols[0];
  shapes.output(0, y);
}

// Attention × values, [..., M, N] · [..., N, D], leading dimensions broadcast.
inline void infer_attention(ShapeInference& shapes) {
  auto y = shapes.input(0);
  const auto value = shapes.input(1);
  if (!y.known || !value.known || y.dims.size() != value.dims.size() || y.dims.size() < 2) return;
  for (size_t i = 0; i + 2 < y.dims.size(); ++i)
    if (y.dims[i] == 1) {  // broadcast
      y.dims[i] = value.dims[i];
      y.symbols[i] = value.symbols[i];
    }
  y.dims.back() = value.dims.back();
  y.symbols.back() = value.symbols.back();
  shapes.output(0, y);
}

}  // namespace qonnx
