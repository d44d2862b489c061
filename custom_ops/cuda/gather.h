// Rows of a weight in code books, decoded on the GPU: what the launcher of gather.cu takes.
#pragma once

#include "../formats/codes.h"
#include "types.h"

namespace qonnx::cuda {

// All arrays lie in GPU memory, in the layout of the file: nothing is packed.
struct Gather {
  const int64_t* rows;  // [count], negative ones from the end; those outside of the weight give NaN
  int64_t count;
  const uint8_t* codes;            // [weight rows, row bytes]: indices [columns / length][book]
  const void *codebooks, *scale;   // [books, levels, length]; [weight rows, blocks]
  Element element, scale_element;  // of codebooks and y; of scale
  int64_t weight_rows;
  int columns, block, books, length;
  CodeLayout layout;
  void* y;  // [count, columns]
};
Failure run_gather(const Gather& job, Stream stream);

}  // namespace qonnx::cuda
