// Sums of a decoded run of weights with a few rows of X, for the kernels of a tier.
//
//   add_group     dots[m][t] += Σ_k x[k, m] · w[k, tile t]   of bytes; w as [k / 4][tile 2][64], x as [k / 4][row][4]
//   add_products  sums[m][n] += Σ_k x[k, m] · w[k, n]        of floats; w as [k][32], x as [k][row]
//
// Bytes of w are unsigned and those of x signed, or, with `less_zero`, the other way round.
#pragma once

#include "lowbit_decode.h"

namespace qonnx::cpu::QONNX_TIER {

// Four bytes of each column of `tiles`, of which `w` holds a line each, with those of every row.
template <int value_bits, bool less_zero, int tokens, int tiles>
__attribute__((always_inline)) static inline void add_four(const uint8_t* w, const int8_t* x,
                                                           Ints (&dots)[tokens][tiles]) {
  Bytes step[tiles];
#pragma GCC unroll 2
  for (int t = 0; t < tiles; ++t) step[t] = load_bytes(w + 64 * t);
#pragma GCC unroll 8
  for (int m = 0; m < tokens; ++m) {
    const int32_t four = four_bytes(x + 4 * m);
#pragma GCC unroll 2
    for (int t = 0; t < tiles; ++t) {
      if constexpr (less_zero) dots[m][t] = dot_signed(dots[m][t], step[t], four);
      else dots[m][t] = dot<value_bits>(dots[m][t], step[t], four);
    }
  }
}

template <int value_bits, bool less_zero, int tokens, int tiles>
__attribute__((always_inline)) static inline void add_group(const uint8_t* w, const int8_t* x, size_t units,
                                                            Ints (&dots)[tokens][tiles]) {
  for (size_t u = 0; u < units; ++u, w += 8 * kLine, x += kUnit * tokens) {
    // Unrolled: compilers copy every accumulator once an iteration.
#pragma GCC unroll 8
    for (int s = 0; s < 8; ++s) add_four<value_bits, less_zero>(w + s * kLine, x + 4 * s * tokens, dots);
  }
}

// The same for the first half of one unit.
template <int value_bits, int tokens, int tiles>
__attribute__((always_inline)) static inline void add_half_unit(const uint8_t* w, const int8_t* x,
                                                                Ints (&dots)[tokens][tiles]) {
#pragma GCC unroll 4
  for (int s = 0; s < 4; ++s) add_four<value_bits, false>(w + s * kLine, x + 4 * s * tokens, dots);
}

// The next rows' part of X: too far from this one's end for the hardware to see it coming.
static inline void prefetch_next_rows(const int8_t* x, size_t row_bytes, size_t part) {
  for (size_t i = 0; i < part; i += 64) prefetch(x + row_bytes + i);
}

// Tiles [tile, tile + kTilesAtOnce) of the 32 outputs; `length` is a multiple of 8.
template <int tokens>
static inline void add_products(const float* w, size_t length, int tile, const float* x, float* sums) {
  constexpr int tiles = kTilesAtOnce;
  w += kTile * static_cast<size_t>(tile), sums += kTile * static_cast<size_t>(tile);
  Floats sum[tokens][tiles];
#pragma GCC unroll 8
  for (int m = 0; m < tokens; ++m)
#pragma GCC unroll 2
    for (int t = 0; t < tiles; ++t)
      sum[m][t] = load_floats(sums + static_cast<size_t>(m) * kPanel + kTile * static_cast<size_t>(t));
  for (size_t k = 0; k < length; k += 8, w += 8 * kPanel) {
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; ++i) {
      Floats step[tiles];
#pragma GCC unroll 2
      for (int t = 0; t < tiles; ++t) step[t] = load_floats(w + i * kPanel + kTile * static_cast<size_t>(t));
#pragma GCC unroll 8
      for (int m = 0; m < tokens; ++m) {
        const Floats value = floats(x[(k + i) * tokens + static_cast<size_t>(m)]);
#pragma GCC unroll 2
        for (int t = 0; t < tiles; ++t) sum[m][t] = fma(step[t], value, sum[m][t]);
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < tokens; ++m)
#pragma GCC unroll 2
    for (int t = 0; t < tiles; ++t)
      store_floats(sums + static_cast<size_t>(m) * kPanel + kTile * static_cast<size_t>(t), sum[m][t]);
}

#if defined(__AVX512F__) && defined(__GNUC__)

// Six or eight rows and both tiles, written out: compilers copy most of the sums once an iteration and spill some, which
// costs a third of the speed. A step reads 128 bytes of w and 4 · rows of x. Some rows come straight from memory: an
// instruction less each, for a load more; a core that two threads share runs short of instructions.
#define QONNX_ROW(product, rows, step, m, four)                           \
  "vpbroadcastd 4*(" #rows "*" #step "+" #m ")(%[x]), %%" four "\n\t" \
  product " %%" four ", %%zmm16, %[a" #m "]\n\t"                       \
  product " %%" four ", %%zmm17, %[b" #m "]\n\t"
#define QONNX_ROW_OF_MEMORY(product, rows, step, m)                                          \
  product " 4*(" #rows "*" #step "+" #m ")(%[x])%{1to16%}, %%zmm16, %[a" #m "]\n\t"      \
  product " 4*(" #rows "*" #step "+" #m ")(%[x])%{1to16%}, %%zmm17, %[b" #m "]\n\t"
#define QONNX_ROW_SIGNED(product, rows, step, m, four)                    \
  "vpbroadcastd 4*(" #rows "*" #step "+" #m ")(%[x]), %%" four "\n\t" \
  product " %%zmm16, %%" four ", %[a" #m "]\n\t"                       \
  product " %%zmm17, %%" four ", %[b" #m "]\n\t"
#define QONNX_TILES(step) \
  "vmovdqu64 128*" #step "(%[w]), %%zmm16\n\tvmovdqu64 128*" #step "+64(%[w]), %%zmm17\n\t"
#define QONNX_SIX(product, step)                                                                            \
  QONNX_TILES(step) QONNX_ROW(product, 6, step, 0, "zmm18") QONNX_ROW_OF_MEMORY(product, 6, step, 1)         \
  QONNX_ROW(product, 6, step, 2, "zmm19") QONNX_ROW(product, 6, step, 3, "zmm18")                              \
  QONNX_ROW_OF_MEMORY(product, 6, step, 4) QONNX_ROW(product, 6, step, 5, "zmm19")
#define QONNX_SIX_SIGNED(product, step)                                                                     \
  QONNX_TILES(step) QONNX_ROW_SIGNED(product, 6, step, 0, "zmm18") QONNX_ROW_SIGNED(product, 6, step, 1, "zmm19") \
  QONNX_ROW_SIGNED(product, 6, step, 2, "zmm18") QONNX_ROW_SIGNED(product, 6, step, 3, "zmm19")                \
  QONNX_ROW_SIGNED(product, 6, step, 4, "zmm18") QONNX_ROW_SIGNED(product, 6, step, 5, "zmm19")
#define QONNX_EIGHT(product, step)                                                                          \
  QONNX_TILES(step) QONNX_ROW(product, 8, step, 0, "zmm18") QONNX_ROW_OF_MEMORY(product, 8, step, 1)         \
  QONNX_ROW(product, 8, step, 2, "zmm19") QONNX_ROW(product, 8, step, 3, "zmm18")                              \
  QONNX_ROW(product, 8, step, 4, "zmm19") QONNX_ROW_OF_MEMORY(product, 8, step, 5)                            \
  QONNX_ROW(product, 8, step, 6, "zmm18") QONNX_ROW(product, 8, step, 7, "zmm19")
#define QONNX_UNITS(one, product, rows)                                                                     \
  "1:\n\t" one(product, 0) one(product, 1) one(product, 2) one(product, 3) one(product, 4) one(product, 5)  \
  one(product, 6) one(product, 7) "add $1024, %[w]\n\tadd $32*" #rows ", %[x]\n\tdec %[units]\n\tjnz 1b\n\t"
#define QONNX_SUM(constraint, m) [a##m] constraint(dots[m][0].v), [b##m] constraint(dots[m][1].v)
#define QONNX_SUMS(constraint)                                                                          \
  QONNX_SUM(constraint, 0), QONNX_SUM(constraint, 1), QONNX_SUM(constraint, 2), QONNX_SUM(constraint, 3), \
      QONNX_SUM(constraint, 4), QONNX_SUM(constraint, 5)
// Four registers by name: compilers take no more than thirty operands, and "+" counts twice.
#define QONNX_POINTERS [w] "+r"(w), [x] "+r"(x), [units] "+r"(units)
#define QONNX_CLOBBERS "xmm16", "xmm17", "xmm18", "xmm19", "memory", "cc"
#define QONNX_EIGHT_ROWS(row) row(0) row(1) row(2) row(3) row(4) row(5) row(6) row(7)

template <>
inline void add_products<8>(const float* w, size_t length, int, const float* x, float* sums) {
  size_t units = length / 8;
  Floats dots[8][2];
#define QONNX_LOAD(m) "vmovups 128*" #m "(%[sums]), %[a" #m "]\n\tvmovups 128*" #m "+64(%[sums]), %[b" #m "]\n\t"
#define QONNX_STORE(m) "vmovups %[a" #m "], 128*" #m "(%[sums])\n\tvmovups %[b" #m "], 128*" #m "+64(%[sums])\n\t"
  asm volatile(QONNX_EIGHT_ROWS(QONNX_LOAD) QONNX_UNITS(QONNX_EIGHT, "vfmadd231ps", 8) QONNX_EIGHT_ROWS(QONNX_STORE)
               : QONNX_SUMS("=&v"), QONNX_SUM("=&v", 6), QONNX_SUM("=&v", 7), QONNX_POINTERS
               : [sums] "r"(sums)
               : QONNX_CLOBBERS);
#undef QONNX_LOAD
#undef QONNX_STORE
}

#if defined(__AVX512VNNI__)
template <int value_bits, bool less_zero>
__attribute__((always_inline)) static inline void add_group(const uint8_t* w, const int8_t* x, size_t units,
                                                            Ints (&dots)[6][2]) {
  if constexpr (less_zero)
    asm(QONNX_UNITS(QONNX_SIX_SIGNED, "vpdpbusd", 6) : QONNX_SUMS("+v"), QONNX_POINTERS : : QONNX_CLOBBERS);
  else
    asm(QONNX_UNITS(QONNX_SIX, "vpdpbusd", 6) : QONNX_SUMS("+v"), QONNX_POINTERS : : QONNX_CLOBBERS);
}

template <int value_bits>
__attribute__((always_inline)) static inline void add_half_unit(const uint8_t* w, const int8_t* x, Ints (&dots)[6][2]) {
  asm(QONNX_SIX("vpdpbusd", 0) QONNX_SIX("vpdpbusd", 1) QONNX_SIX("vpdpbusd", 2) QONNX_SIX("vpdpbusd", 3)
      : QONNX_SUMS("+v")
      : [w] "r"(w), [x] "r"(x)
      : QONNX_CLOBBERS);
}

template <int value_bits, bool less_zero>
__attribute__((always_inline)) static inline void add_group(const uint8_t* w, const int8_t* x, size_t units,
                                                            Ints (&sums)[8][2]) {
  static_assert(!less_zero);
  Ints dots[8][2];
#define QONNX_NOTHING(m) "vpxord %[a" #m "], %[a" #m "], %[a" #m "]\n\tvpxord %[b" #m "], %[b" #m "], %[b" #m "]\n\t"
  asm(QONNX_EIGHT_ROWS(QONNX_NOTHING) QONNX_UNITS(QONNX_EIGHT, "vpdpbusd", 8)
      : QONNX_SUMS("=&v"), QONNX_SUM("=&v", 6), QONNX_SUM("=&v", 7), QONNX_POINTERS
      :
      : QONNX_CLOBBERS);
#undef QONNX_NOTHING
#pragma GCC unroll 8
  for (int m = 0; m < 8; ++m)
    for (int t = 0; t < 2; ++t) sums[m][t] = sums[m][t] + dots[m][t];
}
#endif

#undef QONNX_ROW
#undef QONNX_ROW_OF_MEMORY
#undef QONNX_ROW_SIGNED
#undef QONNX_TILES
#undef QONNX_SIX
#undef QONNX_SIX_SIGNED
#undef QONNX_EIGHT
#undef QONNX_UNITS
#undef QONNX_SUM
#undef QONNX_SUMS
#undef QONNX_POINTERS
#undef QONNX_CLOBBERS
#undef QONNX_EIGHT_ROWS
#endif

}  // namespace qonnx::cpu::QONNX_TIER
