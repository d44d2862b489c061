// Low-bit matrix product of activations that are quantized already (see static_product.h); compiled once per tier.
//
// Up to four rows: codes of the weight are decoded in registers and used at once. More: a run of groups of the panel is
// decoded to bytes in the L1 cache (16 KB) and multiplied with all rows, kTokens at a time, before the next run.
#include "static_product.h"

#include "lowbit_decode.h"

namespace qonnx::cpu::QONNX_TIER {

namespace {

constexpr size_t kDecoded = 16384;  // bytes of decoded panel at a time
constexpr int kFew = kStreamed > 0 ? 4 : 1;

typedef float Numbers __attribute__((vector_size(64)));
typedef int32_t Integers __attribute__((vector_size(64)));
typedef int8_t Sixteen __attribute__((vector_size(16)));

static inline Ints load_ints(const int32_t* p) {
  Ints x;
  memcpy(&x, p, sizeof x);
  return x;
}
static inline void store_ints(int32_t* p, Ints x) { memcpy(p, &x, sizeof x); }

size_t rows_together(size_t rows) { return rows == 1 ? 1 : rows <= kFew ? kFew : kTokens; }

// Where the codes of a row begin, and the way from four columns to the next four.
static inline int8_t* codes_of_row(const LowBitWeight& weight, const StaticRows& q, size_t row) {
  return q.codes + row / q.together * q.together * weight.width() + 4 * (row % q.together);
}

// Calls body(first column, columns, where) for every group of a row, where its padded codes begin.
template <class Body>
static inline void for_groups(const LowBitWeight& weight, int8_t* codes, size_t together, Body&& body) {
  for (size_t g = 0; g < weight.groups; ++g, codes += weight.units * kUnit * together)
    body(g, weight.group_begin(g), weight.group_columns(g), codes);
}

static inline void put_zeros(int8_t* to, size_t from, size_t end, size_t together) {
  for (size_t k = from; k < end; k += 4, to += 4 * together) memset(to, 0, 4);
}

void place(const LowBitWeight& weight, const uint8_t* x, const StaticGrid& grid, size_t row, const StaticRows& q) {
  const size_t padded = weight.units * kUnit, n = q.together, chains = chain_count(weight);
  int32_t* sum = q.sum + row / n * n * chains + row % n;
  const uint32_t flip = grid.shift ? 0x80808080u : 0;
  for (size_t chain = 0; chain < chains; ++chain) sum[chain * n] = 0;
  for_groups(weight, codes_of_row(weight, q, row), n, [&](size_t g, size_t begin, size_t columns, int8_t* to) {
    if (!x) return put_zeros(to, 0, padded, n);
    const uint8_t* from = x + begin;
    size_t k = 0;
    for (; k + 4 <= columns; k += 4, to += 4 * n) {
      uint32_t four;
      memcpy(&four, from + k, 4);
      four ^= flip;
      memcpy(to, &four, 4);
    }
    if (k < columns) {
      int8_t last[4] = {0, 0, 0, 0};
      for (size_t i = 0; k + i < columns; ++i) last[i] = static_cast<int8_t>(from[k + i] ^ (flip & 255));
      memcpy(to, last, 4);
      k += 4;
      to += 4 * n;
    }
    put_zeros(to, k, padded, n);
    int32_t total = 0;
    if (grid.shift)
      for (size_t i = 0; i < columns; ++i) total += from[i];
    else
      for (size_t i = 0; i < columns; ++i) total += static_cast<int8_t>(from[i]);
    sum[chain_of(weight, g) * n] += total - grid.zero_point * static_cast<int32_t>(columns);
  });
}

static inline Numbers all(float x) {
  Numbers v;
  for (int i = 0; i < 16; ++i) v[i] = x;
  return v;
}

static inline Floats lanes_of(Numbers x) {
  Floats v;
  memcpy(&v, &x, sizeof v);
  return v;
}
static inline Numbers numbers_of(Floats x) {
  Numbers v;
  memcpy(&v, &x, sizeof v);
  return v;
}

// Codes less their zero point, as QuantizeLinear makes them.
class Rounding {
 public:
  explicit Rounding(const StaticGrid& grid)
      : scale_(all(grid.scale)),
        inverse_(all(1.0f / grid.scale)),
        reach_(all(1024.0f * grid.scale)),
        low_(all(static_cast<float>(grid.minimum - grid.zero_point))),
        high_(all(static_cast<float>(grid.maximum - grid.zero_point))),
        // Products stay normal numbers: none is lost in the correction below.
        divides_(kStreamed == 0 || !(grid.scale > 0x1p-60f && grid.scale < 0x1p60f)) {}

