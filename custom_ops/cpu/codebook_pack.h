// Packs a weight in code books from its portable layout into that of the kernels (lowbit.h, codebook_decode.h).
#pragma once

#include "lowbit_pack.h"

namespace qonnx::cpu {

// The weight's inputs, as they stand in the file.
struct CodebookInputs {
  Tensor codes;      // uint8 [N, row bytes]: indices [K / length][book]
  Tensor codebooks;  // float32, float16 or bfloat16 [books, levels, length]
  Tensor scale;      // the same types, [N, blocks]
};

class PackedCodebook {
 public:
  // `bytes`: the books are rounded to 8 bits for integer sums.
  PackedCodebook(const LowBitShape& shape, const CodebookInputs& inputs, bool bytes, const std::string& who);
  PackedCodebook(const PackedCodebook&) = delete;  // weight() points into it
  PackedCodebook& operator=(const PackedCodebook&) = delete;
  const LowBitWeight& weight() const { return weight_; }

 private:
  template <class Index>
  void pack_indices(const LowBitShape& shape, const uint8_t* codes);
  void set_books(const Tensor& codebooks, bool bytes, const std::string& who);
  void order_bytes();
  void order_values();

  LowBitWeight weight_{};
  Codebook codebook_{};
  Buffer indices_, books_, ordered_, scales_;
  PackedBytes bytes_;
};

}  // namespace qonnx::cpu
