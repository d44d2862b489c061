// Sixteen lanes on every tier: the vector types that the low-bit kernels are written in.
//
//   Bytes   64 bytes: lane r holds four neighbouring k of output row r     [16 rows][4 k]
//   Ints    16 × int32, one a row
//   Floats  16 × float32, one a row
//
// One Bytes is one zmm register, two ymm registers, four registers of Arm, or an array in portable C++. `dot` multiplies
// the four unsigned bytes of each lane with four signed ones and adds to the lane: one instruction a register with VNNI
// or Arm's dot products, three without.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../formats/float16.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace qonnx::cpu::QONNX_TIER {

// Digits d0, d1, d2 of c = d0 + 3·d1 + 9·d2 below 27, by c.
alignas(64) constexpr uint8_t kTriples[3][64] = {
    {0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2},
    {0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 1, 1, 1, 2, 2, 2},
    {0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2},
};

#if defined(__AVX512F__)

constexpr int kTilesAtOnce = 2;  // tiles of 16 rows that the register file holds beside 8 tokens
constexpr int kTokens = 8;
constexpr int kBlockTokens = 6;  // beside which a float sum fits as well for every integer one
constexpr size_t kStreamed = 4;  // up to so many tokens, decode in registers

struct Bytes {
  __m512i v;
};
struct Ints {
  __m512i v;
};
struct Floats {
  __m512 v;
};

