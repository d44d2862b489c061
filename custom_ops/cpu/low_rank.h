// Kernels of the low-rank branch of a matrix product, Y += (X · A) · B; one table per tier. Layout: low_rank_branch.h.
#pragma once

#include <stddef.h>

namespace qonnx::cpu {

struct LowRankKernels {
  // y[width] = x[columns] · A, A [columns][width]. One row of X, with enough sums at a time that none waits for the one
  // before it. width is a multiple of kColumnPad.
  void (*down)(const float* x, size_t columns, const float* a, size_t width, float* y);
};

}  // namespace qonnx::cpu
