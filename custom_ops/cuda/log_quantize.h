// Logarithmic quantizers on the GPU: what the launcher of log_quantize.cu takes.
#pragma once

#include "types.h"

namespace qonnx::cuda {

constexpr int kMostLevels = 256;

// codes = clip(round(−log2(x / scale) · per_octave), 0, levels − 1), the last for numbers that are not positive.
struct LogQuantize {
  const void* x;  // [count]
  Element element;
  int64_t count;
  float scale, per_octave;
  int levels;
  float table[kMostLevels];
  bool values;  // then y is scale · table[code] in the type of x, else codes uint8
  void* y;
};
Failure run_log_quantize(const LogQuantize& job, Stream stream);

}  // namespace qonnx::cuda
