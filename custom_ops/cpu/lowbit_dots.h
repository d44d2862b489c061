// Sums of a decoded run of weights with a few rows of X, for the kernels of a tier.
//
//   sum_group     dots[m][t] = start[m] + Σ_k x[k, m] · w[k, tile t]   of bytes; w as [k / 4][tile 2][64], x as [k / 4][row][4]
//   add_products  sums[m][n] += Σ_k x[k, m] · w[k, n]                  of floats; w as [k][32], x as [k][row]
#pragma once

#include "lowbit_decode.h"

namespace qonnx::cpu::QONNX_TIER {

template <int value_bits, int tokens, int tiles>
static inline void sum_group(const uint8_t* w, const int8_t* x, size_t units, const int32_t* start,
                             Ints (&dots)[tokens][tiles]) {
#pragma GCC unroll 8
  for (int m = 0; m < tokens; ++m)
#pragma GCC unroll 2
    for (int t = 0; t < tiles; ++t) dots[m][t] = ints(start[m]);
  for (size_t u = 0; u < units; ++u, w += 8 * kLine, x += kUnit * tokens) {
    // Unrolled: compilers copy every accumulator once an iteration.
#pragma GCC unroll 8
    for (int s = 0; s < 8; ++s) {
      Bytes step[tiles];
#pragma GCC unroll 2
      for (int t = 0; t < tiles; ++t) step[t] = load_bytes(w + s * kLine + 64 * t);
#pragma GCC unroll 8
      for (int m = 0; m < tokens; ++m) {
        const int32_t four = four_bytes(x + 4 * (s * tokens + m));
#pragma GCC unroll 2
        for (int t = 0; t < tiles; ++t) dots[m][t] = dot<value_bits>(dots[m][t], step[t], four);
      }
    }
  }
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

// Eight rows and both tiles, written out: compilers copy most of the sixteen sums once an iteration, which costs a
// seventh of the instructions, and a core that two threads share runs short of those, not of multipliers. Two rows come
// straight from memory: one instruction less each, for one load more. A step reads 128 bytes of w and 32 of x.
#define QONNX_ROW(product, step, m, four)                      \
  "vpbroadcastd 32*" #step "+4*" #m "(%[x]), %[" four "]\n\t" \
  product " %[" four "], %[first], %[a" #m "]\n\t"            \
  product " %[" four "], %[second], %[b" #m "]\n\t"
#define QONNX_ROW_OF_MEMORY(product, step, m)                                 \
  product " 32*" #step "+4*" #m "(%[x])%{1to16%}, %[first], %[a" #m "]\n\t"  \
  product " 32*" #step "+4*" #m "(%[x])%{1to16%}, %[second], %[b" #m "]\n\t"
#define QONNX_STEP(product, step)                                                                                  \
  "vmovdqu64 128*" #step "(%[w]), %[first]\n\tvmovdqu64 128*" #step "+64(%[w]), %[second]\n\t"                    \
  QONNX_ROW(product, step, 0, "even") QONNX_ROW_OF_MEMORY(product, step, 1) QONNX_ROW(product, step, 2, "odd")     \
  QONNX_ROW(product, step, 3, "even") QONNX_ROW(product, step, 4, "odd") QONNX_ROW_OF_MEMORY(product, step, 5)     \
  QONNX_ROW(product, step, 6, "even") QONNX_ROW(product, step, 7, "odd")
#define QONNX_EIGHT_STEPS(product)                                                                                 \
  "1:\n\t" QONNX_STEP(product, 0) QONNX_STEP(product, 1) QONNX_STEP(product, 2) QONNX_STEP(product, 3)             \
  QONNX_STEP(product, 4) QONNX_STEP(product, 5) QONNX_STEP(product, 6) QONNX_STEP(product, 7)                      \
  "add $1024, %[w]\n\tadd $256, %[x]\n\tdec %[eights]\n\tjnz 1b\n\t"
#define QONNX_EIGHT_ROWS(row) row(0) row(1) row(2) row(3) row(4) row(5) row(6) row(7)
#define QONNX_SUM(m) [a##m] "=&v"(dots[m][0].v), [b##m] "=&v"(dots[m][1].v)
#define QONNX_OPERANDS()                                                                                 \
  QONNX_SUM(0), QONNX_SUM(1), QONNX_SUM(2), QONNX_SUM(3), QONNX_SUM(4), QONNX_SUM(5), QONNX_SUM(6),        \
      QONNX_SUM(7), [first] "=&v"(first), [second] "=&v"(second), [even] "=&v"(even), [odd] "=&v"(odd),   \
      [w] "+r"(w), [x] "+r"(x), [eights] "+r"(eights)

template <>
inline void add_products<8>(const float* w, size_t length, int, const float* x, float* sums) {
  size_t eights = length / 8;
  Floats dots[8][2];
  __m512 first, second, even, odd;
#define QONNX_LOAD(m) "vmovups 128*" #m "(%[sums]), %[a" #m "]\n\tvmovups 128*" #m "+64(%[sums]), %[b" #m "]\n\t"
#define QONNX_STORE(m) "vmovups %[a" #m "], 128*" #m "(%[sums])\n\tvmovups %[b" #m "], 128*" #m "+64(%[sums])\n\t"
  asm volatile(QONNX_EIGHT_ROWS(QONNX_LOAD) QONNX_EIGHT_STEPS("vfmadd231ps") QONNX_EIGHT_ROWS(QONNX_STORE)
               : QONNX_OPERANDS()
               : [sums] "r"(sums)
               : "memory", "cc");
#undef QONNX_LOAD
#undef QONNX_STORE
}

#if defined(__AVX512VNNI__)
template <int value_bits>
__attribute__((always_inline)) static inline void sum_group(const uint8_t* w, const int8_t* x, size_t eights,
                                                            const int32_t* start, Ints (&dots)[8][2]) {
  __m512i first, second, even, odd;
#define QONNX_START(m) "vpbroadcastd 4*" #m "(%[start]), %[a" #m "]\n\tvmovdqa64 %[a" #m "], %[b" #m "]\n\t"
  asm volatile(QONNX_EIGHT_ROWS(QONNX_START) QONNX_EIGHT_STEPS("vpdpbusd")
               : QONNX_OPERANDS()
               : [start] "r"(start)
               : "memory", "cc");
#undef QONNX_START
}
#endif

#undef QONNX_ROW
#undef QONNX_ROW_OF_MEMORY
#undef QONNX_STEP
#undef QONNX_EIGHT_STEPS
#undef QONNX_EIGHT_ROWS
#undef QONNX_SUM
#undef QONNX_OPERANDS
#endif

}  // namespace qonnx::cpu::QONNX_TIER
