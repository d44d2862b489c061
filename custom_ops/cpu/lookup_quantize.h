// Grids of chosen levels: the kernels of a tier.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace qonnx::cpu {

struct LookupQuantizeKernels {
  // codes[i] = table[clip(round(x[i] / scale) + zero_point, 0, 255)] of n numbers; `table` is [256].
  void (*encode)(const float* x, size_t n, float scale, int zero_point, const uint8_t* table, uint8_t* codes);
};

}  // namespace qonnx::cpu