  // Sixteen at a time; NaN gives the lowest code.
  Numbers operator()(Numbers x) const {
    constexpr float kMagic = 12582912.0f;  // 1.5 · 2^23: adding it rounds to whole numbers, ties to even
    Numbers ratio = divides_ ? x / scale_ : quotient(x);
    ratio = ratio > low_ ? ratio : low_;
    ratio = ratio < high_ ? ratio : high_;
    return (ratio + kMagic) - kMagic;
  }

 private:
  // x / scale correctly rounded, by the rounded inverse, the remainder and one correction (Markstein, 1990): four times
  // faster than dividing. Numbers far out are drawn in first, infinities among them; their codes stay the same.
  Numbers quotient(Numbers x) const {
    x = x > -reach_ ? x : -reach_;
    x = x < reach_ ? x : reach_;
    const Numbers first = x * inverse_;
    const Numbers rest = numbers_of(fma(lanes_of(-first), lanes_of(scale_), lanes_of(x)));
    return numbers_of(fma(lanes_of(rest), lanes_of(inverse_), lanes_of(first)));
  }

  Numbers scale_, inverse_, reach_, low_, high_;
  bool divides_;
};

static inline Numbers numbers(const float* x, size_t n) {  // at most 16, filled up with 0
  if (n >= 16) {
    Numbers v;
    memcpy(&v, x, sizeof v);
    return v;
  }
  Numbers v{};
  memcpy(&v, x, n * sizeof(float));
  return v;
}

bool quantize(const LowBitWeight& weight, const float* x, const StaticGrid& grid, size_t row, const StaticRows& q) {
  const size_t padded = weight.units * kUnit, n = q.together, chains = chain_count(weight);
  int32_t* sum = q.sum + row / n * n * chains + row % n;
  for (size_t chain = 0; chain < chains; ++chain) sum[chain * n] = 0;
  const Rounding rounding(grid);
  const Integers offset = Integers{} + (grid.zero_point - grid.shift);
  Integers largest{};
  for_groups(weight, codes_of_row(weight, q, row), n, [&](size_t g, size_t begin, size_t columns, int8_t* to) {
    Integers total{};
    for (size_t k = 0; k < padded; k += 16, to += 16 * n) {
      Sixteen bytes{};
      if (k < columns) {
        const Numbers from = numbers(x + begin + k, columns - k);
        Integers bits;
        memcpy(&bits, &from, sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
        const Integers code = __builtin_convertvector(rounding(from), Integers);
        bytes = __builtin_convertvector(code + offset, Sixteen);
        if (columns - k >= 16) {
          total += code;
        } else {
          for (size_t i = 0; i < 16; ++i) {
            if (k + i < columns) total[0] += code[i];
            else bytes[i] = 0;
          }
        }
      }
      int8_t sixteen[16];
      memcpy(sixteen, &bytes, 16);
      for (size_t i = 0; i < 4; ++i) memcpy(to + 4 * n * i, sixteen + 4 * i, 4);
    }
    int32_t all_lanes = 0;
    for (int i = 0; i < 16; ++i) all_lanes += total[i];
    sum[chain_of(weight, g) * n] += all_lanes;
  });
  bool clean = true;
  for (int i = 0; i < 16; ++i) clean = clean && largest[i] <= 0x7f800000;
  return clean;
}

void requantize(const float* x, const StaticGrid& grid, size_t n, uint8_t* codes) {
  const Rounding rounding(grid);
  const Integers offset = Integers{} + grid.zero_point;
  for (size_t i = 0; i < n; i += 16) {
    const Integers code = __builtin_convertvector(rounding(numbers(x + i, n - i)), Integers) + offset;
    const Sixteen bytes = __builtin_convertvector(code, Sixteen);
    if (n - i >= 16) memcpy(codes + i, &bytes, sizeof bytes);
    else memcpy(codes + i, &bytes, n - i);
  }
}

// Bytes of the weight as a run of groups holds them: decoded, or packed and decoded on the way.
struct Decoded {
  static constexpr int lines = 8;  // lines of 128 bytes in a unit
  template <int j>
  static Bytes step(const uint8_t* unit, ByteTable) {
    return load_bytes(unit + j * kLine);
  }
};
template <class C>
struct Packed {
  static constexpr int lines = C::bits;
  template <int j>
  static Bytes step(const uint8_t* unit, ByteTable table) {
    const Bytes codes = codes_of_step<C::bits, j>(unit);
    if constexpr (C::table) return look_up(table, codes);
    else return codes;
  }
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

template <int tokens, int tiles>
using Sums = Ints[tokens][tiles];

template <class Source, int value_bits, int tokens, int tiles, int j>
static inline void step(const uint8_t* unit, const int8_t* x, ByteTable table, Sums<tokens, tiles>& dots) {
  Bytes w[tiles];
#pragma GCC unroll 2
  for (int t = 0; t < tiles; ++t) w[t] = Source::template step<j>(unit + 64 * t, table);
#pragma GCC unroll 8
  for (int m = 0; m < tokens; ++m) {
    const int32_t four = four_bytes(x + 4 * (j * tokens + m));
#pragma GCC unroll 2
    for (int t = 0; t < tiles; ++t) dots[m][t] = dot<value_bits>(dots[m][t], w[t], four);
  }
}

template <class Source, int value_bits, int tokens, int tiles, int... j>
static inline void unit_steps(Steps<j...>, const uint8_t* unit, const int8_t* x, ByteTable table,
                              Sums<tokens, tiles>& dots) {
  (step<Source, value_bits, tokens, tiles, j>(unit, x, table, dots), ...);
}

// Groups [group, group + groups) of rows [first, first + tokens): integer sums in `partial` between runs of one chain,
// float sums in `sums` between chains (both [token][32]); the last chain writes y.
template <class Source, int value_bits, int tokens>
void multiply_run(const Panel& p, const uint8_t* bytes, int tile, size_t group, size_t groups, size_t first,
                  int32_t* partial, float* sums, float* y, size_t stride) {
  constexpr int tiles = kTilesAtOnce;
  const LowBitWeight weight = p.weight;  // a copy that the stores below cannot touch: its fields stay in registers
  const size_t units = weight.units, chains = chain_count(weight), lane = kTile * static_cast<size_t>(tile);
  const int8_t* x = p.q.codes + first * weight.width() + group * units * kUnit * tokens;
  const int32_t* row_sums = p.q.sum + first * chains;
  const uint8_t* unit = bytes + 64 * static_cast<size_t>(tile);
  const ByteTable table = load_table(weight.bytes);
  partial += lane, sums += lane, y += lane;
  Ints dots[tokens][tiles];
  auto at = [](int m, int t) { return static_cast<size_t>(m) * kPanel + kTile * static_cast<size_t>(t); };
  for (size_t g = group; g < group + groups; ++g) {
    const size_t chain = chain_of(weight, g);
    if (begins_chain(weight, g)) {
#pragma GCC unroll 2
      for (int t = 0; t < tiles; ++t) {
        const Ints correction = load_ints(p.correction + chain * kPanel + lane + kTile * static_cast<size_t>(t));
#pragma GCC unroll 8
        for (int m = 0; m < tokens; ++m) dots[m][t] = correction + ints(-p.zero * row_sums[chain * tokens + m]);
      }
    } else if (g == group) {
#pragma GCC unroll 8
      for (int m = 0; m < tokens; ++m)
#pragma GCC unroll 2
        for (int t = 0; t < tiles; ++t) dots[m][t] = load_ints(partial + at(m, t));
    }
    for (size_t u = 0; u < units; ++u, unit += Source::lines * kLine, x += kUnit * tokens)
      unit_steps<Source, value_bits, tokens, tiles>(AllSteps{}, unit, x, table, dots);
    if (ends_chain(weight, g)) {
      const size_t index = (p.panel * weight.groups + g) * kPanel + lane;
#pragma GCC unroll 2
      for (int t = 0; t < tiles; ++t) {
        const size_t step_t = kTile * static_cast<size_t>(t);
        const Floats scale = parameters(weight, weight.scales, index + step_t), bias = load_floats(p.bias + lane + step_t);
        const Floats zero = p.kind == Zero::rows ? parameters(weight, weight.zeros, index + step_t) : floats(weight.zero);
#pragma GCC unroll 8
        for (int m = 0; m < tokens; ++m) {
          Floats value = to_float(dots[m][t]);
          if (p.kind != Zero::integer) value = value - zero * floats(static_cast<float>(row_sums[chain * tokens + m]));
          const Floats sum = chain ? fma(scale, value, load_floats(sums + at(m, t))) : scale * value;
          if (chain + 1 < chains) store_floats(sums + at(m, t), sum);
          else store_floats(y + static_cast<size_t>(m) * stride + step_t, sum * floats(p.factor) + bias);
        }
      }
    } else if (g + 1 == group + groups) {
#pragma GCC unroll 8
      for (int m = 0; m < tokens; ++m)
#pragma GCC unroll 2
        for (int t = 0; t < tiles; ++t) store_ints(partial + at(m, t), dots[m][t]);
    }
  }
}

// Decodes a unit to bytes, [step][tile 2][64].
template <class C, int... j>
static inline void decode_unit(Steps<j...>, const uint8_t* unit, ByteTable table, uint8_t* out) {
  auto one = [&]<int step>() {
    for (int t = 0; t < 2; ++t)
      store_bytes(out + step * kLine + 64 * t, Packed<C>::template step<step>(unit + 64 * t, table));
  };
  (one.template operator()<j>(), ...);
}

template <class C, int tokens>
void few(const Panel& p, float* y, size_t stride) {
  const uint8_t* codes = p.weight.codes + p.panel * p.weight.panel_bytes();
  int32_t partial[tokens * kPanel];
  float sums[tokens * kPanel];
  for (int tile = 0; tile < 2; tile += kTilesAtOnce)
    multiply_run<Packed<C>, C::value_bits, tokens>(p, codes, tile, 0, p.weight.groups, 0, partial, sums, y, stride);
}

template <class C>
void many(const Panel& p, size_t rows, float* y, size_t stride) {
  alignas(64) uint8_t decoded[kDecoded];
  alignas(64) int32_t partial[kMaxTokens * kPanel];
  alignas(64) float sums[kMaxTokens * kPanel];
  alignas(64) float last[kTokens * kPanel];  // of rows that fill up the last kTokens
  const LowBitWeight& weight = p.weight;
  const size_t run = kDecoded / (weight.units * kUnit * kPanel), whole = rows / kTokens * kTokens;
  const ByteTable table = load_table(weight.bytes);
  const uint8_t* unit = weight.codes + p.panel * weight.panel_bytes();
  for (size_t g = 0; g < weight.groups; g += run) {
    const size_t groups = weight.groups - g < run ? weight.groups - g : run;
    for (size_t u = 0; u < groups * weight.units; ++u, unit += C::bits * kLine)
      decode_unit<C>(AllSteps{}, unit, table, decoded + u * kUnit * kPanel);
    for (int tile = 0; tile < 2; tile += kTilesAtOnce)
      for (size_t m = 0; m < rows; m += kTokens)
        multiply_run<Decoded, C::value_bits, kTokens>(p, decoded, tile, g, groups, m, partial + m * kPanel,
                                                      sums + m * kPanel, m < whole ? y + m * stride : last,
                                                      m < whole ? stride : kPanel);
  }
  for (size_t m = whole; m < rows; ++m) memcpy(y + m * stride, last + (m - whole) * kPanel, kPanel * sizeof(float));
}

void multiply(const LowBitWeight& weight, size_t panel, const StaticRows& q, size_t rows,
              const int32_t* correction, const float* bias, float factor, float* y, size_t stride) {
  const bool whole = weight.zero_kind == Zero::integer && weight.zero <= kLargestChainZero && weight.zero >= 0;
  const Zero kind = whole ? Zero::integer : weight.zero_kind == Zero::rows ? Zero::rows : Zero::number;
  const Panel p{weight, q, panel, correction, bias, factor, kind, whole ? static_cast<int32_t>(weight.zero) : 0};
  with_codes(weight, [&](auto codes) {
    using C = decltype(codes);
    if (rows > kFew || kFew == 1) return many<C>(p, rows, y, stride);
    if constexpr (kFew > 1) {
      if (q.together == 1) return few<C, 1>(p, y, stride);
      float four[kFew * kPanel];
      few<C, kFew>(p, four, kPanel);
      for (size_t m = 0; m < rows; ++m) memcpy(y + m * stride, four + m * kPanel, kPanel * sizeof(float));
    }
  });
}

}  // namespace

extern const StaticProduct static_product;
const StaticProduct static_product = {rows_together, place, quantize, multiply, requantize};

}  // namespace qonnx::cpu::QONNX_TIER
