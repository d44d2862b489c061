// Products of a few rows of X with a code-book weight by tables of partial sums.
//
//   y[n] = Σ_j Σ_book table[j, book][index[n, j, book]],   table[j, book][level] = x[j·v … (j+1)·v] · vectors[book, level]
//
// A row of X gets its tables once; each output then costs one look-up a vector and book instead of v multiply-adds and
// a fetch of the vector. Entries are exact: 16-bit sums of int8 products, or float32. An entry of p bytes is stored as
// p planes of 256 bytes, each looked up by byte permutations 64 outputs at a time (AVX-512 VBMI). Tables of 8 bits
// would take two thirds of the time and add an error of 1 %.
//
// Layout of the tables of a row: [j][book][plane][256].
#pragma once

#include "lowbit.h"

namespace qonnx::cpu {

constexpr size_t kInt8Planes = 2, kExactPlanes = 4;

static inline size_t table_bytes(const LowBitWeight& weight, bool exact) {
  const Codebook& books = *weight.codebook;
  return weight.columns / books.length * books.books * 256 * (exact ? kExactPlanes : kInt8Planes);
}

struct CodebookTables {
  // Whether the kernels of this tier take the weight, and tables pay for so many rows of X.
  bool (*suits)(const LowBitWeight&, size_t rows, bool exact);
  // Tables of vectors [first, last) of one padded row of X, where rows are not interleaved. build_int8 returns false
  // when a sum does not fit in 16 bits.
  bool (*build_int8)(const LowBitWeight&, const int8_t* x, size_t first, size_t last, uint8_t* tables);
  void (*build_exact)(const LowBitWeight&, const float* x, size_t first, size_t last, uint8_t* tables);
  // sums [pairs, 64] of pairs [first, first + pairs) of panels; pairs ≤ kMostPairs. x_scale: [group].
  void (*multiply_int8)(const LowBitWeight&, const uint8_t* tables, const float* x_scale, size_t first, size_t pairs,
                        float* sums);
  void (*multiply_exact)(const LowBitWeight&, const uint8_t* tables, size_t first, size_t pairs, float* sums);
};

constexpr size_t kMostPairs = 8;  // that share tables in the L1 cache

}  // namespace qonnx::cpu
