// Low-bit matrix product of activations that are quantized already (see static_product.h); compiled once per tier.
//
// Up to four rows: codes of the weight are decoded in registers and used at once. More: a run of groups of the panel is
// decoded to bytes in the L1 cache (16 KB) and multiplied with all rows, kBlockTokens at a time, before the next run.
// Where every group has scales of its own, float sums stay in registers beside the integer ones during a run; in
// memory they cost a third of the time at blocks of 32.
#include "static_product.h"

#include "lowbit_dots.h"
#include "static_rows.h"

namespace qonnx::cpu::QONNX_TIER {

namespace {

constexpr size_t kDecoded = 16384;  // bytes of decoded panel at a time
constexpr int kFew = kStreamed > 0 ? 4 : 1;

static inline Ints load_ints(const int32_t* p) {
  Ints x;
  memcpy(&x, p, sizeof x);
  return x;
}
static inline void store_ints(int32_t* p, Ints x) { memcpy(p, &x, sizeof x); }

size_t rows_together(size_t rows) { return rows == 1 ? 1 : rows <= kFew ? kFew : kBlockTokens; }

bool signs(const LowBitWeight& weight) {
  const int largest = weight.table ? 255 : (1 << weight.bits) - 1, zero = static_cast<int>(weight.zero);
  return kSignedBytes && weight.zero_kind == Zero::integer && 0 <= zero && zero <= 128 && largest - zero <= 127;
}

// Bytes of the weight as a run of groups holds them: packed and decoded on the way, less the weight's zero where
// products take them signed; or decoded already.
template <class C, bool less_zero>
class Packed {
 public:
  static constexpr bool packed = true;
  static constexpr size_t lines = C::template lines<1>;  // of 128 bytes in a unit
  explicit Packed(const LowBitWeight& weight)
      : decoder_(weight), zero_(static_cast<int8_t>(less_zero ? weight.zero : 0)) {}
  template <int j>
  Bytes step(const uint8_t* unit) const {
    const Bytes value = decoder_.template value<1, j>(unit);
    if constexpr (less_zero) return value - all_bytes(zero_);
    else return value;
  }

