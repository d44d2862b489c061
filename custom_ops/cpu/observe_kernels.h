// The inner loops of ObserveSink, one table per instruction-set tier.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace qonnx::cpu {

constexpr size_t kGramTile = 64;  // channels along one side of a tile of the Gram matrix

struct ObserveKernels {
  // The largest bit pattern of |x|: it orders like |x|, and from 0x7f800000 on it means infinity or NaN.
  uint32_t (*largest)(const float* x, size_t n);

  // Ranges and sums by channel of `rows` rows of `channels` numbers each; all numbers finite.
  void (*rows)(const float* x, size_t rows, size_t channels, float* minimum, float* maximum, double* sum);

  // The same for n numbers of one channel.
  void (*segment)(const float* x, size_t n, float* minimum, float* maximum, double* sum);

  // counts[floor(x · per_unit) + bins/2] += 1; `scratch` has 4 · bins zeros and is left so. The caller's range
  // contains every x, so the index is always inside.
  void (*histogram)(const float* x, size_t n, float per_unit, size_t bins, uint32_t* scratch, int64_t* counts);

  // tile[i][j] += Σ_rows a[row][i] · b[row][j] for one 64 × 64 tile: float32 within the call (at most 256 rows), then
  // added to float64. `stride` is the length of a row.
  void (*gram)(const float* a, const float* b, size_t rows, size_t stride, double* tile);
};

}  // namespace qonnx::cpu
