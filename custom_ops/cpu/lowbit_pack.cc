// Packing: codes into bit lines, scales and zeros into panels, and the choice of how zeros enter the sums.
#include "lowbit_pack.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

#include "../operands.h"
#include "operators.h"

namespace qonnx::cpu {

namespace {

constexpr float kLargestInteger = 1024;       // zero · Σ q of a group stays far inside int32
constexpr float kLargestIntegerOfPairs = 255;  // so does Σ (value − zero) · q of 16-bit codes

std::atomic<size_t> packed_bytes{0};  // of all weights that live

size_t divided_up(size_t a, size_t b) { return (a + b - 1) / b; }

// One row's 32 codes of a unit into the bit lines of its tile.
void pack_unit(const uint8_t* code, int bits, uint8_t* lines) {
  constexpr size_t kLine = 128;
  const int four = bits < 8 ? bits & 4 : 0, two = bits < 8 ? bits & 2 : 0;
  for (int j = 0; j < 8; ++j)
    for (int i = 0; i < 4; ++i) {
      const unsigned c = code[4 * j + i];
      auto put = [&](int line, unsigned value) {
        lines[static_cast<size_t>(line) * kLine + i] |= static_cast<uint8_t>(value);
      };
      if (bits == 8) {
        put(j, c);
        continue;
      }
      if (four) put(j / 2, (c & 15) << (4 * (j % 2)));
      if (two) put(four + j / 4, (c >> four & 3) << (2 * (j % 4)));
      if (bits & 1) put(four + two, (c >> (four + two) & 1) << j);
    }
}

// One row's ternary codes of a group, three to five bits (lowbit.h).
void pack_triples(const uint8_t* code, size_t units, uint8_t* lines) {
  constexpr size_t kLine = 128;
  for (size_t u = 0; u < units; u += 3) {
    const size_t count = std::min<size_t>(3, units - u), steps = 8 * count, fives = (steps + 2) / 3;
    const size_t top_line = count == 3 ? 4 : count == 2 ? 3 : 1;
    for (size_t five = 0; five < fives; ++five)
      for (size_t i = 0; i < 4; ++i) {
        unsigned value = 0;
        for (size_t digit = 3; digit-- > 0;)
          if (3 * five + digit < steps) value = 3 * value + code[4 * (3 * five + digit) + i];
        const bool last = count == 1 && five == 2;
        lines[(last ? 1 : five / 2) * kLine + i] |= static_cast<uint8_t>((value & 15) << (last || five % 2 ? 4 : 0));
        lines[top_line * kLine + i] |= static_cast<uint8_t>(value >> 4 << five);
      }
    code += count * kUnit;
    lines += (count == 3 ? 5 : 2 * count) * kLine;
  }
}

}  // namespace

PackedBytes::~PackedBytes() { packed_bytes -= bytes_; }

void PackedBytes::count(std::initializer_list<const Buffer*> buffers) {
  for (const Buffer* buffer : buffers) bytes_ += buffer->bytes();
  packed_bytes += bytes_;
}

bool exact_in_float16(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return decode_float16(encode_float16(v)) == v; });
}

LowBitWeight geometry_of(const LowBitShape& shape) {
  LowBitWeight weight{};
  weight.rows = shape.rows;
  weight.columns = shape.columns;
  weight.block = shape.block;
  weight.parts = divided_up(shape.block, shape.pairs ? kLargestGroupOfPairs : kLargestGroup);
  // Groups other than the last of a block are whole units, so that only blocks are padded.
  weight.group = weight.parts == 1 ? shape.block : divided_up(divided_up(shape.block, weight.parts), kUnit) * kUnit;
  weight.units = divided_up(weight.group, kUnit);
  weight.groups = shape.blocks() * weight.parts;
  weight.panels = divided_up(shape.rows, kPanel);
  return weight;
}

Buffer by_panel(const LowBitWeight& weight, const std::vector<float>& values, size_t blocks) {
  const size_t count = weight.panels * weight.groups * kPanel, size = weight.halves ? 2 : 4;
  Buffer buffer(count * size);
  std::memset(buffer.as<char>(), 0, count * size);
  for (size_t row = 0; row < weight.rows; ++row)
    for (size_t g = 0; g < weight.groups; ++g) {
      const float value = values[row * blocks + g / weight.parts];
      const size_t at = (row / kPanel * weight.groups + g) * kPanel + row % kPanel;
      if (weight.halves) buffer.as<uint16_t>()[at] = encode_float16(value);
      else buffer.as<float>()[at] = value;
    }
  return buffer;
}

PackedLowBit::PackedLowBit(const LowBitShape& shape, const LowBitInputs& inputs, bool bytes, const std::string& who) {
  const size_t n = shape.rows, blocks = shape.blocks();
  const std::string grid = "[" + std::to_string(n) + ", " + std::to_string(blocks) + "]";
  const size_t row_bytes = shape.layout.row_bytes(shape.columns);
  expect_shape(has_shape(inputs.codes, {n, row_bytes}), who, "codes", inputs.codes,
               "[" + std::to_string(n) + ", " + std::to_string(row_bytes) + "]");
  expect_shape(has_shape(inputs.scale, {n, blocks}), who, "scale", inputs.scale, grid);
  expect_shape(has_shape(inputs.zero_point, {n, blocks}) || is_single(inputs.zero_point) ||
                   has_shape(inputs.zero_point, {1, 1}),
               who, "zero_point", inputs.zero_point, grid + " or one number");
  expect_shape(has_shape(inputs.table, {shape.layout.levels}) && inputs.table.type == Type::float32, who, "table",
               inputs.table, "float32 [" + std::to_string(shape.layout.levels) + "]");
  weight_ = geometry_of(shape);
  set_values(shape, inputs.table.as<float>(), bytes, who);
  set_parameters(shape, inputs, who);
  pack_codes(shape, inputs.codes.as<uint8_t>());
  bytes_.count({&codes_, &scales_, &zeros_});
}

