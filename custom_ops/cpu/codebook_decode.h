// Vectors of code books to bytes or floats, a panel's units at a time, for the kernels of a tier.
//
// A unit is 32 columns of 32 rows. Indices lie [panel][j][row 32][book], so that a unit of vectors reads one stream;
// books are small enough for the L1 cache (two of 256 × 8 bytes: 4 KB), or L2 for 65536 vectors. Bytes come out as [k /
// 4][row 32][4] with 128 added (it is in the first book already), floats as [k][row 32], scaled.
#pragma once

#include "lowbit_decode.h"

namespace qonnx::cpu::QONNX_TIER {

template <class Index>
static inline size_t index_at(const Codebook& books, size_t panel, size_t columns, size_t j, size_t row, size_t book) {
  const size_t vectors = columns / books.length;
  return static_cast<const Index*>(books.index)[((panel * vectors + j) * kPanel + row) * books.books + book];
}

// [row 16][8 bytes] to two lines of [row 16][4].
static inline void split_eights(const uint8_t* rows, uint8_t* first, uint8_t* second) {
#if defined(__AVX512F__)
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i low = _mm512_loadu_si512(rows), high = _mm512_loadu_si512(rows + 64);
  _mm512_storeu_si512(first, _mm512_permutex2var_epi32(low, even, high));
  _mm512_storeu_si512(second, _mm512_permutex2var_epi32(low, _mm512_or_si512(even, _mm512_set1_epi32(1)), high));
#else
  for (size_t row = 0; row < kTile; ++row) {
    memcpy(first + 4 * row, rows + 8 * row, 4);
    memcpy(second + 4 * row, rows + 8 * row + 4, 4);
  }
#endif
}

// Eight bytes of a vector; addition by byte.
#if defined(__AVX2__)
struct Eight {
  __m128i v;
};
static inline Eight load_eight(const int8_t* p) { return {_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))}; }
static inline Eight operator+(Eight a, Eight b) { return {_mm_add_epi8(a.v, b.v)}; }
static inline void store_eight(uint8_t* p, Eight x) { _mm_storel_epi64(reinterpret_cast<__m128i*>(p), x.v); }
#else
struct Eight {
  uint64_t v;
};
static inline Eight load_eight(const int8_t* p) {
  Eight x;
  memcpy(&x.v, p, 8);
  return x;
}
static inline Eight operator+(Eight a, Eight b) {  // seven bits each, then the top bits without a carry
  constexpr uint64_t low = 0x7f7f7f7f7f7f7f7f;
  return {((a.v & low) + (b.v & low)) ^ ((a.v ^ b.v) & ~low)};
}
static inline void store_eight(uint8_t* p, Eight x) { memcpy(p, &x.v, 8); }
#endif

// One unit: columns [begin, begin + count) where count ≤ 32; what is beyond stays as it is (it meets zeros of X).
// Vectors of 8, `books_` of them (0: any number): first side by side, [row][8], then split into lines; storing four
// bytes at a time at once took twice as long.
template <class Index, size_t books_>
static inline void unit_of_eights(const LowBitWeight& weight, size_t panel, size_t begin, size_t count, uint8_t* out) {
  const Codebook& books = *weight.codebook;
  const size_t n = books_ ? books_ : books.books, size = books.levels * 8;
  const Index* index = static_cast<const Index*>(books.index) + (panel * (weight.columns / 8) + begin / 8) * kPanel * n;
  const int8_t* vectors = books.bytes;
  alignas(64) uint8_t rows[kUnit / 8][kPanel * 8];
  for (size_t j = 0; j < count / 8; ++j)
    for (size_t row = 0; row < kPanel; ++row, index += n) {
      Eight sum = load_eight(vectors + static_cast<size_t>(index[0]) * 8);
      for (size_t b = 1; b < n; ++b) sum = sum + load_eight(vectors + b * size + static_cast<size_t>(index[b]) * 8);
      store_eight(rows[j] + 8 * row, sum);
    }
  for (size_t j = 0; j < count / 8; ++j, out += 2 * kLine)
    for (size_t tile = 0; tile < 2; ++tile)
      split_eights(rows[j] + 128 * tile, out + 64 * tile, out + kLine + 64 * tile);
}

// Vectors of 4 or 16.
template <class Index, size_t length>
static inline void unit_of_bytes(const LowBitWeight& weight, size_t panel, size_t begin, size_t count, uint8_t* out) {
  const Codebook& books = *weight.codebook;
  const size_t n = books.books, size = books.levels * length;
  const Index* index =
      static_cast<const Index*>(books.index) + (panel * (weight.columns / length) + begin / length) * kPanel * n;
  for (size_t k = 0; k < count; k += length, out += length / 4 * kLine)
    for (size_t row = 0; row < kPanel; ++row, index += n) {
      int8_t sum[length];
      memcpy(sum, books.bytes + index[0] * length, length);
      for (size_t b = 1; b < n; ++b)
        for (size_t i = 0; i < length; ++i)
          sum[i] = static_cast<int8_t>(sum[i] + books.bytes[b * size + index[b] * length + i]);
      for (size_t i = 0; i < length; i += 4) memcpy(out + i / 4 * kLine + 4 * row, sum + i, 4);
    }
}