 private:
  Decoder<C> decoder_;
  int8_t zero_;
};
struct Decoded {
  static constexpr bool packed = false;
  static constexpr size_t lines = 8;
  explicit Decoded(const LowBitWeight&) {}
};

// What all products of a panel share.
struct Panel {
  const LowBitWeight& weight;
  const StaticRows& q;
  size_t panel;
  const int32_t* correction;  // [chain][32]
  const float* bias;          // [32]
  float factor;
  Zero kind;
  int32_t zero;  // of Zero::integer
};

// Where results of `tokens` rows stand: between runs, and at the end. All [token][32], y with a stride of its own.
struct Sums {
  int32_t* integers;  // of a chain that is not at its end
  float* floats;      // of the chains before
  float* y;
  size_t stride;
};

template <int tokens>
using Dots = Ints[tokens][kTilesAtOnce];

// Calls body(m, t, the place of it in a row of 32) for every sum of a tile.
template <int tokens, class Body>
__attribute__((always_inline)) static inline void for_sums(size_t lane, Body&& body) {
#pragma GCC unroll 8
  for (int m = 0; m < tokens; ++m)
#pragma GCC unroll 2
    for (int t = 0; t < kTilesAtOnce; ++t)
      body(m, t, static_cast<size_t>(m) * kPanel + lane + kTile * static_cast<size_t>(t));
}

template <class Source, int value_bits, bool less_zero, int tokens, int j>
__attribute__((always_inline)) static inline void step(const Source& source, const uint8_t* unit, const int8_t* x, Dots<tokens>& dots) {
  Bytes w[kTilesAtOnce];
#pragma GCC unroll 2
  for (int t = 0; t < kTilesAtOnce; ++t) w[t] = source.template step<j>(unit + 64 * t);
#pragma GCC unroll 8
  for (int m = 0; m < tokens; ++m) {
    const int32_t four = four_bytes(x + 4 * (j * tokens + m));
#pragma GCC unroll 2
    for (int t = 0; t < kTilesAtOnce; ++t) {
      if constexpr (less_zero) dots[m][t] = dot_signed(dots[m][t], w[t], four);
      else dots[m][t] = dot<value_bits>(dots[m][t], w[t], four);
    }
  }
}

template <class Source, int value_bits, bool less_zero, int tokens, int... j>
__attribute__((always_inline)) static inline void packed_group(Steps<j...>, const Source& source, size_t units,
                                                               const uint8_t* unit, const int8_t* x,
                                                               Dots<tokens>& dots) {
  for (; units > 0; --units, unit += Source::lines * kLine, x += kUnit * tokens)
    (step<Source, value_bits, less_zero, tokens, j>(source, unit, x, dots), ...);
}

// A group's products on the sums; `unit` and x go on to the next group.
template <class Source, int value_bits, bool less_zero, int tokens>
__attribute__((always_inline)) static inline void next_group(const Source& source, size_t units, size_t row_bytes,
                                                             const uint8_t*& unit, const int8_t*& x, Dots<tokens>& dots) {
  if constexpr (Source::packed) {
    packed_group<Source, value_bits, less_zero, tokens>(AllSteps{}, source, units, unit, x, dots);
  } else {
    prefetch_next_rows(x, row_bytes, units * kUnit * tokens);
    add_group<value_bits, less_zero>(unit, x, units, dots);
  }
  unit += units * Source::lines * kLine;
  x += units * kUnit * tokens;
}

// Integer sums that a chain begins with; row_sums is [token].
template <bool less_zero, int tokens>
__attribute__((always_inline)) static inline void begin_chain(const Panel& p, size_t chain, size_t lane, const int32_t* row_sums, Dots<tokens>& dots) {
  for_sums<tokens>(lane, [&](int m, int t, size_t) {
    dots[m][t] = load_ints(p.correction + chain * kPanel + lane + kTile * static_cast<size_t>(t));
    if constexpr (!less_zero) dots[m][t] = dots[m][t] + ints(-p.zero * row_sums[m]);
  });
}

// Float sums with a chain that is at its end; `index` of its scales.
template <bool less_zero, int tokens>
__attribute__((always_inline)) static inline void add_chain(const Panel& p, const LowBitWeight& weight, size_t index, const int32_t* row_sums,
                             const Dots<tokens>& dots, Floats (&total)[tokens][kTilesAtOnce]) {
#pragma GCC unroll 2
  for (int t = 0; t < kTilesAtOnce; ++t) {
    const Floats scale = parameters(weight, weight.scales, index + kTile * static_cast<size_t>(t));
    Floats zero = floats(weight.zero);
    if (!less_zero && p.kind == Zero::rows)
      zero = parameters(weight, weight.zeros, index + kTile * static_cast<size_t>(t));
#pragma GCC unroll 8
    for (int m = 0; m < tokens; ++m) {
      Floats value = to_float(dots[m][t]);
      if (!less_zero && p.kind != Zero::integer) value = value - zero * floats(static_cast<float>(row_sums[m]));
      total[m][t] = fma(scale, value, total[m][t]);
    }
  }
}

template <int tokens>
__attribute__((always_inline)) static inline void finish(const Panel& p, size_t lane, const Floats (&total)[tokens][kTilesAtOnce], const Sums& sums) {
  for_sums<tokens>(lane, [&](int m, int t, size_t) {
    const size_t row = lane + kTile * static_cast<size_t>(t);
    store_floats(sums.y + static_cast<size_t>(m) * sums.stride + row,
                 total[m][t] * floats(p.factor) + load_floats(p.bias + row));
  });
}

// Groups [group, group + groups) of rows [first, first + tokens), the last of which writes y. Every group is a chain.
template <class Source, int value_bits, bool less_zero, int tokens>
void multiply_blocks(const Panel& p, const uint8_t* bytes, int tile, size_t group, size_t groups, size_t first,
                     const Sums& sums) {
  const LowBitWeight weight = p.weight;  // a copy that the stores below cannot touch: its fields stay in registers
  const Source source(weight);
  const size_t lane = kTile * static_cast<size_t>(tile), index = p.panel * weight.groups * kPanel + lane;
  const int8_t* x = p.q.codes + first * weight.width() + group * weight.units * kUnit * tokens;
  const int32_t* row_sums = less_zero ? nullptr : p.q.sum + first * weight.groups;
  const uint8_t* unit = bytes + 64 * static_cast<size_t>(tile);
  Floats total[tokens][kTilesAtOnce];
  for_sums<tokens>(lane, [&](int m, int t, size_t at) {
    total[m][t] = group ? load_floats(sums.floats + at) : floats(0);
  });
  for (size_t g = group; g < group + groups; ++g) {
    const int32_t* sums_of_group = less_zero ? nullptr : row_sums + g * tokens;
    Dots<tokens> dots;
    begin_chain<less_zero, tokens>(p, g, lane, sums_of_group, dots);
    next_group<Source, value_bits, less_zero, tokens>(source, weight.units, weight.width() * tokens, unit, x, dots);
    add_chain<less_zero, tokens>(p, weight, index + g * kPanel, sums_of_group, dots, total);
  }
  if (group + groups == weight.groups) return finish<tokens>(p, lane, total, sums);
  for_sums<tokens>(lane, [&](int m, int t, size_t at) { store_floats(sums.floats + at, total[m][t]); });
}

// The same where chains are made of several groups, of some 512 columns each.
template <class Source, int value_bits, bool less_zero, int tokens>
void multiply_chains(const Panel& p, const uint8_t* bytes, int tile, size_t group, size_t groups, size_t first,
                     const Sums& sums) {
  const LowBitWeight weight = p.weight;
  const Source source(weight);
  const size_t chains = chain_count(weight), lane = kTile * static_cast<size_t>(tile);
  const int8_t* x = p.q.codes + first * weight.width() + group * weight.units * kUnit * tokens;
  const uint8_t* unit = bytes + 64 * static_cast<size_t>(tile);
  Dots<tokens> dots;
  for (size_t g = group; g < group + groups; ++g) {
    const size_t chain = chain_of(weight, g);
    const int32_t* row_sums = less_zero ? nullptr : p.q.sum + first * chains + chain * tokens;
    if (begins_chain(weight, g))
      begin_chain<less_zero, tokens>(p, chain, lane, row_sums, dots);
    else if (g == group)
      for_sums<tokens>(lane, [&](int m, int t, size_t at) { dots[m][t] = load_ints(sums.integers + at); });
    next_group<Source, value_bits, less_zero, tokens>(source, weight.units, weight.width() * tokens, unit, x, dots);
    if (ends_chain(weight, g)) {
      Floats total[tokens][kTilesAtOnce];
      for_sums<tokens>(lane, [&](int m, int t, size_t at) {
        total[m][t] = chain ? load_floats(sums.floats + at) : floats(0);
      });
      add_chain<less_zero, tokens>(p, weight, (p.panel * weight.groups + g) * kPanel + lane, row_sums, dots, total);
      if (chain + 1 == chains) finish<tokens>(p, lane, total, sums);
      else for_sums<tokens>(lane, [&](int m, int t, size_t at) { store_floats(sums.floats + at, total[m][t]); });
    } else if (g + 1 == group + groups) {
      for_sums<tokens>(lane, [&](int m, int t, size_t at) { store_ints(sums.integers + at, dots[m][t]); });
    }
  }
}

template <class Source, int value_bits, bool less_zero, int tokens>
void multiply_run(const Panel& p, const uint8_t* bytes, size_t group, size_t groups, size_t first, const Sums& sums) {
  constexpr auto blocks = multiply_blocks<Source, value_bits, less_zero, tokens>,
                 chains = multiply_chains<Source, value_bits, less_zero, tokens>;
  const auto run = p.weight.parts == 1 ? blocks : chains;
  for (int tile = 0; tile < 2; tile += kTilesAtOnce) run(p, bytes, tile, group, groups, first, sums);
}

// Decodes a unit to bytes, [step][tile 2][64].
template <class Source, int... j>
static inline void decode_unit(Steps<j...>, const Source& source, const uint8_t* unit, uint8_t* out) {
  auto one = [&]<int step>() {
    for (int t = 0; t < 2; ++t)
      store_bytes(out + step * kLine + 64 * t, source.template step<step>(unit + 64 * t));
  };
  (one.template operator()<j>(), ...);
}

template <class C, bool less_zero, int tokens>
void few(const Panel& p, float* y, size_t stride) {
  int32_t integers[tokens * kPanel];
  float floats[tokens * kPanel];
  multiply_run<Packed<C, less_zero>, C::value_bits, less_zero, tokens>(
      p, p.weight.codes + p.panel * p.weight.panel_bytes(), 0, p.weight.groups, 0, {integers, floats, y, stride});
}

template <class C, bool less_zero>
void many(const Panel& p, size_t rows, float* y, size_t stride) {
  constexpr size_t tokens = kBlockTokens;
  alignas(64) uint8_t decoded[kDecoded];
  alignas(64) int32_t integers[kMaxTokens * kPanel];
  alignas(64) float floats[kMaxTokens * kPanel];
  alignas(64) float last[tokens * kPanel];  // of rows that fill up the last ones
  const LowBitWeight& weight = p.weight;
  const size_t run = kDecoded / (weight.units * kUnit * kPanel), whole = rows / tokens * tokens;
  const Packed<C, less_zero> source(weight);
  const uint8_t* unit = weight.codes + p.panel * weight.panel_bytes();
  for (size_t g = 0; g < weight.groups; g += run) {
    const size_t groups = weight.groups - g < run ? weight.groups - g : run;
    for (size_t u = 0; u < groups * weight.units; ++u, unit += source.lines * kLine)
      decode_unit(AllSteps{}, source, unit, decoded + u * kUnit * kPanel);
    for (size_t m = 0; m < rows; m += tokens)
      multiply_run<Decoded, C::value_bits, less_zero, kBlockTokens>(
          p, decoded, g, groups, m,
          {integers + m * kPanel, floats + m * kPanel, m < whole ? y + m * stride : last, m < whole ? stride : kPanel});
  }
  for (size_t m = whole; m < rows; ++m) memcpy(y + m * stride, last + (m - whole) * kPanel, kPanel * sizeof(float));
}

template <class C, bool less_zero>
void multiply_codes(const Panel& p, size_t rows, float* y, size_t stride) {
  if (rows > kFew || kFew == 1) return many<C, less_zero>(p, rows, y, stride);
  if constexpr (kFew > 1) {
    if (p.q.together == 1) return few<C, less_zero, 1>(p, y, stride);
    float four[kFew * kPanel];
    few<C, less_zero, kFew>(p, four, kPanel);
    for (size_t m = 0; m < rows; ++m) memcpy(y + m * stride, four + m * kPanel, kPanel * sizeof(float));
  }
}

void multiply(const LowBitWeight& weight, size_t panel, const StaticRows& q, size_t rows,
              const int32_t* correction, const float* bias, float factor, float* y, size_t stride) {
  const bool whole = weight.zero_kind == Zero::integer && weight.zero <= kLargestChainZero && weight.zero >= 0;
  const Zero kind = whole ? Zero::integer : weight.zero_kind == Zero::rows ? Zero::rows : Zero::number;
  const Panel p{weight, q, panel, correction, bias, factor, kind, whole ? static_cast<int32_t>(weight.zero) : 0};
  with_codes(weight, [&](auto codes) {
    using C = decltype(codes);
    if constexpr (kSignedBytes)
      if (signs(weight)) return multiply_codes<C, true>(p, rows, y, stride);
    multiply_codes<C, false>(p, rows, y, stride);
  });
}

}  // namespace

extern const StaticProduct static_product;
const StaticProduct static_product = {rows_together, signs, place, quantize, multiply, requantize};

}  // namespace qonnx::cpu::QONNX_TIER
