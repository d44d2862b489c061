// Grids of chosen levels on the GPU: what the launcher of lookup_quantize.cu takes.
#pragma once

#include "types.h"

namespace qonnx::cuda {

// codes = table[clip(round(x / scale) + zero_point, 0, 255)]
struct LookupQuantize {
  const void* x;  // [count]
  Element element;
  int64_t count;
  float scale;
  int zero_point;
  uint8_t table[256];
  uint8_t* codes;
};
Failure run_lookup_quantize(const LookupQuantize& job, Stream stream);

}  // namespace qonnx::cuda
