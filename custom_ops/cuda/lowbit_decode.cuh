// Low-bit codes of a unit to A operands of the tensor cores, in registers.
//
// A thread holds `bits` words of a unit (16 rows, 64 columns): 32 codes. With g = lane / 4, t = lane % 4, register
// r = 4 · step + j of the operands belongs to row g + 8 (j % 2) and, for float16 and bfloat16, columns
// 16 step + 2t + 8 (j / 2) + h of h = 0, 1; for int8, columns 32 step + 4t + 16 (j / 2) + i of i = 0 … 3.
// The bits of a code are split over planes of 4, 2 and 1 bits (8 bits: one plane), each with the codes of a register at
// one place of all halves (bytes), so that a shift and a mask give the register's codes:
//   float: 4 bits: word r / 4 at 4 (r % 4); 2 bits: word r / 8 at 2 (r % 8); 1 bit: at r; 8 bits: word r / 2 at 8 (r % 2)
//   int8:  4 bits: word r / 2 at 4 (r % 2) (alone: with the highest bit flipped, a signed nibble); 2 bits: word r / 4 at 2 (r % 4); 1 bit: at r; 8 bits: word r
// A code in the low bits of 1024 (float16) or 128 (bfloat16) is that number plus the code: one fused multiply-add takes
// it off again, with the zero point. Codes that index a table lie four to 16 bits, the selectors of byte permutations:
//   float: word r / 4 at 16 (j / 2) + 8 (j % 2) + 4h; int8: word r / 2 at 16 (r % 2) + 4i
#pragma once

#include "lowbit_pack.h"
#include "numbers.cuh"

namespace qonnx::cuda {

QONNX_DEVICE uint32_t masked_or(uint32_t a, uint32_t mask, uint32_t bits) { return lop3<0xea>(a, mask, bits); }

// Bytes of a table of sixteen for the four codes in the low half of q.
QONNX_DEVICE uint32_t look_up(const uint32_t* table, uint32_t q) {
  const uint32_t place = q & 0x7777, half = masked_or(q >> 1, 0x4444, 0x3210);
  return permute_bytes(permute_bytes(table[0], table[1], place), permute_bytes(table[2], table[3], place), half);
}

template <int bits_, bool table_, Math math_>
struct LowBitCodes {
  static constexpr Math math = math_;
  static constexpr int bits = bits_, bytes = 128 * bits;  // of a unit
  static constexpr int four = bits < 8 ? bits & 4 : 0, two = bits < 8 ? bits & 2 : 0, one = bits & 1;
  static constexpr bool multiplied_once = !table_ || math == Math::int8;  // not a plane after the other
  using Values = LowBitValues;

  uint32_t words[bits];

  // Each plane is an array of one vector a thread.
  QONNX_DEVICE_MEMBER void load(const char* unit) {
    const int lane = threadIdx.x % 32;
    if constexpr (bits == 8 || four) {
      const auto* quads = reinterpret_cast<const uint4*>(unit);
#pragma unroll
      for (int i = 0; i < (bits == 8 ? 2 : 1); ++i) {
        const uint4 quad = quads[32 * i + lane];
        words[4 * i] = quad.x, words[4 * i + 1] = quad.y, words[4 * i + 2] = quad.z, words[4 * i + 3] = quad.w;
      }
    }
    if constexpr (two != 0) {
      const uint2 pair = reinterpret_cast<const uint2*>(unit + four * 128)[lane];
      words[four] = pair.x, words[four + 1] = pair.y;
    }
    if constexpr (one != 0) words[four + two] = reinterpret_cast<const uint32_t*>(unit + (four + two) * 128)[lane];
  }

  // The codes of register r, in halves or bytes.
  template <int count>
  QONNX_DEVICE_MEMBER uint32_t codes(int r) const {
    constexpr uint32_t all = count == 2 ? 0x00010001 : 0x01010101;
    if constexpr (bits == 8) return count == 2 ? words[r / 2] >> 8 * (r % 2) & 0x00ff00ff : words[r];
    constexpr int per_four = count == 2 ? 4 : 2, per_two = 2 * per_four;
    uint32_t code = 0;
    if constexpr (four != 0) code = words[r / per_four] >> 4 * (r % per_four) & 15 * all;
    if constexpr (two != 0) {
      const uint32_t word = words[four + r / per_two];
      const int at = 2 * (r % per_two) - four;  // the codes' own place is above the four bits
      code = masked_or(at >= 0 ? word >> (at & 31) : word << (-at & 31), (3u << four) * all, code);
    }
    if constexpr (one != 0) {
      const int at = r - four - two;
      code = masked_or(at >= 0 ? words[four + two] >> (at & 31) : words[four + two] << (-at & 31),
                       (1u << (four + two)) * all, code);
    }
    return code;
  }