static inline Bytes load_bytes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
static inline void store_bytes(uint8_t* p, Bytes x) { _mm512_storeu_si512(p, x.v); }
static inline Bytes operator|(Bytes a, Bytes b) { return {_mm512_or_si512(a.v, b.v)}; }
template <uint8_t mask>
static inline Bytes masked(Bytes x) {
  return {_mm512_and_si512(x.v, _mm512_set1_epi8(static_cast<char>(mask)))};
}
// Shifts of 16-bit units: bits that cross into the neighbouring byte are masked away by the caller.
template <int n>
static inline Bytes shifted(Bytes x) {
  if constexpr (n > 0) return {_mm512_srli_epi16(x.v, n)};
  else if constexpr (n < 0) return {_mm512_slli_epi16(x.v, -n)};
  else return x;
}
struct ByteTable {
  __m512i v;
};
static inline ByteTable load_table(const uint8_t* p) {
  return {_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
static inline Bytes look_up(ByteTable t, Bytes code) { return {_mm512_shuffle_epi8(t.v, code.v)}; }
// Digit d of c = d0 + 3·d1 + 9·d2 by a permutation of 64 bytes, or by two tables of 16 and bit 4.
#if defined(__AVX512VBMI__)
struct TripleTable {
  __m512i v[3];
};
static inline TripleTable load_triples() {
  return {{load_bytes(kTriples[0]).v, load_bytes(kTriples[1]).v, load_bytes(kTriples[2]).v}};
}
template <int d>
static inline Bytes digit(const TripleTable& t, Bytes c) {
  return {_mm512_permutexvar_epi8(c.v, t.v[d])};
}
#else
struct TripleTable {
  ByteTable low[3], high[3];
};
template <int d>
static inline Bytes digit(const TripleTable& t, Bytes c) {
  return {_mm512_mask_mov_epi8(look_up(t.low[d], c).v, _mm512_movepi8_mask(_mm512_slli_epi16(c.v, 3)),
                               look_up(t.high[d], c).v)};
}
#endif

static inline Ints ints(int32_t x) { return {_mm512_set1_epi32(x)}; }
static inline Ints operator+(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
static inline Ints times_256(Ints x) { return {_mm512_slli_epi32(x.v, 8)}; }
static inline Floats to_float(Ints x) { return {_mm512_cvtepi32_ps(x.v)}; }
static inline Ints rounded(Floats x) { return {_mm512_cvtps_epi32(x.v)}; }
static inline int32_t sum_of(Ints x) { return _mm512_reduce_add_epi32(x.v); }
static inline void store_int8(int8_t* p, Ints x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x.v));
}
static inline Ints magnitude_bits(Floats x) {
  return {_mm512_and_si512(_mm512_castps_si512(x.v), _mm512_set1_epi32(0x7fffffff))};
}
static inline Ints max_of(Ints a, Ints b) { return {_mm512_max_epi32(a.v, b.v)}; }
static inline int32_t largest_of(Ints x) { return _mm512_reduce_max_epi32(x.v); }

static inline Floats floats(float x) { return {_mm512_set1_ps(x)}; }
static inline Floats load_floats(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline void store_floats(float* p, Floats x) { _mm512_storeu_ps(p, x.v); }
static inline Floats load_halves(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
static inline Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// Byte i of each lane as a float, and four bits of it as an index into 16 floats.
template <int i>
static inline Floats byte_float(Bytes x) {
  return {_mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(x.v, 8 * i), _mm512_set1_epi32(255)))};
}
struct FloatTable {
  __m512 v;
};
static inline FloatTable load_table(const float* p) { return {_mm512_loadu_ps(p)}; }
// The four bits of byte i from `bit` on.
constexpr bool kLooksUpFourBits = true;
template <int i, int bit>
static inline Floats look_up(const FloatTable& t, Bytes x) {
  return {_mm512_permutexvar_ps(_mm512_srli_epi32(x.v, 8 * i + bit), t.v)};
}
#if defined(__AVX512VNNI__)
template <int bits>
static inline Ints dot(Ints sum, Bytes w, int32_t a) {
  return {_mm512_dpbusd_epi32(sum.v, w.v, _mm512_set1_epi32(a))};
}
#else
static inline __m512i pairs(__m512i w, __m512i a) {
  return _mm512_madd_epi16(_mm512_maddubs_epi16(w, a), _mm512_set1_epi16(1));
}
template <int bits>
static inline Ints dot(Ints sum, Bytes w, int32_t a) {
  const __m512i x = _mm512_set1_epi32(a);
  if constexpr (bits < 8) return {_mm512_add_epi32(sum.v, pairs(w.v, x))};
  // 2 · 255 · 127 does not fit in 16 bits, 2 · 127 · 127 and 2 · 128 · 127 do: the top bit goes apart.
  return {_mm512_add_epi32(sum.v, _mm512_add_epi32(pairs(masked<127>(w).v, x), pairs(masked<128>(w).v, x)))};
}
#endif

#elif defined(__AVX2__)

constexpr int kTilesAtOnce = 1;
constexpr int kTokens = 4;
constexpr int kBlockTokens = 4;
constexpr size_t kStreamed = 2;

struct Bytes {
  __m256i v[2];
};
struct Ints {
  __m256i v[2];
};
struct Floats {
  __m256 v[2];
};

static inline __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
static inline Bytes load_bytes(const uint8_t* p) { return {{load256(p), load256(p + 32)}}; }
static inline void store_bytes(uint8_t* p, Bytes x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.v[0]);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), x.v[1]);
}
static inline Bytes operator|(Bytes a, Bytes b) {
  return {{_mm256_or_si256(a.v[0], b.v[0]), _mm256_or_si256(a.v[1], b.v[1])}};
}
template <uint8_t mask>
static inline Bytes masked(Bytes x) {
  const __m256i m = _mm256_set1_epi8(static_cast<char>(mask));
  return {{_mm256_and_si256(x.v[0], m), _mm256_and_si256(x.v[1], m)}};
}
template <int n>
static inline Bytes shifted(Bytes x) {
  if constexpr (n > 0) return {{_mm256_srli_epi16(x.v[0], n), _mm256_srli_epi16(x.v[1], n)}};
  else if constexpr (n < 0) return {{_mm256_slli_epi16(x.v[0], -n), _mm256_slli_epi16(x.v[1], -n)}};
  else return x;
}
struct ByteTable {
  __m256i v;
};
static inline ByteTable load_table(const uint8_t* p) {
  return {_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
static inline Bytes look_up(ByteTable t, Bytes code) {
  return {{_mm256_shuffle_epi8(t.v, code.v[0]), _mm256_shuffle_epi8(t.v, code.v[1])}};
}
struct TripleTable {
  ByteTable low[3], high[3];
};
template <int d>
static inline Bytes digit(const TripleTable& t, Bytes c) {  // by two tables of 16 and bit 4
  const Bytes low = look_up(t.low[d], c), high = look_up(t.high[d], c);
  return {{_mm256_blendv_epi8(low.v[0], high.v[0], _mm256_slli_epi16(c.v[0], 3)),
           _mm256_blendv_epi8(low.v[1], high.v[1], _mm256_slli_epi16(c.v[1], 3))}};
}

static inline Ints ints(int32_t x) { return {{_mm256_set1_epi32(x), _mm256_set1_epi32(x)}}; }
static inline Ints operator+(Ints a, Ints b) {
  return {{_mm256_add_epi32(a.v[0], b.v[0]), _mm256_add_epi32(a.v[1], b.v[1])}};
}
static inline Ints times_256(Ints x) { return {{_mm256_slli_epi32(x.v[0], 8), _mm256_slli_epi32(x.v[1], 8)}}; }
static inline Floats to_float(Ints x) { return {{_mm256_cvtepi32_ps(x.v[0]), _mm256_cvtepi32_ps(x.v[1])}}; }
static inline Ints rounded(Floats x) { return {{_mm256_cvtps_epi32(x.v[0]), _mm256_cvtps_epi32(x.v[1])}}; }
static inline int32_t sum_of(Ints x) {
  __m256i s = _mm256_add_epi32(x.v[0], x.v[1]);
  __m128i t = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
  t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1)));
}
static inline void store_int8(int8_t* p, Ints x) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.v[0], x.v[1]), 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
static inline Ints magnitude_bits(Floats x) {
  const __m256i m = _mm256_set1_epi32(0x7fffffff);
  return {{_mm256_and_si256(_mm256_castps_si256(x.v[0]), m), _mm256_and_si256(_mm256_castps_si256(x.v[1]), m)}};
}
static inline Ints max_of(Ints a, Ints b) {
  return {{_mm256_max_epi32(a.v[0], b.v[0]), _mm256_max_epi32(a.v[1], b.v[1])}};
}
static inline int32_t largest_of(Ints x) {
  const __m256i s = _mm256_max_epi32(x.v[0], x.v[1]);
  __m128i t = _mm_max_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
  t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(t, _mm_shuffle_epi32(t, 0xb1)));
}

