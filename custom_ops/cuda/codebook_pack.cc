// Packs weights in code books for the GPU (codebook_pack.h).
#include "codebook_pack.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "../formats/float16.h"
#include "weight_pack.h"

namespace qonnx::cuda {

namespace {

constexpr int kMostPlanes = 3, kPiece = 16, kOwned = 16;
constexpr int kFloat16Exponent = 14;  // float16 books are scaled so that their largest number is below 2^14

int padded_length(int length, Math math) {
  return std::max(math == Math::int8 ? 4 : 2, static_cast<int>(std::bit_ceil(static_cast<unsigned>(length))));
}

uint16_t bits_of(Math math, float value) {
  return math == Math::float16 ? encode_float16(value) : encode_bfloat16(value);
}
float rounded(Math math, float value) {
  const uint16_t code = bits_of(math, value);
  return math == Math::float16 ? decode_float16(code) : decode_bfloat16(code);
}

// The unit in which the books' numbers are multiplied; all of them are divided by it.
float unit_of(const CodebookSource& source, Math math) {
  const size_t book = static_cast<size_t>(source.layout.levels) * source.length;
  float sum = 0, largest = 0;
  for (int b = 0; b < source.books; ++b) {
    float of_book = 0;
    for (size_t i = 0; i < book; ++i) {
      const float size = std::fabs(source.codebooks[b * book + i]);
      if (!std::isfinite(size)) throw std::invalid_argument("the code books hold a number that is not finite");
      of_book = std::max(of_book, size);
    }
    sum += of_book;
    largest = std::max(largest, of_book);
  }
  if (math == Math::int8) return std::max(sum, 1e-30f) / 127.0f;
  if (math == Math::bfloat16 || largest == 0) return 1;
  int exponent = 0;
  std::frexp(largest, &exponent);
  return std::ldexp(1.0f, exponent - kFloat16Exponent);
}

void set_tables(CodebookPack& pack, const CodebookSource& source) {
  const Math math = pack.weight.math;
  const int size = bytes_of(math), padded = pack.padded_vector, levels = source.layout.levels;
  const int piece_numbers = std::min(kPiece, padded * size) / size, pieces = padded / piece_numbers;
  const float unit = pack.weight.factor;
  std::vector<float> rest(source.codebooks, source.codebooks + static_cast<size_t>(source.books) * levels * source.length);
  for (float& number : rest) number /= unit;
  const size_t plane_bytes = static_cast<size_t>(levels) * padded * size;
  std::vector<std::vector<char>> planes;
  do {
    std::vector<char> plane(source.books * plane_bytes);
    for (int b = 0; b < source.books; ++b)
      for (int level = 0; level < levels; ++level)
        for (int i = 0; i < source.length; ++i) {
          float& number = rest[(static_cast<size_t>(b) * levels + level) * source.length + i];
          const size_t piece = (static_cast<size_t>(b) * pieces + i / piece_numbers) * levels + level;
          char* to = &plane[(piece * piece_numbers + i % piece_numbers) * size];
          if (math == Math::int8) {
            *to = static_cast<char>(static_cast<int>(std::nearbyint(number)));
            number = 0;
          } else {
            const uint16_t code = bits_of(math, number);
            std::memcpy(to, &code, 2);
            number -= rounded(math, number);
          }
        }
    planes.push_back(std::move(plane));
  } while (planes.size() < kMostPlanes && std::any_of(rest.begin(), rest.end(), [](float r) { return r != 0; }));
  pack.values.planes = static_cast<int>(planes.size());
  for (int b = 0; b < source.books; ++b)
    for (const auto& plane : planes)
      pack.tables.insert(pack.tables.end(), plane.begin() + b * plane_bytes, plane.begin() + (b + 1) * plane_bytes);
}

// Tables of biased bytes behind the others, where all sums of entries are signed bytes.
void add_biased(CodebookPack& pack) {
  const int books = pack.values.books, levels = pack.values.levels;
  const size_t book_bytes = pack.tables.size() / books, piece = std::min(kPiece, pack.padded_vector);
  const auto table = [&](int book, size_t place, int level) {  // of a number of the padded vector
    return book * book_bytes + (place / piece * levels + level) * piece + place % piece;
  };
  std::vector<char> biased(pack.tables.size());
  for (int place = 0; place < pack.padded_vector; ++place) {
    int left = 128, above = 0;
    for (int b = 0; b < books; ++b) {
      int low = 127, high = -128;
      for (int level = 0; level < levels; ++level) {
        const int number = static_cast<signed char>(pack.tables[table(b, place, level)]);
        low = std::min(low, number), high = std::max(high, number);
      }
      const int bias = b + 1 < books ? -low : left;
      if (bias + low < 0) return;
      left -= bias, above += high;
      for (int level = 0; level < levels; ++level) {
        const size_t at = table(b, place, level);
        biased[at] = static_cast<char>(pack.tables[at] + bias);
      }
    }
    if (above > 127) return;
  }
  pack.biased = pack.tables.size();
  pack.values.together = books;
  pack.tables.insert(pack.tables.end(), biased.begin(), biased.end());
}

template <class Index>
void set_indices(CodebookPack& pack, const CodebookSource& source) {
  const Weight& weight = pack.weight;
  const Columns& to = weight.columns;
  const int padded = pack.padded_vector, vectors = kOwned / padded, books = source.books;
  const int per_step = weight.math == Math::int8 ? 8 : 4, per = std::max(1, per_step / padded);
  const int all_vectors = source.columns / source.length;
  const size_t row_bytes = source.layout.row_bytes(static_cast<size_t>(all_vectors) * books);
  std::vector<uint16_t> row(static_cast<size_t>(all_vectors) * books);
  pack.codes.assign(static_cast<size_t>(weight.tiles) * weight.units * weight.unit_bytes, 0);
  auto* indices = reinterpret_cast<Index*>(pack.codes.data());
  const size_t unit_size = weight.unit_bytes / sizeof(Index);
  for (int n = 0; n < source.rows; ++n) {
    decode_codes(source.layout, source.codes + n * row_bytes, row.size(), row.data());
    const int in_tile = n % kTile, half = in_tile / 8;
    for (int place = 0; place < weight.units * kUnit; place += padded) {
      const int group = place / to.padded_group;
      const int vector = group * to.group / to.vector + place % to.padded_group / padded;
      if (group >= weight.groups || vector >= all_vectors) continue;
      const int lane = in_tile % 8 * 4 + place % kUnit / kOwned, own = place % kOwned / padded;
      Index* unit = indices + (static_cast<size_t>(n / kTile) * weight.units + place / kUnit) * unit_size;
      for (int b = 0; b < books; ++b)
        unit[((b * vectors / per + own / per) * 32 + lane) * 2 * per + own % per * 2 + half] =
            static_cast<Index>(row[static_cast<size_t>(vector) * books + b]);
    }
  }
}

}  // namespace

CodebookPack pack_codebook(const CodebookSource& source, Math math) {
  CodebookPack pack{};
  Weight& weight = pack.weight;
  weight.math = math;
  weight.codebooks = true;
  weight.factor = unit_of(source, math);
  pack.padded_vector = padded_length(source.length, math);
  pack.values.books = source.books;
  pack.values.levels = static_cast<int>(source.layout.levels);
  pack.values.wide = source.layout.levels > 256;
  const int group = std::min(source.block, source.columns), length = source.length;
  int most = 0;  // vectors that a group touches
  for (int begin = 0; begin < source.columns; begin += group)
    most = std::max(most, divided_up(std::min(begin + group, source.columns), length) - begin / length);
  const int padded_group = divided_up(int64_t{most} * pack.padded_vector, kUnit) * kUnit;
  set_geometry(weight, source.rows, {source.columns, group, padded_group, length, pack.padded_vector, true});
  weight.unit_bytes = kTile * kUnit / pack.padded_vector * source.books * (pack.values.wide ? 2 : 1);
  const int per = std::max(1, (math == Math::int8 ? 8 : 4) / pack.padded_vector);
  weight.segments = !pack.values.wide && per == 1 ? source.books * kOwned / pack.padded_vector : 0;
  set_parameters(pack, source.scale, {0.0f});
  set_tables(pack, source);
  pack.values.together = math == Math::float16 && pack.values.planes == 1 ? source.books : 1;
  if (math == Math::int8 && source.books > 1) add_biased(pack);
  if (pack.values.wide) set_indices<uint16_t>(pack, source);
  else set_indices<uint8_t>(pack, source);
  return pack;
}

}  // namespace qonnx::cuda
