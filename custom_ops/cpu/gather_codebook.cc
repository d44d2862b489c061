// GatherCodebook: rows of a weight that is stored in code books, decoded: an embedding, or (all rows) the weight itself.
//
// Inputs: rows int64 [...], from −N to N − 1; codes uint8 [N, row bytes], indices [K / v][book] in the layout of
// formats/codes.h; codebooks [books, levels, v], v from 1 to 16; scale [N, ceil(K / block_size)]. Attributes as of
// MatMulCodebook. y[..., K] has the type of codebooks: scale · (Σ_b codebooks[b, index]), summed in the order of the
// books in float32, so that every runtime has the same bits for one book and for two.
//
// Nothing is unpacked ahead: the stored codes are all that is read, so memory stays what the file takes.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "../operands.h"
#include "lowbit_pack.h"
#include "memory.h"
#include "numbers.h"
#include "operators.h"
#include "tier.h"

namespace qonnx::cpu {

QONNX_BY_TIER(NumberKernels, number_kernels)

namespace {

constexpr size_t kTaskNumbers = 1 << 14;  // decoded numbers worth a task of their own
constexpr size_t kTasks = 32;

enum Input { kRows, kCodes, kCodebooks, kScale };

template <Type type>
class GatherCodebook {
 public:
  static constexpr const char* name = "GatherCodebook";
  static constexpr Port inputs[] = {{Type::int64}, {Type::uint8}, {type}, {Type::any}};
  static constexpr Port outputs[] = {{type}};

  static void infer(ShapeInference& shapes) {
    auto y = shapes.input(kRows);
    if (!y.known) return;
    y.type = shapes.input(kCodebooks).type;  // not `type`: ONNX Runtime asks one of the variants for all
    y.dims.push_back(-1);  // K is an attribute, which shape inference does not see
    y.symbols.emplace_back();
    shapes.output(0, y);
  }

  explicit GatherCodebook(const NodeInfo& info)
      : who_(std::string(name) + " '" + info.node_name() + "': "),
        numbers_(*number_kernels_table[static_cast<int>(active_tier())]),
        columns_(positive_attribute(info, "K", who_)),
        rows_(positive_attribute(info, "N", who_)),
        block_(positive_attribute(info, "block_size", who_)),
        layout_(code_layout(info, 65536, who_)) {
    const bool power = !(layout_.levels & (layout_.levels - 1));
    const uint32_t bits = power ? static_cast<uint32_t>(__builtin_ctz(layout_.levels)) : 0;
    if (power && bits * layout_.codes_per_word == 8 * layout_.bytes_per_word) stream_bits_ = bits;
    if (const Tensor books = info.constant(kCodebooks)) constant_books_ = numbers_of(books, who_, "codebooks");
    if (const Tensor scale = info.constant(kScale)) constant_scale_ = numbers_of(scale, who_, "scale");
  }

  void run(Context& context) {
    const Tensor rows = context.input(kRows), codes = context.input(kCodes), books = context.input(kCodebooks),
                 scale = context.input(kScale);
    const auto& shape = books.shape;
    if (shape.size() != 3 || shape[0] < 1 || shape[1] != layout_.levels || shape[2] < 1 || shape[2] > 16 ||
        columns_ % static_cast<size_t>(shape[2]))
      throw Error(who_ + "input codebooks has shape " + shape_text(shape) + ", but [books, levels=" +
                  std::to_string(layout_.levels) + ", vector length from 1 to 16 that divides K=" +
                  std::to_string(columns_) + "] is wanted");
    Job job{};
    job.books = static_cast<size_t>(shape[0]);
    job.length = static_cast<size_t>(shape[2]);
    job.indices = columns_ / job.length * job.books;
    job.row_bytes = layout_.row_bytes(job.indices);
    job.blocks = (columns_ + block_ - 1) / block_;
    expect_shape(has_shape(codes, {rows_, job.row_bytes}), who_, "codes", codes,
                 "[" + std::to_string(rows_) + ", " + std::to_string(job.row_bytes) + "]");
    expect_shape(has_shape(scale, {rows_, job.blocks}), who_, "scale", scale,
                 "[" + std::to_string(rows_) + ", " + std::to_string(job.blocks) + "]");
    const int64_t end = static_cast<int64_t>(rows_);
    for (size_t i = 0; i < rows.count; ++i)
      if (const int64_t row = rows.as<int64_t>()[i]; row < -end || row >= end)
        throw Error(who_ + "row " + std::to_string(row) + " is outside of the " + std::to_string(rows_) + " that there are");
    std::vector<float> own_books, own_scale;
    if (constant_books_.empty()) own_books = numbers_of(books, who_, "codebooks");
    if (constant_scale_.empty()) own_scale = numbers_of(scale, who_, "scale");
    job.values = (constant_books_.empty() ? own_books : constant_books_).data();
    job.scale = (constant_scale_.empty() ? own_scale : constant_scale_).data();
    job.codes = codes.as<uint8_t>();

    std::vector<int64_t> y_shape = rows.shape;
    y_shape.push_back(static_cast<int64_t>(columns_));
    auto* y = static_cast<char*>(context.output(0, y_shape));
    if (!rows.count) return;
    const size_t tasks = std::min({kTasks, rows.count, rows.count * columns_ / kTaskNumbers + 1});
    Scratch::Loan loan(scratch_, tasks * (Scratch::size_of<float>(columns_) + Scratch::size_of<uint16_t>(job.indices)));
    float* wide = loan.next<float>(tasks * columns_);
    uint16_t* index = loan.next<uint16_t>(tasks * job.indices);
    context.parallel(tasks, [&](size_t task) {
      for (size_t i = task * rows.count / tasks; i < (task + 1) * rows.count / tasks; ++i) {
        const int64_t row = rows.as<int64_t>()[i];
        char* to = y + i * columns_ * kSize;
        float* numbers = type == Type::float32 ? reinterpret_cast<float*>(to) : wide + task * columns_;
        decode(job, static_cast<size_t>(row < 0 ? row + end : row), index + task * job.indices, numbers);
        if constexpr (type != Type::float32)
          (type == Type::float16 ? numbers_.to_float16 : numbers_.to_bfloat16)(numbers, reinterpret_cast<uint16_t*>(to),
                                                                               columns_);
      }
    });
  }