// Any length of vector: element by element.
template <class Index>
static inline void unit_of_bytes_slowly(const LowBitWeight& weight, size_t panel, size_t begin, size_t count,
                                        uint8_t* out) {
  const Codebook& books = *weight.codebook;
  for (size_t k = 0; k < count; ++k)
    for (size_t row = 0; row < kPanel; ++row) {
      int sum = 0;
      const size_t j = (begin + k) / books.length, element = (begin + k) % books.length;
      for (size_t b = 0; b < books.books; ++b)
        sum +=
            books.bytes[(b * books.levels + index_at<Index>(books, panel, weight.columns, j, row, b)) * books.length +
                        element];
      out[k / 4 * kLine + 4 * row + k % 4] = static_cast<uint8_t>(sum);
    }
}

template <class Index>
static inline void units_of_bytes(const LowBitWeight& weight, size_t panel, size_t first, size_t units, uint8_t* out) {
  const Codebook& books = *weight.codebook;
  for (size_t u = first; u < first + units; ++u, out += kUnit * kPanel) {
    const size_t group = u / weight.units, offset = u % weight.units * kUnit, columns = weight.group_columns(group);
    if (offset >= columns) continue;
    const size_t begin = weight.group_begin(group) + offset,
                 count = columns - offset < kUnit ? columns - offset : kUnit;
    const bool whole = begin % books.length == 0 && count % books.length == 0;
    if (whole && books.length == 8 && books.books == 1) unit_of_eights<Index, 1>(weight, panel, begin, count, out);
    else if (whole && books.length == 8 && books.books == 2) unit_of_eights<Index, 2>(weight, panel, begin, count, out);
    else if (whole && books.length == 8) unit_of_eights<Index, 0>(weight, panel, begin, count, out);
    else if (whole && books.length == 4) unit_of_bytes<Index, 4>(weight, panel, begin, count, out);
    else if (whole && books.length == 16) unit_of_bytes<Index, 16>(weight, panel, begin, count, out);
    else unit_of_bytes_slowly<Index>(weight, panel, begin, count, out);
  }
}

// Units [first, first + units) of a panel as bytes.
static inline void decode_vectors(const LowBitWeight& weight, size_t panel, size_t first, size_t units, uint8_t* out) {
  if (weight.codebook->wide) units_of_bytes<uint16_t>(weight, panel, first, units, out);
  else units_of_bytes<uint8_t>(weight, panel, first, units, out);
}

template <class Index>
static inline void units_of_floats(const LowBitWeight& weight, size_t panel, size_t first, size_t units, float* out) {
  const Codebook& books = *weight.codebook;
  const size_t length = books.length;
  for (size_t u = first; u < first + units; ++u, out += kUnit * kPanel) {
    memset(out, 0, kUnit * kPanel * sizeof(float));
    const size_t group = u / weight.units, offset = u % weight.units * kUnit, columns = weight.group_columns(group);
    float scale[kPanel];
    const size_t at = (panel * weight.groups + group) * kPanel;
    store_floats(scale, parameters(weight, weight.scales, at));
    store_floats(scale + kTile, parameters(weight, weight.scales, at + kTile));
    for (size_t k = offset; k < columns && k < offset + kUnit;) {
      const size_t column = weight.group_begin(group) + k, element = column % length;
      const size_t left = (columns < offset + kUnit ? columns : offset + kUnit) - k;
      const size_t run = length - element < left ? length - element : left;
      for (size_t row = 0; row < kPanel; ++row)
        for (size_t b = 0; b < books.books; ++b) {
          const size_t index = index_at<Index>(books, panel, weight.columns, column / length, row, b);
          const float* vector = books.values + (b * books.levels + index) * length + element;
          for (size_t i = 0; i < run; ++i) out[(k - offset + i) * kPanel + row] += vector[i];
        }
      k += run;
    }
    for (size_t k = 0; k < kUnit; ++k)
      for (size_t row = 0; row < kPanel; ++row) out[k * kPanel + row] *= scale[row];
  }
}

// The same as scaled floats; zeros in the padding.
static inline void decode_vectors(const LowBitWeight& weight, size_t panel, size_t first, size_t units, float* out) {
  if (weight.codebook->wide) units_of_floats<uint16_t>(weight, panel, first, units, out);
  else units_of_floats<uint8_t>(weight, panel, first, units, out);
}

}  // namespace qonnx::cpu::QONNX_TIER
