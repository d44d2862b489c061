// Tables of partial sums for code-book products (codebook_tables.h); compiled once per tier, at work with AVX-512 VBMI.
#include "codebook_tables.h"

#include "codebook_permute.h"

namespace qonnx::cpu::QONNX_TIER {

namespace {

#if defined(__AVX512VBMI__) && defined(__AVX512VNNI__)

constexpr size_t kTableBytes = 16384;  // of tables that stay in the L1 cache while pairs of panels pass over them

// Of X: above, decoding vectors once and multiplying is faster.
constexpr size_t kMostRowsInt8 = 5, kMostRowsExact = 5;

bool suits(const LowBitWeight& weight, size_t rows, bool exact) {
  if (!weight.codebook || weight.codebook->wide || rows > (exact ? kMostRowsExact : kMostRowsInt8)) return false;
  const size_t length = weight.codebook->length;
  const bool blocks = weight.block == weight.columns || weight.block % length == 0;
  return blocks && (weight.parts == 1 || weight.group % length == 0);
}

// Sixteen entries into their planes.
template <size_t planes>
static inline void store_planes(uint8_t* to, __m512i entries) {
#pragma GCC unroll 4
  for (size_t p = 0; p < planes; ++p)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 256 * p),
                     _mm512_cvtepi32_epi8(_mm512_srli_epi32(entries, static_cast<unsigned>(8 * p))));
}

// Sums of sixteen entries: the start values, and quads_ · 4 numbers of X with as many of each vector.
template <size_t quads_>
static inline __m512i sixteen_sums(const int32_t* offsets, const int8_t* fours, const __m512i (&factor)[quads_]) {
  __m512i sum = _mm512_loadu_si512(offsets);
#pragma GCC unroll 4
  for (size_t q = 0; q < quads_; ++q) sum = _mm512_dpbusd_epi32(sum, factor[q], _mm512_loadu_si512(fours + 64 * q));
  return sum;
}

template <size_t quads_>
bool build_of_quads(const LowBitWeight& weight, const int8_t* x, size_t first, size_t last, uint8_t* tables) {
  const Codebook& books = *weight.codebook;
  const __m512i byte = _mm512_set1_epi16(255);
  // Packing twice leaves fours of the four sums side by side in each 128 bits.
  const __m512i in_order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  __m512i least = _mm512_setzero_si512(), most = least;
  tables += first * books.books * 256 * kInt8Planes;
  for (size_t j = first; j < last; ++j) {
    const int8_t* numbers = x + weight.padded_place(j * books.length);
    __m512i factor[quads_];  // unsigned: 128 added, taken off again by the offsets
#pragma GCC unroll 4
    for (size_t q = 0; q < quads_; ++q)
      factor[q] = _mm512_set1_epi32(four_bytes(numbers + 4 * q) ^ static_cast<int32_t>(0x80808080));
    const int8_t* fours = books.fours;
    const int32_t* offsets = books.offsets;
    for (size_t b = books.books; b > 0; --b, tables += 256)
      for (size_t level = 0; level < 256; level += 64, offsets += 64, fours += quads_ * 256, tables += 64) {
        __m512i words[2];
#pragma GCC unroll 2
        for (size_t i = 0; i < 2; ++i) {  // what does not fit in 16 bits becomes the largest or the least number
          words[i] = _mm512_packs_epi32(
              sixteen_sums<quads_>(offsets + 32 * i, fours + quads_ * 128 * i, factor),
              sixteen_sums<quads_>(offsets + 32 * i + 16, fours + quads_ * (128 * i + 64), factor));
          least = _mm512_min_epi16(least, words[i]);
          most = _mm512_max_epi16(most, words[i]);
        }
        const __m512i low = _mm512_packus_epi16(_mm512_and_si512(words[0], byte), _mm512_and_si512(words[1], byte)),
                      high = _mm512_packus_epi16(_mm512_srli_epi16(words[0], 8), _mm512_srli_epi16(words[1], 8));
        _mm512_storeu_si512(tables, _mm512_permutexvar_epi32(in_order, low));
        _mm512_storeu_si512(tables + 256, _mm512_permutexvar_epi32(in_order, high));
      }
  }
  return !_mm512_cmpeq_epi16_mask(least, _mm512_set1_epi16(-32768)) &&
         !_mm512_cmpeq_epi16_mask(most, _mm512_set1_epi16(32767));
}

bool build_int8(const LowBitWeight& weight, const int8_t* x, size_t first, size_t last, uint8_t* tables) {
  switch (weight.codebook->quads()) {
    case 1: return build_of_quads<1>(weight, x, first, last, tables);
    case 2: return build_of_quads<2>(weight, x, first, last, tables);
    case 3: return build_of_quads<3>(weight, x, first, last, tables);
    default: return build_of_quads<4>(weight, x, first, last, tables);
  }
}

