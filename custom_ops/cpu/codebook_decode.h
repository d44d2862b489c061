// Vectors of code books to bytes or floats, a panel's units at a time, for the kernels of a tier.
//
// A unit is 32 columns of 32 rows. Bytes come out as [k / 4][row 32][4] with 128 added (it is in the first book
// already), floats as [k][row 32], scaled. The layout of indices is in lowbit.h.
#pragma once

#include "codebook_permute.h"
#include "lowbit_decode.h"

namespace qonnx::cpu::QONNX_TIER {

// The 64 places of the pair of panels that `panel` belongs to: vector j, book 0.
template <class Index>
static inline const Index* indices_of(const Codebook& books, size_t panel, size_t columns, size_t j) {
  return static_cast<const Index*>(books.index) + (panel / 2 * (columns / books.length) + j) * books.books * kPair;
}

// Calls body(row, place) for the 32 rows of a panel; unrolled, places are constants added to an address.
template <class Body>
static inline void for_rows(size_t panel, Body&& body) {
  const size_t half = panel % 2 * 8;
#pragma GCC unroll 2
  for (size_t tile = 0; tile < 2; ++tile)
#pragma GCC unroll 4
    for (size_t lane = 0; lane < 4; ++lane)
#pragma GCC unroll 4
      for (size_t r = 0; r < 4; ++r) body(tile * kTile + lane * 4 + r, half + lane * 16 + tile * 4 + r);
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
  const Index* index = indices_of<Index>(books, panel, weight.columns, begin / 8);
  const int8_t* vectors = books.bytes;
  alignas(64) uint8_t rows[kUnit / 8][kPanel * 8];
  for (size_t j = 0; j < count / 8; ++j, index += n * kPair)
    for_rows(panel, [&](size_t row, size_t place) {
      Eight sum = load_eight(vectors + static_cast<size_t>(index[place]) * 8);
      for (size_t b = 1; b < n; ++b)
        sum = sum + load_eight(vectors + b * size + static_cast<size_t>(index[b * kPair + place]) * 8);
      store_eight(rows[j] + 8 * row, sum);
    });
  for (size_t j = 0; j < count / 8; ++j, out += 2 * kLine)
    for (size_t tile = 0; tile < 2; ++tile)
      split_eights(rows[j] + 128 * tile, out + 64 * tile, out + kLine + 64 * tile);
}

// Vectors of 4 or 16.
template <class Index, size_t length>
static inline void unit_of_bytes(const LowBitWeight& weight, size_t panel, size_t begin, size_t count, uint8_t* out) {
  const Codebook& books = *weight.codebook;
  const size_t n = books.books, size = books.levels * length;
  const Index* index = indices_of<Index>(books, panel, weight.columns, begin / length);
  for (size_t k = 0; k < count; k += length, out += length / 4 * kLine, index += n * kPair)
    for_rows(panel, [&](size_t row, size_t place) {
      int8_t sum[length];
      memcpy(sum, books.bytes + index[place] * length, length);
      for (size_t b = 1; b < n; ++b)
        for (size_t i = 0; i < length; ++i)
          sum[i] = static_cast<int8_t>(sum[i] + books.bytes[b * size + index[b * kPair + place] * length + i]);
      for (size_t i = 0; i < length; i += 4) memcpy(out + i / 4 * kLine + 4 * row, sum + i, 4);
    });
}

// Any length of vector: element by element.
template <class Index>
static inline void unit_of_bytes_slowly(const LowBitWeight& weight, size_t panel, size_t begin, size_t count,
                                        uint8_t* out) {
  const Codebook& books = *weight.codebook;
  for (size_t k = 0; k < count; ++k) {
    const size_t element = (begin + k) % books.length;
    const Index* index = indices_of<Index>(books, panel, weight.columns, (begin + k) / books.length);
    for_rows(panel, [&](size_t row, size_t place) {
      int sum = 0;
      for (size_t b = 0; b < books.books; ++b)
        sum += books.bytes[(b * books.levels + index[b * kPair + place]) * books.length + element];
      out[k / 4 * kLine + 4 * row + k % 4] = static_cast<uint8_t>(sum);
    });
  }
}

template <class Index>
static inline void units_of_bytes(const LowBitWeight& weight, size_t panel, size_t first, size_t units, uint8_t* out) {
  const Codebook& books = *weight.codebook;
  for (size_t u = first; u < first + units; ++u, out += kUnit * kPanel) {
    const size_t group = u / weight.units, offset = u % weight.units * kUnit, columns = weight.group_columns(group);
    if (offset >= columns) continue;
    const size_t begin = weight.group_begin(group) + offset,
                 count = columns - offset < kUnit ? columns - offset : kUnit, length = books.length;
    const bool whole = begin % length == 0 && count % length == 0;
    if (whole && sizeof(Index) == 1 && length % 4 == 0 && books.books <= kMostPermutedBooks)
      unit_by_permutation(weight, panel, indices_of<uint8_t>(books, panel, weight.columns, begin / length),
                          count / length, out);
    else if (whole && length == 8 && books.books == 1) unit_of_eights<Index, 1>(weight, panel, begin, count, out);
    else if (whole && length == 8 && books.books == 2) unit_of_eights<Index, 2>(weight, panel, begin, count, out);
    else if (whole && length == 8) unit_of_eights<Index, 0>(weight, panel, begin, count, out);
    else if (whole && length == 4) unit_of_bytes<Index, 4>(weight, panel, begin, count, out);
    else if (whole && length == 16) unit_of_bytes<Index, 16>(weight, panel, begin, count, out);
    else unit_of_bytes_slowly<Index>(weight, panel, begin, count, out);
  }
}

// Units [first, first + units) of a panel as bytes.
static inline void decode_vectors(const LowBitWeight& weight, size_t panel, size_t first, size_t units, uint8_t* out) {
  if (weight.codebook->wide) units_of_bytes<uint16_t>(weight, panel, first, units, out);
  else units_of_bytes<uint8_t>(weight, panel, first, units, out);
}

#if defined(__AVX2__)
#if defined(__AVX512F__)
// Rows r and r + 4 of a tile in the halves of vector r, rows r + 8 and r + 12 in those of vector r + 4.
typedef __m512 Rows;
constexpr size_t kRowsAtOnce = 16;
static inline Rows two_rows(__m256 low, __m256 high) { return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1); }
static inline constexpr size_t first_row(size_t i) { return i / 4 * 8 + i % 4; }
static inline Rows low_pairs(Rows a, Rows b) { return _mm512_unpacklo_ps(a, b); }
static inline Rows high_pairs(Rows a, Rows b) { return _mm512_unpackhi_ps(a, b); }
static inline Rows low_fours(Rows a, Rows b) { return _mm512_shuffle_ps(a, b, 0x44); }
static inline Rows high_fours(Rows a, Rows b) { return _mm512_shuffle_ps(a, b, 0xee); }
static inline Rows left(Rows a, Rows b) { return _mm512_shuffle_f32x4(a, b, 0x88); }
static inline Rows right(Rows a, Rows b) { return _mm512_shuffle_f32x4(a, b, 0xdd); }
static inline Rows load_rows(const float* p) { return _mm512_loadu_ps(p); }
static inline void store_rows(float* p, Rows x) { _mm512_storeu_ps(p, x); }
#else
typedef __m256 Rows;
constexpr size_t kRowsAtOnce = 8;
static inline Rows low_pairs(Rows a, Rows b) { return _mm256_unpacklo_ps(a, b); }
static inline Rows high_pairs(Rows a, Rows b) { return _mm256_unpackhi_ps(a, b); }
static inline Rows low_fours(Rows a, Rows b) { return _mm256_shuffle_ps(a, b, 0x44); }
static inline Rows high_fours(Rows a, Rows b) { return _mm256_shuffle_ps(a, b, 0xee); }
static inline Rows left(Rows a, Rows b) { return _mm256_permute2f128_ps(a, b, 0x20); }
static inline Rows right(Rows a, Rows b) { return _mm256_permute2f128_ps(a, b, 0x31); }
static inline Rows load_rows(const float* p) { return _mm256_loadu_ps(p); }
static inline void store_rows(float* p, Rows x) { _mm256_storeu_ps(p, x); }
#endif

