// Nearest sums of code-book vectors, for conversion: one table per tier.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace qonnx::cpu {

struct SearchKernels {
  // z [n, length] and books [count, levels, length] to codes [n, count]. width: partial sums that go on from book to
  // book. descents: rounds in which every code is chosen once more with the others fixed.
  void (*beam)(const float* z, size_t n, size_t length, const float* books, size_t count, size_t levels, size_t width,
               size_t descents, int64_t* codes);
};

}  // namespace qonnx::cpu
