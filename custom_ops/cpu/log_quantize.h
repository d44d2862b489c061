// Logarithmic quantizers: the kernels of a tier.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace qonnx::cpu {

struct LogGrid {
  float scale;
  float per_octave;  // codes per octave
  int levels;        // 2 to 256
};

struct LogQuantizeKernels {
  // n numbers to codes.
  void (*encode)(const LogGrid& grid, const float* x, size_t n, uint8_t* codes);
  // The values scale · table[code] of n numbers; NaN stays NaN. `table` is [256]; y may be x.
  void (*round_trip)(const LogGrid& grid, const float* table, const float* x, size_t n, float* y);
};

}  // namespace qonnx::cpu
