// Packing of code-book weights: indices by panel, books as bytes or floats.
#include "../operands.h"
#include "codebook_pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace qonnx::cpu {

namespace {
constexpr size_t kLevels = 256;  // that books of byte indices are filled up to
}  // namespace

PackedCodebook::PackedCodebook(const LowBitShape& shape, const CodebookInputs& inputs, bool bytes,
                               const std::string& who) {
  const auto& books = inputs.codebooks.shape;
  if (books.size() != 3 || books[1] != shape.layout.levels || books[0] < 1 || books[2] < 1 || books[2] > 16 ||
      shape.columns % static_cast<size_t>(books[2]))
    throw Error(who + "input codebooks has shape " + shape_text(books) +
                ", but [books, levels=" + std::to_string(shape.layout.levels) +
                ", vector length from 1 to 16 that divides K=" + std::to_string(shape.columns) + "] is wanted");
  codebook_.books = static_cast<size_t>(books[0]);
  codebook_.levels = shape.layout.levels;
  codebook_.length = static_cast<size_t>(books[2]);
  codebook_.wide = codebook_.levels > 256;
  const size_t indices = shape.columns / codebook_.length * codebook_.books;
  const size_t row_bytes = shape.layout.row_bytes(indices);
  expect_shape(has_shape(inputs.codes, {shape.rows, row_bytes}), who, "codes",
               inputs.codes, "[" + std::to_string(shape.rows) + ", " + std::to_string(row_bytes) + "]");
  expect_shape(has_shape(inputs.scale, {shape.rows, shape.blocks()}), who, "scale", inputs.scale,
               "[" + std::to_string(shape.rows) + ", " + std::to_string(shape.blocks()) + "]");
  weight_ = geometry_of(shape);
  weight_.bits = 8;
  weight_.zero_kind = Zero::integer;
  weight_.zero = bytes ? 128 : 0;
  weight_.factor = 1;
  const std::vector<float> scale = numbers_of(inputs.scale, who, "scale");
  weight_.halves = exact_in_float16(scale);
  scales_ = by_panel(weight_, scale, shape.blocks());
  weight_.scales = scales_.as<void>();
  set_books(inputs.codebooks, bytes, who);
  if (codebook_.wide) pack_indices<uint16_t>(shape, inputs.codes.as<uint8_t>());
  else pack_indices<uint8_t>(shape, inputs.codes.as<uint8_t>());
  weight_.codebook = &codebook_;
  bytes_.count({&indices_, &books_, &ordered_, &scales_});
}

void PackedCodebook::set_books(const Tensor& codebooks, bool bytes, const std::string& who) {
  const std::vector<float> values = numbers_of(codebooks, who, "codebooks");
  const size_t book = codebook_.levels * codebook_.length, slack = 16;  // vectors are loaded whole
  if (!bytes) {
    books_ = Buffer(values.size() * sizeof(float));
    std::copy(values.begin(), values.end(), books_.as<float>());
    codebook_.values = books_.as<float>();
    if (!codebook_.wide) order_values();
    return;
  }
  float sum = 0;
  for (size_t b = 0; b < codebook_.books; ++b) {
    float largest = 0;
    for (size_t i = 0; i < book; ++i) largest = std::max(largest, std::fabs(values[b * book + i]));
    sum += largest;
  }
  if (!std::isfinite(sum) || !std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); }))
    throw Error(who + "the code books hold a number that is not finite");
  const float step = weight_.factor = std::max(sum, 1e-30f) / 127.0f;
  books_ = Buffer(values.size() + slack);
  for (size_t i = 0; i < values.size(); ++i)  // 128 makes the sums unsigned; it goes into the first book
    books_.as<int8_t>()[i] =
        static_cast<int8_t>(static_cast<int>(std::nearbyint(values[i] / step)) + (i < book ? 128 : 0));
  codebook_.bytes = books_.as<int8_t>();
  if (!codebook_.wide) order_bytes();
}

// by_element, fours and offsets of a book's bytes.
void PackedCodebook::order_bytes() {
  const size_t n = codebook_.books, length = codebook_.length, quads = codebook_.quads(), all = kLevels;
  const size_t by_element = n * length * all, fours = n * quads * 4 * all;
  ordered_ = Buffer(n * all * sizeof(int32_t) + by_element + fours);
  std::memset(ordered_.as<char>(), 0, ordered_.bytes());
  auto* offsets = ordered_.as<int32_t>();
  auto* elements = ordered_.as<uint8_t>(n * all * sizeof(int32_t));
  auto* four = ordered_.as<int8_t>(n * all * sizeof(int32_t) + by_element);
  for (size_t b = 0; b < n; ++b)
    for (size_t level = 0; level < codebook_.levels; ++level)
      for (size_t i = 0; i < length; ++i) {
        const int8_t byte = codebook_.bytes[(b * codebook_.levels + level) * length + i];
        const auto value = static_cast<int8_t>(static_cast<uint8_t>(byte) - (b ? 0 : 128));
        elements[(b * length + i) * all + level] = static_cast<uint8_t>(byte);
        four[((b * all / 16 + level / 16) * quads + i / 4) * 64 + level % 16 * 4 + i % 4] = value;
        offsets[b * all + level] -= 128 * value;
      }
  codebook_.offsets = offsets;
  codebook_.by_element = elements;
  codebook_.fours = four;
}

void PackedCodebook::order_values() {
  const size_t length = codebook_.length;
  ordered_ = Buffer(codebook_.books * length * kLevels * sizeof(float));
  std::memset(ordered_.as<char>(), 0, ordered_.bytes());
  for (size_t b = 0; b < codebook_.books; ++b)
    for (size_t level = 0; level < codebook_.levels; ++level)
      for (size_t i = 0; i < length; ++i)
        ordered_.as<float>()[((b * kLevels + level) / 16 * length + i) * 16 + level % 16] =
            codebook_.values[(b * codebook_.levels + level) * length + i];
  codebook_.by_sixteen = ordered_.as<float>();
}

template <class Index>
void PackedCodebook::pack_indices(const LowBitShape& shape, const uint8_t* codes) {
  const size_t vectors = shape.columns / codebook_.length, books = codebook_.books,
               row_bytes = shape.layout.row_bytes(vectors * books);
  indices_ = Buffer((weight_.panels + 1) / 2 * vectors * kPair * books * sizeof(Index));
  std::memset(indices_.as<char>(), 0, indices_.bytes());
  std::vector<Index> row_codes(vectors * books);
  for (size_t row = 0; row < shape.rows; ++row) {
    decode_codes(shape.layout, codes + row * row_bytes, row_codes.size(), row_codes.data());
    Index* to = indices_.as<Index>() + row / kPair * vectors * books * kPair + Codebook::place(row % kPair);
    for (size_t i = 0; i < row_codes.size(); ++i) to[i * kPair] = row_codes[i];
  }
  codebook_.index = indices_.as<void>();
}

}  // namespace qonnx::cpu
