// Look-ups in tables of 256 bytes that lie in registers (AVX-512 VBMI), and the decoding of code books by them.
//
// A permutation looks up 64 indices in 128 bytes, so two and a choice by the top bit look up 64 in 256. For books this
// replaces two loads, an addition and a store a vector: 1.6 times as fast on Intel, more on AMD, where a permutation of
// two registers is one operation instead of three.
#pragma once

#include "lowbit_decode.h"

namespace qonnx::cpu::QONNX_TIER {

#if defined(__AVX512VBMI__)

constexpr bool kPermutes = true;

struct Table256 {
  __m512i v[4];
};

static inline Table256 load_table256(const uint8_t* p) {
  return {{_mm512_loadu_si512(p), _mm512_loadu_si512(p + 64), _mm512_loadu_si512(p + 128),
           _mm512_loadu_si512(p + 192)}};
}

static inline __m512i look_up(const Table256& table, __m512i index) {
  return _mm512_mask_mov_epi8(_mm512_permutex2var_epi8(table.v[0], index, table.v[1]), _mm512_movepi8_mask(index),
                              _mm512_permutex2var_epi8(table.v[2], index, table.v[3]));
}

// Indices that are looked up in several tables: where bit 6 is set, bit 7, both. Four permutations of one register, each
// but the first over a part of the result, are four instructions where two of two registers are six and a choice on
// Intel: 0.82 of the time.
struct Indices {
  __m512i v;
  __mmask64 bit6, bit7, both;
};

static inline Indices load_indices(const uint8_t* p) {
  const __m512i index = _mm512_loadu_si512(p);
  const __mmask64 bit6 = _mm512_movepi8_mask(_mm512_add_epi8(index, index)), bit7 = _mm512_movepi8_mask(index);
  return {index, bit6, bit7, _kand_mask64(bit6, bit7)};
}

static inline __m512i look_up(const Table256& table, const Indices& index) {
  __m512i found = _mm512_permutexvar_epi8(index.v, table.v[0]);
  found = _mm512_mask_permutexvar_epi8(found, index.bit6, index.v, table.v[1]);
  found = _mm512_mask_permutexvar_epi8(found, index.bit7, index.v, table.v[2]);
  return _mm512_mask_permutexvar_epi8(found, index.both, index.v, table.v[3]);
}

// Element `i` of the vectors that 64 indices of each book name, summed over books.
template <size_t books_>
static inline __m512i elements(const Codebook& books, const __m512i* index, size_t i) {
  const uint8_t* table = books.by_element + i * 256;
  __m512i sum = look_up(load_table256(table), index[0]);
  for (size_t b = 1; b < (books_ ? books_ : books.books); ++b)
    sum = _mm512_add_epi8(sum, look_up(load_table256(table + b * books.length * 256), index[b]));
  return sum;
}

constexpr size_t kMostPermutedBooks = 8;

// A unit of `vectors` vectors from the pair's indices. Two vectors of the panel's 32 rows are looked up at a time: of
// their places, the lane l of all indices is 16·l …, with the first tile of the first vector, its second tile, then
// those of the second vector in dwords 0 to 3. Interleaving four elements gives whole lines.
template <size_t books_>
static inline void permute_unit(const LowBitWeight& weight, size_t panel, const uint8_t* index, size_t vectors,
                                uint8_t* out) {
  const Codebook& books = *weight.codebook;
  const size_t n = books_ ? books_ : books.books, stride = n * kPair, lines = books.length / 4;
  for (size_t j = 0; j < vectors; j += 2, index += 2 * stride, out += 2 * lines * kLine) {
    const bool two = j + 1 < vectors;
    __m512i both[kMostPermutedBooks];
    for (size_t b = 0; b < n; ++b) {
      const __m512i first = _mm512_loadu_si512(index + b * kPair),
                    second = two ? _mm512_loadu_si512(index + stride + b * kPair) : first;
      both[b] = panel % 2 ? _mm512_unpackhi_epi64(first, second) : _mm512_unpacklo_epi64(first, second);
    }
    for (size_t line = 0; line < lines; ++line) {
      const __m512i e0 = elements<books_>(books, both, 4 * line), e1 = elements<books_>(books, both, 4 * line + 1),
                    e2 = elements<books_>(books, both, 4 * line + 2), e3 = elements<books_>(books, both, 4 * line + 3);
      const __m512i low01 = _mm512_unpacklo_epi8(e0, e1), high01 = _mm512_unpackhi_epi8(e0, e1),
                    low23 = _mm512_unpacklo_epi8(e2, e3), high23 = _mm512_unpackhi_epi8(e2, e3);
      uint8_t *to = out + line * kLine, *next = to + lines * kLine;
      _mm512_storeu_si512(to, _mm512_unpacklo_epi16(low01, low23));
      _mm512_storeu_si512(to + 64, _mm512_unpackhi_epi16(low01, low23));
      if (!two) continue;
      _mm512_storeu_si512(next, _mm512_unpacklo_epi16(high01, high23));
      _mm512_storeu_si512(next + 64, _mm512_unpackhi_epi16(high01, high23));
    }
  }
}

static inline void unit_by_permutation(const LowBitWeight& weight, size_t panel, const uint8_t* index, size_t vectors,
                                       uint8_t* out) {
  switch (weight.codebook->books) {
    case 1: return permute_unit<1>(weight, panel, index, vectors, out);
    case 2: return permute_unit<2>(weight, panel, index, vectors, out);
    default: return permute_unit<0>(weight, panel, index, vectors, out);
  }
}

#else

constexpr bool kPermutes = false;
constexpr size_t kMostPermutedBooks = 0;
static inline void unit_by_permutation(const LowBitWeight&, size_t, const uint8_t*, size_t, uint8_t*) {}

#endif

}  // namespace qonnx::cpu::QONNX_TIER
