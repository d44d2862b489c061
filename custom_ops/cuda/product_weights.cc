// Checks, packs and loads the constant operands of matrix products (product_weights.h).
#include "product_weights.h"

#include <algorithm>
#include <stdexcept>

namespace qonnx::cuda {

namespace {

constexpr size_t kWorkspace = size_t{64} << 20;  // rows of x are taken in parts that need no more

std::string pair_text(size_t a, size_t b) { return "[" + std::to_string(a) + ", " + std::to_string(b) + "]"; }

// Runs a packing function whose std::invalid_argument is the node's error.
template <class Pack>
auto packed(const std::string& who, Pack&& pack) {
  try {
    return pack();
  } catch (const std::invalid_argument& error) {
    throw Error(who + error.what());
  }
}

}  // namespace

ProductShape product_shape(const NodeInfo& info, uint32_t most_levels, const std::string& who) {
  const auto number = [&](const char* attribute) {
    return static_cast<int>(positive_attribute(info, attribute, who, (int64_t{1} << 31) - 1));
  };
  ProductShape shape{number("K"), number("N"), number("block_size"), code_layout(info, most_levels, who)};
  shape.block = std::min(shape.block, shape.columns);
  return shape;
}

LowBitPack LowBitForm::pack(const ProductShape& shape, const std::vector<Tensor>& arrays, Math math, bool offsets,
                            std::vector<float>& offsets_of_rows, const std::string& who) {
  const Tensor &codes = arrays[0], &scale = arrays[1], &zero_point = arrays[2], &table = arrays[3];
  const auto n = static_cast<size_t>(shape.rows), levels = static_cast<size_t>(shape.layout.levels);
  const size_t blocks = (shape.columns + shape.block - 1) / shape.block;
  const size_t row_bytes = shape.layout.row_bytes(shape.columns);
  const std::string grid = pair_text(n, blocks);
  expect_shape(codes.count == n * row_bytes && codes.shape.size() == 2, who, "codes", codes, pair_text(n, row_bytes));
  expect_shape(scale.count == n * blocks, who, "scale", scale, grid);
  expect_shape(zero_point.count == n * blocks || zero_point.count == 1, who, "zero_point", zero_point,
               grid + " or one number");
  expect_shape(table.count == levels && table.type == Type::float32, who, "table", table,
               "float32 [" + std::to_string(levels) + "]");
  const std::vector<float> scales = numbers_of(scale, who, "scale"), zeros = numbers_of(zero_point, who, "zero_point");
  const LowBitSource source{shape.rows, shape.columns, shape.block, shape.layout,
                            codes.as<uint8_t>(), scales.data(), zeros.data(), zeros.size(), table.as<float>()};
  return packed(who, [&] {
    LowBitPack pack = pack_lowbit(source, math);
    if (offsets) offsets_of_rows = offsets_of(pack, source);
    return pack;
  });
}

CodebookPack CodebookForm::pack(const ProductShape& shape, const std::vector<Tensor>& arrays, Math math, bool,
                                std::vector<float>&, const std::string& who) {
  const Tensor &codes = arrays[0], &books = arrays[1], &scale = arrays[2];
  const auto& sizes = books.shape;
  if (sizes.size() != 3 || sizes[0] < 1 || sizes[1] != shape.layout.levels || sizes[2] < 1 || sizes[2] > 16 ||
      shape.columns % sizes[2])
    throw Error(who + "input codebooks has shape " + shape_text(sizes) +
                ", but [books, levels=" + std::to_string(shape.layout.levels) +
                ", vector length from 1 to 16 that divides K=" + std::to_string(shape.columns) + "] is wanted");
  const auto n = static_cast<size_t>(shape.rows);
  const size_t blocks = (shape.columns + shape.block - 1) / shape.block;
  const size_t row_bytes = shape.layout.row_bytes(shape.columns / sizes[2] * sizes[0]);
  expect_shape(codes.count == n * row_bytes && codes.shape.size() == 2, who, "codes", codes, pair_text(n, row_bytes));
  expect_shape(scale.count == n * blocks, who, "scale", scale, pair_text(n, blocks));
  const std::vector<float> values = numbers_of(books, who, "codebooks"), scales = numbers_of(scale, who, "scale");
  const CodebookSource source{shape.rows, shape.columns, shape.block, shape.layout, static_cast<int>(sizes[0]),
                              static_cast<int>(sizes[2]), codes.as<uint8_t>(), values.data(), scales.data()};
  return packed(who, [&] { return pack_codebook(source, math); });
}

template <class Form>
GpuWeight<Form>::GpuWeight(const ProductShape& shape, const std::vector<Tensor>& arrays, Math math, bool offsets,
                           const std::string& who) {
  std::vector<float> offsets_of_rows;
  pack_ = Form::pack(shape, arrays, math, offsets, offsets_of_rows, who);
  codes_ = DeviceArray(pack_.codes.data(), pack_.codes.size());
  parameters_ = DeviceArray(pack_.parameters.data(), pack_.parameters.size());
  offsets_ = DeviceArray(offsets_of_rows.data(), offsets_of_rows.size() * sizeof(float));
  if constexpr (requires { pack_.tables; }) {
    tables_ = DeviceArray(pack_.tables.data(), pack_.tables.size());
    pack_.tables = {};
  }
  pack_.codes = pack_.parameters = {};
  pack_.weight.codes = codes_.template as<char>();
  pack_.weight.parameters = parameters_.template as<char>();
}

template <>
Failure GpuWeight<LowBitForm>::run(const Plan& plan, const Product& product, const Device&, Stream stream) const {
  return run_lowbit(pack_, pack_.weight, plan, product, stream);
}

template <>
Failure GpuWeight<CodebookForm>::run(const Plan& plan, const Product& product, const Device& device,
                                     Stream stream) const {
  return run_codebook(pack_, tables_.as<char>(), pack_.weight, plan, product, device, stream);
}

template class GpuWeight<LowBitForm>;
template class GpuWeight<CodebookForm>;

DeviceArray gpu_bias(const Tensor& tensor, const ProductShape& shape, const std::string& who) {
  const auto n = static_cast<size_t>(shape.rows);
  if (tensor.count != n && tensor.count != 1)
    throw Error(who + "bias has shape " + shape_text(tensor.shape) + ", but one number or N=" + std::to_string(n) +
                " of them are wanted");
  std::vector<float> bias = numbers_of(tensor, who, "bias");
  bias.resize(n, bias[0]);
  return {bias.data(), n * sizeof(float)};
}

GpuLowRank::GpuLowRank(const Tensor& a, const Tensor& b, const ProductShape& shape, const std::string& who) {
  if (!a && !b) return;
  if (!a || !b)
    throw Error(who + "input " + (a ? "low_rank_b" : "low_rank_a") +
                " is missing; a low-rank branch needs both factors, or neither");
  const std::string sizes = " numbers for K=" + std::to_string(shape.columns) + " and N=" + std::to_string(shape.rows);
  expect_shape(a.shape.size() == 2 && a.shape[0] == shape.columns, who, "low_rank_a", a, "[K, rank]" + sizes);
  expect_shape(b.shape.size() == 2 && b.shape[0] == a.shape[1] && b.shape[1] == shape.rows, who, "low_rank_b", b,
               "[" + std::to_string(a.shape[1]) + ", N]" + sizes);
  const std::vector<float> down = numbers_of(a, who, "low_rank_a"), up = numbers_of(b, who, "low_rank_b");
  a_ = DeviceArray(down.data(), down.size() * sizeof(float));
  b_ = DeviceArray(up.data(), up.size() * sizeof(float));
  rank_ = static_cast<int>(a.shape[1]);
}

int64_t rows_at_once(const Weight& weight, Element element, int64_t rows, const Device& device, int rank) {
  while (rows > 64 && plan_of(weight, element, rows, device, rank).bytes > kWorkspace) rows = (rows + 1) / 2;
  return rows;
}

}  // namespace qonnx::cuda
