// Rotations of rows and rows as int8 on the GPU: what the launcher of rows.cu takes.
#pragma once

#include "types.h"

namespace qonnx::cuda {

struct Rows {
  const void* x;  // [rows, columns]
  Element element;
  int64_t rows;
  int columns;

  bool rotates;  // each run of base_order · power numbers by factor · (base ⊗ Sylvester's matrix of order power)
  const float* base;  // [base_order, base_order], or null for the number 1
  int base_order, power;
  float factor;

  bool quantizes;  // then y is int8 and scale float32 [rows, blocks]
  int block, blocks;
  void* y;  // [rows, columns]
  float* scale;
};

// The shared memory that a row takes, bytes; at most 227 KB (96 KB on most cards) can be had.
size_t rows_shared_bytes(const Rows& rows);
Failure run_rows(const Rows& rows, Stream stream);

}  // namespace qonnx::cuda
