// Low-bit matrix product with float32 activations and float32 sums; compiled once per tier.
//
//   y[m, n] = Σ_g scale[n, g] · Σ_k x[m, k] · (value[n, k] − zero[n, g])
//
// Few tokens (up to kStreamed): codes are decoded in registers, one permutation per four bits through a table that
// already has the zero taken off. More tokens: groups of the panel are decoded to scaled floats in the L1 cache, then
// multiplied with all tokens, eight at a time. The number of tokens is rounded up to 1, 2, 4 or a multiple of 8 with
// rows of zeros.
#include "codebook_decode.h"
#include "lowbit_decode.h"
#include "lowbit_dots.h"

namespace qonnx::cpu::QONNX_TIER {

namespace {

constexpr size_t kDecodedRows = 128;  // k of decoded panel at a time: 16 KB

// What value_of takes the codes of step j from: where a look-up in 16 floats regards four bits of a lane and no others,
// codes of four bits stay in their line.
template <class C>
constexpr bool kInLine = kLooksUpFourBits && C::bits == 4;
template <class C, int units, int j>
static inline Bytes codes_for(const Decoder<C>& decoder, const uint8_t* lines) {
  if constexpr (kInLine<C>) return load_bytes(lines + j / 2 * kLine);
  else return decoder.template code<units, j>(lines);
}

// value − zero for k = 4·j + i from codes_for step j.
template <class C, int i, int j>
static inline Floats value_of(Bytes codes, const FloatTable& table, bool rows, Floats zero) {
  if constexpr (C::bits <= 4) {
    const Floats value = look_up<i, kInLine<C> && j % 2 ? 4 : 0>(table, codes);
    return rows ? value - zero : value;
  } else {
    return byte_float<i>(codes) - zero;
  }
}

static inline FloatTable values_of(const LowBitWeight& weight) {
  float values[16];
  const float zero = weight.zero_kind == Zero::rows ? 0.0f : weight.zero;
  for (int i = 0; i < 16; ++i) values[i] = weight.values[i] - zero;
  return load_table(values);
}

static inline Floats zeros_of(const LowBitWeight& weight, size_t index) {
  return weight.zero_kind == Zero::rows ? parameters(weight, weight.zeros, index) : floats(weight.zero);
}

template <class C, int tokens, int j, int... i>
static inline void step(Steps<i...>, Bytes codes, const float* x, const FloatTable& table, bool rows, Floats zero,
                        Floats (&sum)[4][tokens]) {
  auto one = [&]<int k>() {
    const Floats value = value_of<C, k, j>(codes, table, rows, zero);
#pragma GCC unroll 4
    for (int m = 0; m < tokens; ++m) sum[k][m] = fma(value, floats(x[(4 * j + k) * tokens + m]), sum[k][m]);
  };
  (one.template operator()<i>(), ...);
}

template <class C, int units, int tokens, int... j>
static inline void chunk_steps(Steps<j...>, const uint8_t* lines, const float* x, const Decoder<C>& decoder,
                               const FloatTable& table, bool rows, Floats zero, Floats (&sum)[4][tokens]) {
  (step<C, tokens, j>(Steps<0, 1, 2, 3>{}, codes_for<C, units, j>(decoder, lines), x, table, rows, zero, sum), ...);
}

template <class C, int tokens>
void stream(const LowBitWeight& weight, size_t panel, size_t tile, const float* x, size_t first, float* sums) {
  const uint8_t* lines = weight.codes + panel * weight.panel_bytes() + 64 * tile;
  const Decoder<C> decoder(weight);
  const size_t at = panel * weight.groups * kPanel + kTile * tile;
  const FloatTable table = values_of(weight);
  const bool rows = weight.zero_kind == Zero::rows, half = weight.half_units();
  Floats total[tokens];
  for (int m = 0; m < tokens; ++m) total[m] = floats(0);
  x += first * weight.width();
  for (size_t g = 0; g < weight.groups; ++g) {
    const Floats zero = zeros_of(weight, at + g * kPanel);
    Floats sum[4][tokens];
    for (int k = 0; k < 4; ++k)
      for (int m = 0; m < tokens; ++m) sum[k][m] = floats(0);
    for_chunks<C>(weight.units, [&](auto chunk) {
      constexpr size_t count = C::template lines<chunk()>;
#pragma GCC unroll 8
      for (size_t line = 0; line < count; ++line) prefetch_stream(lines + kLine * line);
      if (!C::triples && half)
        chunk_steps<C, chunk(), tokens>(Steps<0, 1, 2, 3>{}, lines, x, decoder, table, rows, zero, sum);
      else chunk_steps<C, chunk(), tokens>(StepsOf<chunk()>{}, lines, x, decoder, table, rows, zero, sum);
      lines += count * kLine;
      x += kUnit * tokens * chunk();
    });
    const Floats scale = parameters(weight, weight.scales, at + g * kPanel);
    for (int m = 0; m < tokens; ++m) total[m] = fma((sum[0][m] + sum[1][m]) + (sum[2][m] + sum[3][m]), scale, total[m]);
  }
  for (int m = 0; m < tokens; ++m) store_floats(sums + static_cast<size_t>(m) * kPanel + kTile * tile, total[m]);
}

// Decodes a chunk to scale · (value − zero), [k][32].
template <class C, int units, int... j>
static inline void decode_chunk(Steps<j...>, const uint8_t* lines, const Decoder<C>& decoder, const FloatTable& table,
                                bool rows, const Floats (&scale)[2], const Floats (&zero)[2], float* out) {
  auto one = [&]<int step>() {
    for (int t = 0; t < 2; ++t) {
      const Bytes codes = codes_for<C, units, step>(decoder, lines + 64 * t);
      float* to = out + 4 * step * kPanel + kTile * static_cast<size_t>(t);
      store_floats(to, scale[t] * value_of<C, 0, step>(codes, table, rows, zero[t]));
      store_floats(to + kPanel, scale[t] * value_of<C, 1, step>(codes, table, rows, zero[t]));
      store_floats(to + 2 * kPanel, scale[t] * value_of<C, 2, step>(codes, table, rows, zero[t]));
      store_floats(to + 3 * kPanel, scale[t] * value_of<C, 3, step>(codes, table, rows, zero[t]));
    }
  };
  (one.template operator()<j>(), ...);
}

template <class C>
void few(const LowBitWeight& weight, size_t panel, const float* x, size_t together, size_t first, float* sums) {
  for (size_t tile = 0; tile < 2; ++tile) {
    if (together == 1) stream<C, 1>(weight, panel, tile, x, first, sums);
    if (together == 2) stream<C, 2>(weight, panel, tile, x, first, sums);
    if constexpr (kStreamed == 4)
      if (together == 4) stream<C, 4>(weight, panel, tile, x, first, sums);
  }
}

// The place of a unit among the columns of X.
static inline size_t place_of_unit(const LowBitWeight& weight, bool is_dense, size_t unit) {
  return is_dense ? unit / weight.units * weight.dense_group() + unit % weight.units * kUnit : unit * kUnit;
}

bool dense(const LowBitWeight& weight, size_t together) { return !weight.codebook && together >= kTokens; }

// Every unit of a panel: decode(first unit, units, floats) and multiply with all tokens.
template <class Decode>
void many(const LowBitWeight& weight, const float* x, size_t first, size_t tokens, float* sums, Decode&& decode) {
  alignas(64) float decoded[kDecodedRows * kPanel];
  const size_t all = weight.groups * weight.units, width = weight.width();
  const size_t most = weight.triples ? 3 : kDecodedRows / kUnit;
  const bool is_dense = dense(weight, tokens < kTokens ? tokens : kTokens);
  memset(sums, 0, tokens * kPanel * sizeof(float));
  x += first * width;
  for (size_t begin = 0, units; begin < all; begin += units) {
    const size_t left = (weight.triples ? (begin / weight.units + 1) * weight.units : all) - begin;
    units = left < most ? left : most;
    decode(begin, units, decoded);
    const size_t from = place_of_unit(weight, is_dense, begin);
    const size_t length = place_of_unit(weight, is_dense, begin + units) - from;
    for (int tile = 0; tile < 2; tile += kTilesAtOnce) {
      if (tokens == 1) add_products<1>(decoded, length, tile, x + from, sums);
      for (size_t m = 0; tokens > 1 && m < tokens; m += kTokens)
        add_products<kTokens>(decoded, length, tile, x + m * width + from * kTokens, sums + m * kPanel);
    }
  }
}

// Units [begin, begin + units) of a panel, from a chunk's first on.
template <class C>
void decode_units(const LowBitWeight& weight, size_t panel, size_t begin, size_t units, float* decoded) {
  const FloatTable table = values_of(weight);
  const Decoder<C> decoder(weight);
  const bool rows = weight.zero_kind == Zero::rows;
  const size_t within = begin % weight.units, line = C::triples ? within / 3 * 5 : within * C::bits;
  const uint8_t* lines = weight.codes + panel * weight.panel_bytes() +
                         (begin / weight.units * weight.group_lines() + line) * kLine;
  for_chunks<C>(units, [&](auto chunk) {
    const size_t index = (panel * weight.groups + begin / weight.units) * kPanel;
    const Floats scale[2] = {parameters(weight, weight.scales, index),
                             parameters(weight, weight.scales, index + kTile)};
    const Floats zero[2] = {zeros_of(weight, index), zeros_of(weight, index + kTile)};
    if (!C::triples && weight.half_units())
      decode_chunk<C, chunk()>(Steps<0, 1, 2, 3>{}, lines, decoder, table, rows, scale, zero, decoded);
    else decode_chunk<C, chunk()>(StepsOf<chunk()>{}, lines, decoder, table, rows, scale, zero, decoded);
    lines += C::template lines<chunk()> * kLine;
    const size_t from = place_of_unit(weight, true, begin);
    begin += chunk();
    decoded += (place_of_unit(weight, true, begin) - from) * kPanel;
  });
}

void place(const LowBitWeight& weight, const float* x, size_t row, size_t together, float* all) {
  float* to = all + row / together * weight.width() * together + row % together;
  const size_t padded = dense(weight, together) ? weight.parts * weight.dense_group() : weight.padded_block();
  for (size_t begin = 0; begin < weight.columns; begin += weight.block) {
    const size_t length = weight.columns - begin < weight.block ? weight.columns - begin : weight.block;
    const size_t copied = x ? length : 0;
    for (size_t k = 0; k < copied; ++k) to[k * together] = x[begin + k];
    for (size_t k = copied; k < padded; ++k) to[k * together] = 0.0f;
    to += padded * together;
  }
}

size_t rows_together(const LowBitWeight& weight, size_t rows) {
  return weight.codebook ? (rows == 1 ? 1 : kTokens) : together(weight, rows);
}

void exact(const LowBitWeight& weight, size_t panel, const float* x, size_t together, size_t first, size_t tokens,
           float* sums) {
  if (weight.codebook)
    return many(weight, x, first, tokens, sums, [&](size_t begin, size_t units, float* decoded) {
      decode_vectors(weight, panel, begin, units, decoded);
    });
  with_codes(weight, [&](auto codes) {
    using C = decltype(codes);
    if constexpr (kStreamed > 0)
      if (together < kTokens) return few<C>(weight, panel, x, together, first, sums);
    many(weight, x, first, tokens, sums,
         [&](size_t begin, size_t units, float* decoded) { decode_units<C>(weight, panel, begin, units, decoded); });
  });
}

}  // namespace

extern const LowBitExact lowbit_exact;
const LowBitExact lowbit_exact = {rows_together, dense, place, exact};

}  // namespace qonnx::cpu::QONNX_TIER