void PackedLowBit::set_values(const LowBitShape& shape, const float* table, bool bytes, const std::string& who) {
  const uint32_t levels = shape.layout.levels;
  bool counts = true, finite = true;
  float largest = 0;
  for (uint32_t i = 0; i < levels; ++i) {
    counts = counts && table[i] == static_cast<float>(i);
    finite = finite && std::isfinite(table[i]);
    largest = std::max(largest, std::fabs(table[i]));
    if (i < 16) weight_.values[i] = table[i];
  }
  weight_.factor = 1;
  weight_.table = !counts;
  weight_.bits = counts ? std::bit_width(levels - 1) : 4;
  weight_.triples = shape.triples && counts && levels == 3 && weight_.units >= 3;
  if (counts) return;
  if (levels > 16)
    throw Error(who + "a table of " + std::to_string(levels) +
                " entries that are not 0, 1, 2, … has no kernel; use at most 16 entries, or run without the library");
  if (!finite) throw Error(who + "the table holds a number that is not finite");
  if (!bytes) return;
  offset_ = 128;
  step_ = weight_.factor = largest > 0 ? largest / 127.0f : 1.0f;
  for (uint32_t i = 0; i < levels; ++i)
    weight_.bytes[i] = static_cast<uint8_t>(static_cast<int>(std::nearbyint(table[i] / step_)) + 128);
}

void PackedLowBit::set_parameters(const LowBitShape& shape, const LowBitInputs& inputs, const std::string& who) {
  std::vector<float> scale = numbers_of(inputs.scale, who, "scale"),
                     zero = numbers_of(inputs.zero_point, who, "zero_point");
  for (float& z : zero) z = offset_ + (step_ == 1 ? z : z / step_);
  // A single NaN is no equal of itself, and yet one number for all.
  const bool uniform =
      zero.size() == 1 || std::all_of(zero.begin(), zero.end(), [&](float z) { return z == zero[0]; });
  const float least = shape.pairs ? 0 : -kLargestInteger, most = shape.pairs ? kLargestIntegerOfPairs : kLargestInteger;
  const bool whole = uniform && !zero.empty() && zero[0] == std::trunc(zero[0]) && zero[0] >= least && zero[0] <= most;
  weight_.zero_kind = !uniform ? Zero::rows : whole ? Zero::integer : Zero::number;
  weight_.zero = uniform && !zero.empty() ? zero[0] : 0;
  weight_.halves = exact_in_float16(scale) && (uniform || exact_in_float16(zero));

  scales_ = by_panel(weight_, scale, shape.blocks());
  if (!uniform) zeros_ = by_panel(weight_, zero, shape.blocks());
  weight_.scales = scales_.as<void>();
  weight_.zeros = zeros_.as<void>();
}

void PackedLowBit::pack_codes(const LowBitShape& shape, const uint8_t* codes) {
  const size_t row_bytes = shape.layout.row_bytes(shape.columns), bits = static_cast<size_t>(weight_.bits);
  const size_t width = weight_.width(), unit_bytes = bits * 128,
               kAheadOfEnd = 16384;  // kernels prefetch, never read, past it
  codes_ = Buffer(weight_.panels * weight_.panel_bytes() + kAheadOfEnd);
  std::memset(codes_.as<char>(), 0, codes_.bytes());
  std::vector<uint8_t> row_codes(shape.columns), padded(width);
  for (size_t row = 0; row < shape.rows; ++row) {
    decode_codes(shape.layout, codes + row * row_bytes, shape.columns, row_codes.data());
    std::fill(padded.begin(), padded.end(), 0);
    const size_t padded_block = weight_.parts * weight_.units * kUnit;
    for (size_t k = 0; k < shape.columns; k += shape.block)
      std::copy_n(&row_codes[k], std::min(shape.block, shape.columns - k), &padded[k / shape.block * padded_block]);
    uint8_t* out =
        codes_.as<uint8_t>(row / kPanel * weight_.panel_bytes() + row % kPanel / kTile * 64 + row % kTile * 4);
    if (weight_.triples)
      for (size_t g = 0; g < weight_.groups; ++g, out += weight_.group_lines() * 128)
        pack_triples(&padded[g * weight_.units * kUnit], weight_.units, out);
    else
      for (size_t k = 0; k < width; k += kUnit, out += unit_bytes) pack_unit(&padded[k], weight_.bits, out);
  }
  weight_.codes = codes_.as<uint8_t>();
}

}  // namespace qonnx::cpu

extern "C" QONNX_EXPORT uint64_t qonnx_packed_bytes() { return qonnx::cpu::packed_bytes; }