// Rows of eight floats to eight columns, times the rows' scales.
static inline void store_columns(const Rows (&row)[8], Rows scale, float* out) {
  Rows four[8];
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    const Rows low01 = low_pairs(row[i], row[i + 1]), high01 = high_pairs(row[i], row[i + 1]),
               low23 = low_pairs(row[i + 2], row[i + 3]), high23 = high_pairs(row[i + 2], row[i + 3]);
    four[i] = low_fours(low01, low23), four[i + 1] = high_fours(low01, low23);
    four[i + 2] = low_fours(high01, high23), four[i + 3] = high_fours(high01, high23);
  }
#pragma GCC unroll 4
  for (size_t i = 0; i < 4; ++i) {
    store_rows(out + i * kPanel, left(four[i], four[i + 4]) * scale);
    store_rows(out + (i + 4) * kPanel, right(four[i], four[i + 4]) * scale);
  }
}

// A unit of vectors of 8 or 16 that begins and ends with whole vectors; `books_` books, 0 for any number.
template <class Index, size_t books_>
static inline void unit_of_floats(const LowBitWeight& weight, size_t panel, size_t begin, size_t count,
                                  const float* scale, float* out) {
  const Codebook& books = *weight.codebook;
  const size_t n = books_ ? books_ : books.books, length = books.length, size = books.levels * length;
  const Index* index = indices_of<Index>(books, panel, weight.columns, begin / length);
  for (size_t k = 0; k < count; k += length, index += n * kPair)
    for (size_t element = 0; element < length; element += 8)
      for (size_t row = 0; row < kPanel; row += kRowsAtOnce) {
        const Index* at = index + Codebook::place(panel % 2 * kPanel + row);
        auto vector = [&](size_t i) {  // of the i-th row from here
          const size_t place = i / 4 * 16 + i % 4;
          const float* from = books.values + element;
          __m256 sum = _mm256_loadu_ps(from + at[place] * length);
          for (size_t b = 1; b < n; ++b)
            sum = _mm256_add_ps(sum, _mm256_loadu_ps(from + b * size + at[b * kPair + place] * length));
          return sum;
        };
        Rows rows[8];
#pragma GCC unroll 8
        for (size_t i = 0; i < 8; ++i)
#if defined(__AVX512F__)
          rows[i] = two_rows(vector(first_row(i)), vector(first_row(i) + 4));
#else
          rows[i] = vector(i);
#endif
        store_columns(rows, load_rows(scale + row), out + (k + element) * kPanel + row);
      }
}
#endif