static inline Floats floats(float x) { return {{_mm256_set1_ps(x), _mm256_set1_ps(x)}}; }
static inline Floats load_floats(const float* p) { return {{_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}}; }
static inline void store_floats(float* p, Floats x) { _mm256_storeu_ps(p, x.v[0]), _mm256_storeu_ps(p + 8, x.v[1]); }
static inline Floats load_halves(const uint16_t* p) {
  const __m128i* h = reinterpret_cast<const __m128i*>(p);
  return {{_mm256_cvtph_ps(_mm_loadu_si128(h)), _mm256_cvtph_ps(_mm_loadu_si128(h + 1))}};
}
static inline Floats operator*(Floats a, Floats b) {
  return {{_mm256_mul_ps(a.v[0], b.v[0]), _mm256_mul_ps(a.v[1], b.v[1])}};
}
static inline Floats operator+(Floats a, Floats b) {
  return {{_mm256_add_ps(a.v[0], b.v[0]), _mm256_add_ps(a.v[1], b.v[1])}};
}
static inline Floats operator-(Floats a, Floats b) {
  return {{_mm256_sub_ps(a.v[0], b.v[0]), _mm256_sub_ps(a.v[1], b.v[1])}};
}
static inline Floats fma(Floats a, Floats b, Floats c) {
  return {{_mm256_fmadd_ps(a.v[0], b.v[0], c.v[0]), _mm256_fmadd_ps(a.v[1], b.v[1], c.v[1])}};
}
template <int i>
static inline __m256i byte_index(__m256i x) {
  return _mm256_and_si256(_mm256_srli_epi32(x, 8 * i), _mm256_set1_epi32(255));
}
template <int i>
static inline Floats byte_float(Bytes x) {
  return {{_mm256_cvtepi32_ps(byte_index<i>(x.v[0])), _mm256_cvtepi32_ps(byte_index<i>(x.v[1]))}};
}
struct FloatTable {
  __m256 low, high;
};
static inline FloatTable load_table(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline __m256 look_up_half(const FloatTable& t, __m256i index) {  // bit 3 chooses the half of the table
  const __m256 high = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(t.low, index), _mm256_permutevar8x32_ps(t.high, index), high);
}
constexpr bool kLooksUpFourBits = true;
template <int i, int bit>
static inline Floats look_up(const FloatTable& t, Bytes x) {
  return {{look_up_half(t, _mm256_srli_epi32(x.v[0], 8 * i + bit)),
           look_up_half(t, _mm256_srli_epi32(x.v[1], 8 * i + bit))}};
}
#if defined(__AVXVNNI__)
template <int bits>
static inline Ints dot(Ints sum, Bytes w, int32_t a) {
  const __m256i x = _mm256_set1_epi32(a);
  return {{_mm256_dpbusd_avx_epi32(sum.v[0], w.v[0], x), _mm256_dpbusd_avx_epi32(sum.v[1], w.v[1], x)}};
}
#else
static inline __m256i pairs(__m256i w, __m256i a) {
  return _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1));
}
template <int bits>
static inline Ints dot(Ints sum, Bytes w, int32_t a) {
  const __m256i x = _mm256_set1_epi32(a);
  if constexpr (bits < 8)
    return {{_mm256_add_epi32(sum.v[0], pairs(w.v[0], x)), _mm256_add_epi32(sum.v[1], pairs(w.v[1], x))}};
  // 2 · 255 · 127 does not fit in 16 bits, 2 · 127 · 127 and 2 · 128 · 127 do: the top bit goes apart.
  const Bytes low = masked<127>(w), top = masked<128>(w);
  return {{_mm256_add_epi32(sum.v[0], _mm256_add_epi32(pairs(low.v[0], x), pairs(top.v[0], x))),
           _mm256_add_epi32(sum.v[1], _mm256_add_epi32(pairs(low.v[1], x), pairs(top.v[1], x)))}};
}
#endif

