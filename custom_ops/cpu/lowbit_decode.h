// Packed bit lines back to one byte a code (see the layout in lowbit.h), for the kernels of a tier.
#pragma once

#include <type_traits>
#include <utility>

#include "lanes.h"
#include "lowbit.h"

namespace qonnx::cpu::QONNX_TIER {

constexpr size_t kLine = 128;  // bytes of a bit line: two tiles

template <int... j>
using Steps = std::integer_sequence<int, j...>;
using AllSteps = std::make_integer_sequence<int, 8>;  // of a unit
template <int units>
using StepsOf = std::make_integer_sequence<int, 8 * units>;

// The codes of step j (four k by sixteen rows) of the unit whose lines begin at `unit` for this tile.
template <int bits, int j>
static inline Bytes codes_of_step(const uint8_t* unit) {
  if constexpr (bits == 8) {
    return load_bytes(unit + j * kLine);
  } else {
    constexpr int four = (bits & 4) ? 4 : 0, two = (bits & 2) ? 2 : 0;
    [[maybe_unused]] const uint8_t* next = unit + four * kLine;
    [[maybe_unused]] const uint8_t* top = next + two * kLine;
    if constexpr (bits == 1) {
      return masked<1>(shifted<j>(load_bytes(top)));
    } else if constexpr (four == 0) {  // 2 or 3 bits
      const Bytes low = masked<3>(shifted<2 * (j % 4)>(load_bytes(next + j / 4 * kLine)));
      if constexpr (bits == 2) return low;
      else return low | masked<4>(shifted<j - 2>(load_bytes(top)));
    } else {
      Bytes code = masked<15>(shifted<4 * (j % 2)>(load_bytes(unit + j / 2 * kLine)));
      if constexpr (two != 0) code = code | masked<48>(shifted<2 * (j % 4) - 4>(load_bytes(next + j / 4 * kLine)));
      if constexpr ((bits & 1) != 0) code = code | masked<1 << (four + two)>(shifted<j - four - two>(load_bytes(top)));
      return code;
    }
  }
}

// A format of codes as kernels see it: `bits` of storage, whether codes index a table, whether three share five bits.
template <int bits_, bool table_, bool triples_ = false>
struct Codes {
  static constexpr int bits = bits_;
  static constexpr bool table = table_, triples = triples_;
  static constexpr int value_bits = table_ ? 8 : bits_;  // of the bytes that go into `dot`
  template <int units>
  static constexpr size_t lines = triples ? (units == 3 ? 5 : 2 * units) : bits * units;
};

// The units of a group (or of a part of it that begins at a chunk), in chunks that decode at once: body(number of
// units, as a constant).
template <class C, class Body>
static inline void for_chunks(size_t units, Body&& body) {
  if constexpr (C::triples) {
    for (; units >= 3; units -= 3) body(std::integral_constant<int, 3>{});
    if (units == 2) body(std::integral_constant<int, 2>{});
    if (units == 1) body(std::integral_constant<int, 1>{});
  } else {
    for (; units > 0; --units) body(std::integral_constant<int, 1>{});
  }
}

// What decoding keeps in registers.
template <class C>
struct Decoder {
  ByteTable table;
  TripleTable triples;

  explicit Decoder(const LowBitWeight& weight) : table(load_table(weight.bytes)), triples(load_triples()) {}

  // The codes of step j of a chunk of so many units whose lines begin at `lines` for this tile.
  template <int units, int j>
  Bytes code(const uint8_t* lines) const {
    if constexpr (!C::triples) {
      return codes_of_step<C::bits, j>(lines);
    } else {
      constexpr int five = j / 3;
      constexpr bool last = units == 1 && five == 2;
      constexpr size_t top = units == 3 ? 4 : units == 2 ? 3 : 1, low = last ? 1 : five / 2;
      const Bytes nibble = masked<15>(shifted<last ? 4 : 4 * (five % 2)>(load_bytes(lines + low * kLine)));
      return digit<j % 3>(triples, nibble | masked<16>(shifted<five - 4>(load_bytes(lines + top * kLine))));
    }
  }

  // The bytes that go into `dot`.
  template <int units, int j>
  Bytes value(const uint8_t* lines) const {
    const Bytes v = code<units, j>(lines);
    if constexpr (C::table) return look_up(table, v);
    else return v;
  }
};

// How many rows of X the kernels of this tier want together when there are `rows`.
static inline size_t together(const LowBitWeight&, size_t rows) {
  for (size_t few = 1; few <= kStreamed; few *= 2)
    if (rows <= few) return few;
  return kTokens;
}

// Calls body(Codes<...>{}) for the weight's format.
template <class Body>
static inline void with_codes(const LowBitWeight& weight, Body&& body) {
  if (weight.triples) return body(Codes<2, false, true>{});
  switch (weight.table ? 0 : weight.bits) {
    case 0: return body(Codes<4, true>{});
    case 1: return body(Codes<1, false>{});
    case 2: return body(Codes<2, false>{});
    case 3: return body(Codes<3, false>{});
    case 4: return body(Codes<4, false>{});
    case 5: return body(Codes<5, false>{});
    case 6: return body(Codes<6, false>{});
    case 7: return body(Codes<7, false>{});
    default: return body(Codes<8, false>{});
  }
}

// Scales or zeros of a tile and group.
static inline Floats parameters(const LowBitWeight& weight, const void* array, size_t index) {
  return weight.halves ? load_halves(static_cast<const uint16_t*>(array) + index)
                       : load_floats(static_cast<const float*>(array) + index);
}

static inline int32_t four_bytes(const int8_t* p) {
  int32_t x;
  memcpy(&x, p, 4);
  return x;
}

static inline void prefetch(const void* p) { __builtin_prefetch(p); }

// A stream that is read once, in two stages: into the L2 cache, which keeps more requests under way than L1 does, then
// near. Against one stage 2 KB ahead this reads 1.6 times as fast from L3 and 1.2 times from memory (Emerald Rapids).
// The hardware's own prefetcher stops at every 4 KB page.
static inline void prefetch_stream(const void* p) {
  constexpr size_t kFar = 8192, kNear = 1024;
  __builtin_prefetch(static_cast<const char*>(p) + kFar, 0, 2);
  __builtin_prefetch(static_cast<const char*>(p) + kNear);
}

}  // namespace qonnx::cpu::QONNX_TIER