void build_exact(const LowBitWeight& weight, const float* x, size_t first, size_t last, uint8_t* tables) {
  const Codebook& books = *weight.codebook;
  tables += first * books.books * 256 * kExactPlanes;
  for (size_t j = first; j < last; ++j) {
    const float* numbers = x + weight.padded_place(j * books.length);
    const float* values = books.by_sixteen;
    for (size_t b = 0; b < books.books; ++b, tables += 256 * kExactPlanes)
      for (size_t level = 0; level < 256; level += 16) {
        __m512 sum = _mm512_setzero_ps();
        for (size_t i = 0; i < books.length; ++i, values += 16)
          sum = _mm512_fmadd_ps(_mm512_set1_ps(numbers[i]), _mm512_loadu_ps(values), sum);
        store_planes<kExactPlanes>(tables + level, _mm512_castps_si512(sum));
      }
  }
}

// Sums of 64 outputs, in four vectors of sixteen, from one zero to the next. int8: int32 sums of the even and odd rows
// of the lower and upper half of each 128-bit lane.
struct IntegerSums {
  static constexpr size_t planes = kInt8Planes;
  __m512i v[4];

  void clear() {
    for (auto& x : v) x = _mm512_setzero_si512();
  }
  void load(const void* p) {
    for (int i = 0; i < 4; ++i) v[i] = _mm512_loadu_si512(static_cast<const int32_t*>(p) + 16 * i);
  }
  void store(void* p) const {
    for (int i = 0; i < 4; ++i) _mm512_storeu_si512(static_cast<int32_t*>(p) + 16 * i, v[i]);
  }
  void add(const Table256 (&table)[planes], const Indices& index) {
    const __m512i low = look_up(table[0], index), high = look_up(table[1], index);
    const __m512i first = _mm512_unpacklo_epi8(low, high), second = _mm512_unpackhi_epi8(low, high);
    const __m512i even = _mm512_set1_epi32(1), odd = _mm512_set1_epi32(0x10000);
    v[0] = _mm512_dpwssd_epi32(v[0], first, even);
    v[1] = _mm512_dpwssd_epi32(v[1], first, odd);
    v[2] = _mm512_dpwssd_epi32(v[2], second, even);
    v[3] = _mm512_dpwssd_epi32(v[3], second, odd);
  }
  Floats rows(int sixteen) const {  // in order
    const __m512i even = v[sixteen / 2 * 2], odd = v[sixteen / 2 * 2 + 1];
    return {_mm512_cvtepi32_ps(sixteen % 2 ? _mm512_unpackhi_epi32(even, odd) : _mm512_unpacklo_epi32(even, odd))};
  }
};

struct FloatSums {
  static constexpr size_t planes = kExactPlanes;
  __m512 v[4];

  void clear() {
    for (auto& x : v) x = _mm512_setzero_ps();
  }
  void load(const void* p) {
    for (int i = 0; i < 4; ++i) v[i] = _mm512_loadu_ps(static_cast<const float*>(p) + 16 * i);
  }
  void store(void* p) const {
    for (int i = 0; i < 4; ++i) _mm512_storeu_ps(static_cast<float*>(p) + 16 * i, v[i]);
  }
  void add(const Table256 (&table)[planes], const Indices& index) {
    const __m512i p0 = look_up(table[0], index), p1 = look_up(table[1], index), p2 = look_up(table[2], index),
                  p3 = look_up(table[3], index);
    const __m512i low01 = _mm512_unpacklo_epi8(p0, p1), high01 = _mm512_unpackhi_epi8(p0, p1),
                  low23 = _mm512_unpacklo_epi8(p2, p3), high23 = _mm512_unpackhi_epi8(p2, p3);
    v[0] = _mm512_add_ps(v[0], _mm512_castsi512_ps(_mm512_unpacklo_epi16(low01, low23)));
    v[1] = _mm512_add_ps(v[1], _mm512_castsi512_ps(_mm512_unpackhi_epi16(low01, low23)));
    v[2] = _mm512_add_ps(v[2], _mm512_castsi512_ps(_mm512_unpacklo_epi16(high01, high23)));
    v[3] = _mm512_add_ps(v[3], _mm512_castsi512_ps(_mm512_unpackhi_epi16(high01, high23)));
  }
  Floats rows(int sixteen) const { return {v[sixteen]}; }
};