template <class Index>
static inline void unit_of_floats_slowly(const LowBitWeight& weight, size_t panel, size_t begin, size_t count,
                                         const float* scale, float* out) {
  const Codebook& books = *weight.codebook;
  for (size_t k = 0; k < count; ++k, out += kPanel) {
    const size_t element = (begin + k) % books.length;
    const Index* index = indices_of<Index>(books, panel, weight.columns, (begin + k) / books.length);
    for_rows(panel, [&](size_t row, size_t place) {
      float sum = 0;
      for (size_t b = 0; b < books.books; ++b)
        sum += books.values[(b * books.levels + index[b * kPair + place]) * books.length + element];
      out[row] = sum * scale[row];
    });
  }
}

template <class Index>
static inline void units_of_floats(const LowBitWeight& weight, size_t panel, size_t first, size_t units, float* out) {
  for (size_t u = first; u < first + units; ++u, out += kUnit * kPanel) {
    const size_t group = u / weight.units, offset = u % weight.units * kUnit, columns = weight.group_columns(group);
    const size_t count = offset >= columns ? 0 : columns - offset < kUnit ? columns - offset : kUnit;
    memset(out + count * kPanel, 0, (kUnit - count) * kPanel * sizeof(float));
    float scale[kPanel];
    const size_t at = (panel * weight.groups + group) * kPanel, begin = weight.group_begin(group) + offset;
    store_floats(scale, parameters(weight, weight.scales, at));
    store_floats(scale + kTile, parameters(weight, weight.scales, at + kTile));
#if defined(__AVX2__)
    const size_t length = weight.codebook->length;
    if (length % 8 == 0 && begin % length == 0 && count % length == 0) {
      (weight.codebook->books == 1   ? unit_of_floats<Index, 1>
       : weight.codebook->books == 2 ? unit_of_floats<Index, 2>
                                     : unit_of_floats<Index, 0>)(weight, panel, begin, count, scale, out);
      continue;
    }
#endif
    unit_of_floats_slowly<Index>(weight, panel, begin, count, scale, out);
  }
}

// The same as scaled floats; zeros in the padding.
static inline void decode_vectors(const LowBitWeight& weight, size_t panel, size_t first, size_t units, float* out) {
  if (weight.codebook->wide) units_of_floats<uint16_t>(weight, panel, first, units, out);
  else units_of_floats<uint8_t>(weight, panel, first, units, out);
}

}  // namespace qonnx::cpu::QONNX_TIER