#elif defined(__ARM_FEATURE_DOTPROD)
#include "lanes_neon.h"
#else
#include "lanes_portable.h"
#endif

#if defined(__AVX2__) && !defined(__AVX512VBMI__)
static inline TripleTable load_triples() {
  TripleTable t;
  for (int d = 0; d < 3; ++d) t.low[d] = load_table(kTriples[d]), t.high[d] = load_table(kTriples[d] + 16);
  return t;
}
#endif

// Signed bytes of a weight with unsigned ones of X: where the instruction takes the two the other way round as well.
#if defined(__AVX512VNNI__)
constexpr bool kSignedBytes = true;
static inline Bytes all_bytes(int8_t x) { return {_mm512_set1_epi8(x)}; }
static inline Bytes operator-(Bytes a, Bytes b) { return {_mm512_sub_epi8(a.v, b.v)}; }
static inline Ints dot_signed(Ints sum, Bytes w, int32_t a) {
  return {_mm512_dpbusd_epi32(sum.v, _mm512_set1_epi32(a), w.v)};
}
#elif defined(__AVXVNNI__)
constexpr bool kSignedBytes = true;
static inline Bytes all_bytes(int8_t x) { return {{_mm256_set1_epi8(x), _mm256_set1_epi8(x)}}; }
static inline Bytes operator-(Bytes a, Bytes b) {
  return {{_mm256_sub_epi8(a.v[0], b.v[0]), _mm256_sub_epi8(a.v[1], b.v[1])}};
}
static inline Ints dot_signed(Ints sum, Bytes w, int32_t a) {
  const __m256i x = _mm256_set1_epi32(a);
  return {{_mm256_dpbusd_avx_epi32(sum.v[0], x, w.v[0]), _mm256_dpbusd_avx_epi32(sum.v[1], x, w.v[1])}};
}
#else
constexpr bool kSignedBytes = false;
Bytes all_bytes(int8_t x);  // these three are named in code that is thrown away
Bytes operator-(const Bytes& a, const Bytes& b);
Ints dot_signed(const Ints& sum, const Bytes& w, int32_t a);
#endif

}  // namespace qonnx::cpu::QONNX_TIER