// scale · sums of a pair of panels and a group, added to y.
template <class Sums>
static inline void finish(const LowBitWeight& weight, size_t pair, size_t group, float x_scale, const Sums& sums,
                          float* y) {
  for (size_t half = 0; half < 2 && 2 * pair + half < weight.panels; ++half)
    for (size_t tile = 0; tile < 2; ++tile) {
      const size_t at = ((2 * pair + half) * weight.groups + group) * kPanel + kTile * tile, row = 32 * half + 16 * tile;
      const Floats scale = parameters(weight, weight.scales, at) * floats(x_scale);
      store_floats(y + row, fma(sums.rows(static_cast<int>(2 * half + tile)), scale, load_floats(y + row)));
    }
}

// `count` tables and as many indices of `pairs_` pairs of panels: a table in registers serves all of them.
template <class Sums, size_t pairs_>
static inline void add_look_ups(const uint8_t* table, size_t count, const uint8_t* index, size_t stride,
                                Sums (&sums)[pairs_]) {
  const size_t ahead = count * kPair;  // where these pairs go on when the others have had these tables
  for (size_t i = 0; i < count; ++i, index += kPair, table += 256 * Sums::planes) {
    Table256 planes[Sums::planes];
#pragma GCC unroll 4
    for (size_t p = 0; p < Sums::planes; ++p) planes[p] = load_table256(table + 256 * p);
#pragma GCC unroll 2
    for (size_t pair = 0; pair < pairs_; ++pair) {
      prefetch(index + pair * stride + ahead);
      sums[pair].add(planes, load_indices(index + pair * stride));
    }
  }
}

template <class Sums>
void multiply(const LowBitWeight& shared_weight, const uint8_t* tables, const float* x_scale, size_t first,
              size_t pairs, float* y) {
  const LowBitWeight weight = shared_weight;
  const Codebook& books = *weight.codebook;
  const size_t n = books.books, row_vectors = weight.columns / books.length, table = 256 * Sums::planes;
  const size_t most = kTableBytes / (n * table) ? kTableBytes / (n * table) : 1, stride = row_vectors * n * kPair;
  const auto* indices = static_cast<const uint8_t*>(books.index) + first * stride;
  alignas(64) int32_t kept[kMostPairs][kPair];
  memset(y, 0, pairs * kPair * sizeof(float));
  for (size_t g = 0; g < weight.groups; ++g) {
    const size_t begin = weight.group_begin(g) / books.length, vectors = weight.group_columns(g) / books.length;
    for (size_t j = 0; j < vectors; j += most) {
      const size_t count = (vectors - j < most ? vectors - j : most) * n;
      const auto run = [&](size_t pair, auto together) {
        Sums sums[together()];
        for (size_t i = 0; i < together(); ++i)
          if (j == 0) sums[i].clear();
          else sums[i].load(kept[pair + i]);
        add_look_ups(tables + (begin + j) * n * table, count, indices + pair * stride + (begin + j) * n * kPair, stride,
                     sums);
        for (size_t i = 0; i < together(); ++i)
          if (j + most < vectors) sums[i].store(kept[pair + i]);
          else finish(weight, first + pair + i, g, x_scale ? x_scale[g] : 1.0f, sums[i], y + (pair + i) * kPair);
      };
      size_t pair = 0;
      for (; pair + 2 <= pairs; pair += 2) run(pair, std::integral_constant<size_t, 2>{});
      if (pair < pairs) run(pair, std::integral_constant<size_t, 1>{});
    }
  }
}

void multiply_int8(const LowBitWeight& weight, const uint8_t* tables, const float* x_scale, size_t first, size_t pairs,
                   float* sums) {
  multiply<IntegerSums>(weight, tables, x_scale, first, pairs, sums);
}
void multiply_exact(const LowBitWeight& weight, const uint8_t* tables, size_t first, size_t pairs, float* sums) {
  multiply<FloatSums>(weight, tables, nullptr, first, pairs, sums);
}

#else

bool suits(const LowBitWeight&, size_t, bool) { return false; }
constexpr bool (*build_int8)(const LowBitWeight&, const int8_t*, size_t, size_t, uint8_t*) = nullptr;
constexpr void (*build_exact)(const LowBitWeight&, const float*, size_t, size_t, uint8_t*) = nullptr;
constexpr void (*multiply_int8)(const LowBitWeight&, const uint8_t*, const float*, size_t, size_t, float*) = nullptr;
constexpr void (*multiply_exact)(const LowBitWeight&, const uint8_t*, size_t, size_t, float*) = nullptr;

#endif

}  // namespace

extern const CodebookTables codebook_tables;
const CodebookTables codebook_tables = {suits, build_int8, build_exact, multiply_int8, multiply_exact};

}  // namespace qonnx::cpu::QONNX_TIER
