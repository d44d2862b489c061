// Logarithmic attention: the table of weights, and the kernels of a tier.
//
// A row of scores s becomes codes k = min(round((max s − s) · factor), levels − 1), and codes become weights table[k].
// Weights of base 2^(1/f) repeat: table[k + f] = table[k] / 2, so a short table and a subtraction from the exponent
// stand for the long one (`period` = f, a power of two up to 16). With 16 levels and f = 1 or 2 each weight is a whole
// number of at most 8 bits in one of two units,
//   table[k] = high[k] · high_unit + low[k] · low_unit,   one of the two 0,
// so that int8 values are summed exactly in integers, by two products of bytes.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace qonnx::cpu {

constexpr size_t kMaxLevels = 256;
constexpr size_t kLongestByteRow = 65536;  // 255 · 128 · this fits in 31 bits

struct LogTable {
  float factor;  // codes per octave · log2 e
  int levels;
  int period;  // 0 when the table does not repeat
  bool bytes;  // high and low are filled in
  float high_unit, low_unit;
  alignas(64) float weight[kMaxLevels];
  alignas(16) uint8_t high[16], low[16];
};

struct LogAttentionKernels {
  // Weights of a row of n scores; their sum is returned. A row of −∞ has weights 0 and the sum 0; a row with NaN or +∞
  // has weights 0 and the sum NaN.
  float (*weigh)(const LogTable& table, const float* scores, size_t n, float* weights);
  // The same as bytes: high and low by code, filled up with 0 to a multiple of 16. Needs table.bytes.
  float (*weigh_bytes)(const LogTable& table, const float* scores, size_t n, uint8_t* high, uint8_t* low);
  // y = sums · factor · scale, d numbers.
  void (*finish)(const float* sums, float factor, const float* scale, size_t d, float* y);
  void (*widen_bytes)(const int8_t* x, size_t n, float* y);
  // int8 [n, d] as [n / 4][padded d][4], filled up with 0; padded d is a multiple of 16.
  void (*pack_bytes)(const int8_t* value, size_t n, size_t d, size_t padded, int8_t* packed);
  // y[r, c] = high_unit · Σ_n high[r, n] · v[n, c] + low_unit · Σ_n low[r, n] · v[n, c]; rows of high and low lie
  // `stride` apart. Null where the tier has no instruction for it.
  void (*multiply_bytes)(const LogTable& table, const uint8_t* high, const uint8_t* low, size_t stride, size_t rows,
                         const int8_t* packed, size_t n, size_t padded, float* y);
};

}  // namespace qonnx::cpu
