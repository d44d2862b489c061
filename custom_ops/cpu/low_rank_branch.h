// The low-rank branch of a matrix product, Y += (X · A) · B with A [K, rank] and B [rank, N]: packed factors.
//
// Packed, in float32 with zeros in the padding:
//   A  [k][width]             width: rank, rounded up to whole sixteens
//   B  [panel][rank][32]      panels of 32 outputs, as in lowbit.h
#pragma once

#include <string>

#include "../ort_op.h"
#include "float_product.h"
#include "low_rank.h"
#include "memory.h"

namespace qonnx::cpu {

class LowRankBranch {
 public:
  // Checks both factors; sentences of errors begin with `who`.
  LowRankBranch(const Tensor& a, const Tensor& b, size_t columns, size_t rows, const std::string& who);

  size_t rank() const { return rank_; }
  size_t width() const { return width_; }
  // y[row][width] = x[row][columns] · A for `rows` rows of X that lie `columns` numbers apart.
  void down(const float* x, size_t rows, float* y) const;
  // y[row][32] += x_down[row][width] · B of a panel.
  void up(size_t panel, const float* x_down, size_t rows, float* y) const;

 private:
  const LowRankKernels& kernels_;
  const FloatProduct& products_;
  size_t columns_, rank_ = 0, width_ = 0;
  Buffer a_, b_;
};

}  // namespace qonnx::cpu