 private:
  static constexpr size_t kSize = type == Type::float32 ? 4 : 2;

  struct Job {
    size_t books, length, indices, row_bytes, blocks;
    const float *values, *scale;
    const uint8_t* codes;
  };

  // The indices of a row. A stream of bits is cut by shifts: the general way divides once an index.
  void unpack(const Job& job, const uint8_t* row, uint16_t* index) const {
    if (!stream_bits_) return decode_codes(layout_, row, job.indices, index);
    const uint32_t mask = layout_.levels - 1;
    for (size_t i = 0, bit = 0; i < job.indices; ++i, bit += stream_bits_) {
      uint32_t word = 0;
      std::memcpy(&word, row + bit / 8, std::min<size_t>(4, job.row_bytes - bit / 8));
      index[i] = static_cast<uint16_t>(word >> (bit % 8) & mask);
    }
  }

  void decode(const Job& job, size_t row, uint16_t* index, float* y) const {
    unpack(job, job.codes + row * job.row_bytes, index);
    switch (job.length) {
      case 4: add_vectors(job, std::integral_constant<size_t, 4>(), index, y); break;
      case 8: add_vectors(job, std::integral_constant<size_t, 8>(), index, y); break;
      case 16: add_vectors(job, std::integral_constant<size_t, 16>(), index, y); break;
      default: add_vectors(job, job.length, index, y);
    }
    for (size_t b = 0; b < job.blocks; ++b) {
      const float scale = job.scale[row * job.blocks + b];
      for (size_t k = b * block_; k < std::min((b + 1) * block_, columns_); ++k) y[k] *= scale;
    }
  }

  template <class Length>
  void add_vectors(const Job& job, Length length, const uint16_t* index, float* y) const {
    const size_t book_size = layout_.levels * length;
    for (size_t k = 0; k < columns_; k += length, index += job.books) {
      float sum[16];
      std::memcpy(sum, job.values + index[0] * length, length * sizeof(float));
      for (size_t b = 1; b < job.books; ++b) {
        const float* vector = job.values + b * book_size + index[b] * length;
        for (size_t i = 0; i < length; ++i) sum[i] += vector[i];
      }
      std::memcpy(y + k, sum, length * sizeof(float));
    }
  }

  std::string who_;
  const NumberKernels& numbers_;
  size_t columns_, rows_, block_;
  CodeLayout layout_;
  uint32_t stream_bits_ = 0;  // of an index, where the words are one stream of bits; else 0
  std::vector<float> constant_books_, constant_scale_;
  Scratch scratch_;
};

}  // namespace

const abi::CustomOp* gather_codebook_float32() { return operation<GatherCodebook<Type::float32>>(); }
const abi::CustomOp* gather_codebook_float16() { return operation<GatherCodebook<Type::float16>>(); }
const abi::CustomOp* gather_codebook_bfloat16() { return operation<GatherCodebook<Type::bfloat16>>(); }

}  // namespace qonnx::cpu
