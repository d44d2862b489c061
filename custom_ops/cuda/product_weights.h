// Weights, biases and low-rank factors of matrix products: from a node's arrays to the GPU's memory.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "../operands.h"
#include "codebook_pack.h"
#include "lowbit_pack.h"
#include "runtime.h"

namespace qonnx::cuda {

// The attributes K, N, block_size and the layout of codes.
struct ProductShape {
  int columns, rows, block;
  CodeLayout layout;
};
ProductShape product_shape(const NodeInfo& info, uint32_t most_levels, const std::string& who);

// Weights of 1 to 8 bits: codes, scale, zero_point, table.
struct LowBitForm {
  static constexpr size_t kArrays = 4;
  static constexpr uint32_t kMostLevels = 256;
  using Packed = LowBitPack;
  static Packed pack(const ProductShape& shape, const std::vector<Tensor>& arrays, Math math, bool offsets,
                     std::vector<float>& offsets_of_rows, const std::string& who);
};

// Weights in code books: codes, codebooks, scale.
struct CodebookForm {
  static constexpr size_t kArrays = 3;
  static constexpr uint32_t kMostLevels = 65536;
  using Packed = CodebookPack;
  static Packed pack(const ProductShape& shape, const std::vector<Tensor>& arrays, Math math, bool offsets,
                     std::vector<float>& offsets_of_rows, const std::string& who);
};

// A weight on the GPU; constant ones are packed once, when the kernel is created.
template <class Form>
class GpuWeight {
 public:
  // `offsets`: for static quantization of x.
  GpuWeight(const ProductShape& shape, const std::vector<Tensor>& arrays, Math math, bool offsets,
            const std::string& who);
  const Weight& weight() const { return pack_.weight; }
  const float* offsets() const { return offsets_.as<float>(); }
  Failure run(const Plan& plan, const Product& product, const Device& device, Stream stream) const;

 private:
  typename Form::Packed pack_;
  DeviceArray codes_, parameters_, tables_, offsets_;
};

// One number or one for each output, as float32 on the GPU.
DeviceArray gpu_bias(const Tensor& tensor, const ProductShape& shape, const std::string& who);

// Both factors of a low-rank branch on the GPU; none when both tensors are missing.
class GpuLowRank {
 public:
  GpuLowRank() = default;
  GpuLowRank(const Tensor& a, const Tensor& b, const ProductShape& shape, const std::string& who);
  LowRank branch() const { return {a_.as<float>(), b_.as<float>(), rank_}; }

 private:
  DeviceArray a_, b_;
  int rank_ = 0;
};

// Rows of x whose workspace fits: halved until it does; a last, shorter part never needs more splits than fit.
int64_t rows_at_once(const Weight& weight, Element element, int64_t rows, const Device& device, int rank);

}  // namespace qonnx::cuda
