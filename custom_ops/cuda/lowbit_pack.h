// Low-bit weights from their portable layout into units of the GPU kernels.
//
// A unit is 16 rows by 64 columns; its planes of 4, 2 and 1 bits (8 bits: two of four words) each hold a vector of 4, 2
// or 1 words for thread 0, thread 1, … 31. Which code lies where in a word is said in lowbit_decode.cuh.
#pragma once

#include <vector>

#include "../formats/codes.h"
#include "product.h"

namespace qonnx::cuda {

// The arrays of a node, numbers as float32.
struct LowBitSource {
  int rows, columns, block;
  CodeLayout layout;
  const uint8_t* codes;  // [rows, row bytes]
  const float* scale;    // [rows, blocks]
  const float* zero;     // the same, or one
  size_t zeros;          // numbers in `zero`
  const float* table;    // [levels]
};

// The constants of lowbit_decode.cuh.
constexpr int kMostPlanes = 3;
struct LowBitValues {
  uint32_t minus_zero;             // twice −(1024 or 128 + zero), and for 4-bit float16:
  uint32_t minus_zero_high;        // twice −(64 + zero)
  int planes;                      // of the table: numbers of the operand's type that add up to it
  uint32_t table[kMostPlanes][8];  // low bytes of 16 entries, then high bytes (int8: low bytes alone)
};

struct LowBitPack : Pack {
  LowBitValues values;
  int bits;
  bool table;
};

// Throws std::invalid_argument with a sentence when a table has more than 16 entries or is not finite.
LowBitPack pack_lowbit(const LowBitSource& source, Math math);

// Σ_k scale · (value − zero) of each row, in units of the weight's factor: what a constant in x adds to the outputs.
// For weights packed for int8.
std::vector<float> offsets_of(const LowBitPack& pack, const LowBitSource& source);

// y = x · wᵀ + bias: x into the workspace, tiles, sums.
Failure run_lowbit(const LowBitPack& pack, const Weight& weight, const Plan& plan, const Product& product,
                   Stream stream);

}  // namespace qonnx::cuda