  // use(tile, i, a) for the operand of step + i of each tile; with a table, for each of its planes.
  static constexpr int steps_at_once = 1;
  template <int tiles, class Use>
  QONNX_DEVICE_MEMBER static void fragments(const LowBitCodes (&codes)[tiles], int step, const Values& values,
                                            const char*, Use use) {
#pragma unroll
    for (int tile = 0; tile < tiles; ++tile)
      codes[tile].fragment(step, values, [&](const uint32_t(&a)[4]) { use(tile, 0, a); });
  }

  // Nothing in shared memory but the codes.
  QONNX_BOTH static int shared_bytes(const Values&) { return 0; }
  QONNX_DEVICE_MEMBER static void set_up(const Values&, char*, int) {}

  template <class Use>
  QONNX_DEVICE_MEMBER void fragment(int step, const Values& values, Use use) const {
    uint32_t a[4];
    if constexpr (table_) {
#pragma unroll
      for (int plane = 0; plane < (math == Math::int8 ? 1 : kMostPlanes); ++plane) {
        if (plane && plane >= values.planes) break;
        from_table(step, values.table[plane], a);
        use(a);
      }
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) a[j] = number(step, j, values);
#if FAULT(lowbit_swapped_fragments)
      const uint32_t second = a[1];
      a[1] = a[2], a[2] = second;
#endif
      use(a);
    }
  }

  QONNX_DEVICE_MEMBER void from_table(int step, const uint32_t* table, uint32_t (&a)[4]) const {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      if constexpr (math == Math::int8) {
        const uint32_t word = words[2 * step + pair];
        a[2 * pair] = look_up(table, word);
        a[2 * pair + 1] = look_up(table, word >> 16);
      } else {
        const uint32_t q = words[step] >> 16 * pair;
        const uint32_t low = look_up(table, q), high = look_up(table + 4, q);
        a[2 * pair] = permute_bytes(low, high, 0x5140);
        a[2 * pair + 1] = permute_bytes(low, high, 0x7362);
      }
    }
  }

  QONNX_DEVICE_MEMBER uint32_t number(int step, int j, const Values& values) const {
    const int r = 4 * step + j;
    if constexpr (math == Math::int8) {
      if constexpr (bits == 4) return (r % 2 ? words[r / 2] : words[r / 2] << 4) & 0xf0f0f0f0;  // 16 · (code − 8)
      return bits == 8 ? codes<4>(r) ^ 0x80808080 : codes<4>(r);
    }
    if constexpr (math == Math::float16) {
      constexpr uint32_t kOne = 0x3c003c00, kSixteenth = 0x2c002c00, k1024 = 0x64006400;
      if constexpr (bits == 4) {  // every second register without a shift: 1024 + 16 · code
        const uint32_t word = j / 2 ? words[step] >> 8 : words[step];
        if (j % 2) return fma_float16x2(masked_or(word, 0x00f000f0, k1024), kSixteenth, values.minus_zero_high);
        return fma_float16x2(masked_or(word, 0x000f000f, k1024), kOne, values.minus_zero);
      }
      return fma_float16x2(codes<2>(r) | k1024, kOne, values.minus_zero);
    } else {
      constexpr uint32_t kOne = 0x3f803f80, k128 = 0x43004300;
      const uint32_t code = codes<2>(r);
      const uint32_t low = fma_bfloat16x2(masked_or(code, 0x007f007f, k128), kOne, values.minus_zero);
      if constexpr (bits < 8) return low;
      return fma_bfloat16x2((code >> 7 & 0x00010001) * 0x4300, kOne, low);  // 128 for the highest bit
    }
  }
};

}  // namespace qonnx::cuda
