// Hadamard transforms of rows and the rounding of rows to int8: the kernels of a tier.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace qonnx::cpu {

struct HadamardKernels {
  // x = H x in place, H the Sylvester matrix of order n, a power of two (H[i, j] = −1 where i & j has an odd number of
  // bits, else 1).
  void (*transform)(float* x, size_t n);
  // y[i, c] = Σ_j base[i, j] · x[j, c]: k × k times k × columns, for columns that FloatProduct does not take.
  void (*mix)(const float* base, size_t k, const float* x, size_t columns, float* y);
  void (*scale)(float* x, float factor, size_t n);
  // code = round(x · 127 / largest), scale = largest / 127, largest = max(max |x|, 2^-100); 0 and NaN when a number is
  // not finite.
  float (*quantize)(const float* x, size_t n, int8_t* codes);
};

}  // namespace qonnx::cpu
