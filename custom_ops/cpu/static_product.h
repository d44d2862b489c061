// Low-bit matrix product of activations that are quantized already: rows of codes, and the table of kernels of a tier.
//
// With activation codes c, their zero point a and bytes q = c − shift:
//
//   y[m, n] = x_scale · Σ_g scale[n, g] · Σ_k (c[m, k] − a) · (v[n, k] − zero[n, g]) + bias[n]
//
// so the inner loop is the byte product of any low-bit weight, in one of two forms:
//
//   q signed, v unsigned    Σ_k (c − a) · (v − zero) = Σ_k q · v + correction[n, g] − zero · sum[m, g]
//                           correction = −(a − shift) · Σ_k v,   sum = Σ_k (c − a)
//   q unsigned, v signed    Σ_k (c − a) · (v − zero) = Σ_k q · (v − zero) + correction[n, g]
//                           correction = −(a − shift) · Σ_k (v − zero)
//
// The second needs nothing of a row but its codes; it is for whole zeros in reach of a signed byte, on tiers that have
// the instruction. Integer sums run over chains: whole blocks where they
// have at most 8192 columns, else pieces of so many. A weight with one chain is summed exactly, and every tier gives the
// same bits: y = ((float)Σ · scale) · x_scale + bias, each step rounded.
#pragma once

#include "lowbit.h"

namespace qonnx::cpu {

constexpr size_t kChain = 16;             // groups in a chain: sums of 8192 products of 255 by 511 fit in int32
constexpr float kLargestChainZero = 256;  // a whole zero up to this size is taken off in integers

static inline size_t chains_in_block(const LowBitWeight& weight) { return (weight.parts + kChain - 1) / kChain; }
static inline size_t chain_count(const LowBitWeight& weight) {
  return weight.groups / weight.parts * chains_in_block(weight);
}
static inline size_t chain_of(const LowBitWeight& weight, size_t group) {
  return group / weight.parts * chains_in_block(weight) + group % weight.parts / kChain;
}
static inline bool begins_chain(const LowBitWeight& weight, size_t group) { return group % weight.parts % kChain == 0; }
static inline bool ends_chain(const LowBitWeight& weight, size_t group) {
  return group % weight.parts % kChain == kChain - 1 || group % weight.parts == weight.parts - 1;
}

// Rows of codes in padded columns, `together` of them interleaved:
//   codes  [row / together][k / 4][row mod together][4]     0 in the padding
//   sum    [row / together][chain][row mod together]        Σ (c − a) over real columns; null where nobody needs it
struct StaticRows {
  int8_t* codes;
  int32_t* sum;
  size_t together;
};

// How float numbers become codes: clip(round(x / scale) + zero_point, minimum, maximum), ties to even.
struct StaticGrid {
  float scale;
  int32_t zero_point, minimum, maximum, shift;
  bool negative;  // codes that are there already are signed bytes
};

struct StaticProduct {
  size_t (*together)(size_t rows);
  // Whether the weight's bytes are signed here and those of X are not.
  bool (*signs)(const LowBitWeight&);
  // One row of codes [columns] into row `row`; null for a row of zeros.
  void (*place)(const LowBitWeight&, const uint8_t* x, const StaticGrid& grid, size_t row, const StaticRows& q);
  // One row of floats; false when it holds a NaN.
  bool (*quantize)(const LowBitWeight&, const float* x, const StaticGrid& grid, size_t row, const StaticRows& q);
  // y[row][32] of a panel, rows `stride` numbers apart, for the first `rows` rows, at most kMaxTokens.
  // correction is [chain][32] and bias [32] of the panel; factor is x_scale times the weight's own.
  void (*multiply)(const LowBitWeight&, size_t panel, const StaticRows& q, size_t rows, const int32_t* correction,
                   const float* bias, float factor, float* y, size_t stride);
  // n numbers to codes, as bytes.
  void (*requantize)(const float* x, const StaticGrid& grid, size_t n, uint8_t* codes);
};

}  // namespace qonnx::cpu
