// Packs a low-bit weight from its portable layout into the layout of the kernels (lowbit.h).
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "../formats/codes.h"
#include "../ort_op.h"
#include "lowbit.h"
#include "memory.h"

namespace qonnx::cpu {

// What a node says about its weight.
struct LowBitShape {
  size_t rows, columns, block;  // N, K, block_size
  CodeLayout layout;
  bool triples = false;  // the kernels take ternary codes three to five bits
  bool pairs = false;    // the kernels multiply with 16-bit codes
  size_t blocks() const { return (columns + block - 1) / block; }
};

// The weight's inputs, as they stand in the file.
struct LowBitInputs {
  Tensor codes;       // uint8 [N, row bytes]
  Tensor scale;       // float32, float16 or bfloat16 [N, blocks]
  Tensor zero_point;  // uint8 or a float type, [N, blocks] or a single number
  Tensor table;       // float32 [levels]
};

// What packing of every kind of weight shares.
bool exact_in_float16(const std::vector<float>& values);
LowBitWeight geometry_of(const LowBitShape& shape);
// Numbers [rows, blocks] as [panel][group][32], float16 when weight.halves.
Buffer by_panel(const LowBitWeight& weight, const std::vector<float>& values, size_t blocks);

// Counts what packed weights take, for as long as they live, in the sum that qonnx_packed_bytes gives.
class PackedBytes {
 public:
  PackedBytes() = default;
  PackedBytes(const PackedBytes&) = delete;
  PackedBytes& operator=(const PackedBytes&) = delete;
  ~PackedBytes();
  void count(std::initializer_list<const Buffer*> buffers);

 private:
  size_t bytes_ = 0;
};

class PackedLowBit {
 public:
  // `bytes`: the table, unless it counts 0, 1, 2, …, is rounded to 8 bits for integer sums.
  PackedLowBit(const LowBitShape& shape, const LowBitInputs& inputs, bool bytes, const std::string& who);
  const LowBitWeight& weight() const { return weight_; }

 private:
  void pack_codes(const LowBitShape& shape, const uint8_t* codes);
  void set_values(const LowBitShape& shape, const float* table, bool bytes, const std::string& who);
  void set_parameters(const LowBitShape& shape, const LowBitInputs& inputs, const std::string& who);

  LowBitWeight weight_{};
  float step_ = 1;    // of a table rounded to bytes
  float offset_ = 0;  // added to those bytes
  Buffer codes_, scales_, zeros_;
  PackedBytes bytes_;
};

}  // namespace qonnx::cpu
