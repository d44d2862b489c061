// Packs low-bit weights for the GPU (lowbit_pack.h).
#include "lowbit_pack.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "../formats/float16.h"
#include "weight_pack.h"

namespace qonnx::cuda {

namespace {

constexpr int kTableBits = 4, kTableEntries = 16;

// Word of a thread and bit in it where the lowest bit of a plane's part of a code lies.
struct Spot {
  int word, bit;
};

// `part`: bits of the plane; r: register; i: number in the register, of `count`.
Spot spot_of(int part, int r, int i, int count) {
  const int lane_bits = 32 / count, codes_per_lane = lane_bits / part;
  return {r / codes_per_lane, i * lane_bits + r % codes_per_lane * part};
}

Spot table_spot(int r, int i, int count) {
  if (count == 2) return {r / 4, 16 * (r % 4 / 2) + 8 * (r % 2) + 4 * i};
  return {r / 2, 16 * (r % 2) + 4 * i};
}

// Row and column in a unit of number i of register r of thread `lane`.
void place_of(Math math, int lane, int r, int i, int& row, int& column) {
  const int g = lane / 4, t = lane % 4, step = r / 4, j = r % 4;
  row = g + 8 * (j % 2);
  column = math == Math::int8 ? 32 * step + 4 * t + 16 * (j / 2) + i : 16 * step + 2 * t + 8 * (j / 2) + i;
}

// Four bits as a signed byte of their own: 16 · (code − 8), which takes the usual zero point off.
bool is_signed(const LowBitPack& pack) { return pack.weight.math == Math::int8 && pack.bits == 4 && !pack.table; }

void pack_unit(const LowBitPack& pack, const uint8_t* unit, uint32_t* words) {
  const bool integer = pack.weight.math == Math::int8;
  const int count = integer ? 4 : 2, registers = integer ? 8 : 16, bits = pack.bits;
  for (int lane = 0; lane < 32; ++lane)
    for (int r = 0; r < registers; ++r)
      for (int i = 0; i < count; ++i) {
        int row, column;
        place_of(pack.weight.math, lane, r, i, row, column);
        const uint32_t code = unit[row * kUnit + column] ^ (is_signed(pack) ? 8 : 0);
        // `before`: words of the planes before this one; `vector`: words that a thread loads at once
        const auto put = [&](int before, int vector, Spot spot, uint32_t part) {
          words[before * 32 + spot.word / vector * vector * 32 + lane * vector + spot.word % vector] |= part
                                                                                                       << spot.bit;
        };
        if (pack.table) {
          put(0, 4, table_spot(r, i, count), code);
          continue;
        }
        if (bits == 8) {
          put(0, 4, spot_of(8, r, i, count), code);
          continue;
        }
        int done = 0;
        for (const int part : {4, 2, 1}) {
          if (!(bits & part)) continue;
          put(done, part, spot_of(part, r, i, count), code >> done & ((1u << part) - 1));
          done += part;
        }
      }
}

float rounded(Math math, float value) {
  return math == Math::float16 ? decode_float16(encode_float16(value)) : decode_bfloat16(encode_bfloat16(value));
}

uint16_t bits_of(Math math, float value) {
  return math == Math::float16 ? encode_float16(value) : encode_bfloat16(value);
}

// The table as planes of 16-bit numbers, each what the ones before leave over; or as bytes, multiples of `step`.
float set_table(const float* table, int levels, Math math, LowBitValues& values) {
  float rest[kTableEntries] = {}, largest = 0;
  for (int i = 0; i < levels; ++i) {
    rest[i] = table[i];
    largest = std::max(largest, std::fabs(table[i]));
  }
  const float step = largest > 0 ? largest / 127.0f : 1.0f;
  const auto put = [&](int plane, int i, uint32_t code) {
    values.table[plane][i / 4] |= (code & 255) << 8 * (i % 4);
    if (math != Math::int8) values.table[plane][4 + i / 4] |= code >> 8 << 8 * (i % 4);
  };
  if (math == Math::int8) {
    values.planes = 1;
    for (int i = 0; i < levels; ++i) put(0, i, static_cast<uint8_t>(static_cast<int>(std::nearbyint(rest[i] / step))));
    return step;
  }
  do {
    for (int i = 0; i < levels; ++i) {
      put(values.planes, i, bits_of(math, rest[i]));
      rest[i] -= rounded(math, rest[i]);
    }
    ++values.planes;
  } while (values.planes < kMostPlanes && std::any_of(rest, rest + levels, [](float r) { return r != 0; }));
  return 1;
}

bool counts_up(const LowBitSource& source) {
  for (uint32_t i = 0; i < source.layout.levels; ++i)
    if (source.table[i] != static_cast<float>(i)) return false;
  return true;
}

void check_table(const LowBitSource& source) {
  if (source.layout.levels > kTableEntries)
    throw std::invalid_argument("a table of " + std::to_string(source.layout.levels) +
                                " entries that are not 0, 1, 2, … has no kernel; use at most 16 entries, or run "
                                "without the library");
  if (!std::all_of(source.table, source.table + source.layout.levels, [](float v) { return std::isfinite(v); }))
    throw std::invalid_argument("the table holds a number that is not finite");
}

// Which part of the zero point the decoding takes off (an integer), for all rows alike.
float folded_zero(const LowBitPack& pack, const std::vector<float>& zero) {
  if (pack.weight.math == Math::int8) return is_signed(pack) || (pack.bits == 8 && !pack.table) ? 128 : 0;
  const bool uniform = std::all_of(zero.begin(), zero.end(), [&](float z) { return z == zero[0]; });
  return !pack.table && uniform && zero[0] == std::trunc(zero[0]) && zero[0] >= 0 && zero[0] <= 128 ? zero[0] : 0;
}

void set_zero(LowBitPack& pack, float zero) {
  const Math math = pack.weight.math;
  if (math == Math::int8) return;
  const uint32_t low = bits_of(math, -((math == Math::float16 ? 1024 : 128) + zero)), high = bits_of(math, -(64 + zero));
  pack.values.minus_zero = low << 16 | low;
  pack.values.minus_zero_high = high << 16 | high;
}

void set_codes(LowBitPack& pack, const LowBitSource& source) {
  const Weight& weight = pack.weight;
  const Columns& to = weight.columns;
  const int padded = weight.units * kUnit;
  const size_t unit_words = static_cast<size_t>(32) * pack.bits, row_bytes = source.layout.row_bytes(source.columns);
  pack.codes.assign(static_cast<size_t>(weight.tiles) * weight.units * unit_words * 4, 0);
  std::vector<uint8_t> row(source.columns), tile(static_cast<size_t>(kTile) * padded), unit(kTile * kUnit);
  for (int t = 0; t < weight.tiles; ++t) {
    std::fill(tile.begin(), tile.end(), 0);
    for (int i = 0; i < kTile && t * kTile + i < weight.rows; ++i) {
      decode_codes(source.layout, source.codes + static_cast<size_t>(t * kTile + i) * row_bytes, row.size(), row.data());
      for (int k = 0; k < source.columns; ++k)
        tile[static_cast<size_t>(i) * padded + k / to.group * to.padded_group + k % to.group] = row[k];
    }
    for (int u = 0; u < weight.units; ++u) {
      for (int i = 0; i < kTile; ++i) std::memcpy(&unit[i * kUnit], &tile[static_cast<size_t>(i) * padded + u * kUnit], kUnit);
      std::vector<uint32_t> words(unit_words);
      pack_unit(pack, unit.data(), words.data());
      std::memcpy(&pack.codes[(static_cast<size_t>(t) * weight.units + u) * unit_words * 4], words.data(), unit_words * 4);
    }
  }
}

}  // namespace

LowBitPack pack_lowbit(const LowBitSource& source, Math math) {
  LowBitPack pack{};
  Weight& weight = pack.weight;
  weight.math = math;
  const int group = std::min(source.block, source.columns);
  const int padded = divided_up(group, step_of(math)) * step_of(math);
  set_geometry(weight, source.rows, {source.columns, group, padded, 1, 1, false});
  pack.table = !counts_up(source);
  pack.bits = pack.table ? kTableBits : std::bit_width(source.layout.levels - 1);
  weight.unit_bytes = kTile * kUnit / 8 * pack.bits;
  weight.factor = is_signed(pack) ? 1.0f / 16 : 1;
  if (pack.table) {
    check_table(source);
    weight.factor = set_table(source.table, static_cast<int>(source.layout.levels), math, pack.values);
  }
  std::vector<float> zero(source.zero, source.zero + source.zeros);
  if (zero.size() == 1) zero.resize(static_cast<size_t>(weight.rows) * weight.groups, zero[0]);
  const float folded = folded_zero(pack, zero);
  set_zero(pack, folded);
  for (float& z : zero) z = (weight.factor == 1 ? z : z / weight.factor) - folded;
  set_parameters(pack, source.scale, zero);
  set_codes(pack, source);
  return pack;
}

std::vector<float> offsets_of(const LowBitPack& pack, const LowBitSource& source) {
  const Weight& weight = pack.weight;
  const size_t row_bytes = source.layout.row_bytes(source.columns);
  std::vector<uint8_t> codes(source.columns);
  std::vector<float> offsets(source.rows);
  for (int row = 0; row < source.rows; ++row) {
    decode_codes(source.layout, source.codes + row * row_bytes, codes.size(), codes.data());
    double sum = 0;
    for (int k = 0; k < source.columns; ++k) {
      const size_t at = static_cast<size_t>(row) * weight.groups + k / weight.columns.group;
      const int code = codes[k];
      const double value =
          pack.table ? static_cast<int8_t>(pack.values.table[0][code / 4] >> 8 * (code % 4)) : code / static_cast<double>(weight.factor);
      const double zero = static_cast<double>(source.zero[source.zeros == 1 ? 0 : at]) / weight.factor;
      sum += static_cast<double>(source.scale[at]) * (value - zero);
    }
    offsets[row] = static_cast<float>(sum);
  }
  return offsets;
}

}  // namespace qonnx::cuda
