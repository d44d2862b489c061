// Logarithmic attention on the GPU: what the launcher of log_attention.cu takes.
#pragma once

#include "log_quantize.h"

namespace qonnx::cuda {

constexpr int kMostDimensions = 6;

// y = Σ table[code] · value · scale / Σ table[code], code = min(round((largest of the row − score) · factor), levels − 1).
// A row with NaN or +∞ is NaN, one whose weights add up to 0 is 0.
struct LogAttention {
  const void *scores, *value;  // [score matrices, m, n]; [value matrices, n, d], of the type of scores or int8
  const float* scale;          // [scales], one or d
  int scales;
  Element element;
  bool integers;  // values are int8
  float factor;
  int m, n, d, batches;
  // Leading dimensions of y, and how many matrices of scores and of values one step along each is (0: broadcast).
  int dimensions, size[kMostDimensions], score_step[kMostDimensions], value_step[kMostDimensions];
  void* y;  // [batches, m, d]
};

// `table`: float32 [levels] in the host's memory.
Failure run_log_attention(const LogAttention& job, const float* table, int levels, Stream stream);

}  // namespace qonnx::cuda
