// Low-bit matrix product with activations quantized to int8 by row and group; compiled once per tier.
//
//   y[m, n] = Σ_g sx[m, g] · scale[n, g] · (Σ_k q[m, k] · v[n, k] − zero[n, g] · Σ_k q[m, k])
//
// The inner sums are exact in int32: unsigned bytes v of the weight times signed bytes q of the activations. A zero that
// is one whole number for all costs nothing: the sums start from −zero · Σ q.
//
// Few tokens (up to kStreamed): every code is decoded in registers and used at once; the weight streams through, once.
// More tokens: a run of groups of the panel is decoded to bytes into the L1 cache (16 KB) and multiplied with all tokens,
// eight at a time, before the next run; partial results stay in `sums`.
#include "lowbit_decode.h"

namespace qonnx::cpu::QONNX_TIER {

namespace {

constexpr size_t kAhead = 2048;     // bytes of prefetch; the hardware's own prefetcher stops at every 4 KB page
constexpr size_t kDecoded = 16384;  // bytes of decoded panel at a time

void quantize(const LowBitWeight& weight, const float* x, size_t row, const QuantizedRows& q) {
  const size_t width = weight.units * kUnit, block = width * weight.parts;
  for (size_t g = 0; g < weight.groups; g += weight.parts) {
    Ints largest = ints(0);
    for (size_t k = 0; k < block; k += 16) largest = max_of(largest, magnitude_bits(load_floats(x + k)));
    const uint32_t bits = static_cast<uint32_t>(largest_of(largest));
    const bool finite = bits < 0x7f800000;
    const float magnitude = bits_float(bits), safe = magnitude > 0x1p-100f ? magnitude : 0x1p-100f;
    const Floats inverse = floats(finite ? 127.0f / safe : 0.0f);
    for (size_t part = 0; part < weight.parts; ++part, x += width) {
      int8_t* codes = q.codes + row * weight.width() + (g + part) * width;
      Ints sum = ints(0);
      for (size_t k = 0; k < width; k += 16) {
        const Ints code = finite ? rounded(load_floats(x + k) * inverse) : ints(0);
        sum = sum + code;
        store_int8(codes + k, code);
      }
      const int32_t total = sum_of(sum);
      const size_t at = row * weight.groups + g + part;
      q.scale[at] = finite ? safe / 127.0f : bits_float(0x7fc00000);
      q.start[at] = weight.zero_kind == Zero::integer ? -static_cast<int32_t>(weight.zero) * total : 0;
      q.sum[at] = static_cast<float>(total) * (weight.zero_kind == Zero::number ? weight.zero : 1.0f);
    }
  }
}

// sum += sx · scale · (dots − zero · Σ q)
static inline Floats finished(const LowBitWeight& weight, Ints dots, Floats scale, const void* zeros, size_t at,
                              const QuantizedRows& q, size_t group, Floats sum) {
  Floats value = to_float(dots);
  if (weight.zero_kind == Zero::number) value = value - floats(q.sum[group]);
  if (weight.zero_kind == Zero::rows) value = value - parameters(weight, zeros, at) * floats(q.sum[group]);
  return fma(scale * floats(q.scale[group]), value, sum);
}

// One step of four k: decode once, use for every token.
template <class C, int tokens, int tiles, int j>
static inline void step(const uint8_t* unit, const int8_t* x, size_t width, ByteTable table, Ints (&dots)[2][tokens][tiles]) {
#pragma GCC unroll 2
  for (int t = 0; t < tiles; ++t) {
    Bytes v = codes_of_step<C::bits, j>(unit + 64 * t);
    if constexpr (C::table) v = look_up(table, v);
#pragma GCC unroll 8
    for (int m = 0; m < tokens; ++m)
      dots[j % 2][m][t] = dot<C::value_bits>(dots[j % 2][m][t], v, four_bytes(x + static_cast<size_t>(m) * width + 4 * j));
  }
}

template <class C, int tokens, int tiles, int... j>
static inline void unit_steps(Steps<j...>, const uint8_t* unit, const int8_t* x, size_t width, ByteTable table,
                              Ints (&dots)[2][tokens][tiles]) {
  (step<C, tokens, tiles, j>(unit, x, width, table, dots), ...);
}

// Few tokens: tiles [tile, tile + tiles) of the panel.
template <class C, int tokens, int tiles>
void stream(const LowBitWeight& weight, size_t panel, int tile, const QuantizedRows& q, size_t first, float* sums) {
  const uint8_t* unit = weight.codes + panel * weight.panel_bytes() + 64 * static_cast<size_t>(tile);
  const size_t width = weight.width(), at = panel * weight.groups * kPanel + kTile * static_cast<size_t>(tile);
  const int8_t* x = q.codes + first * width;
  const ByteTable table = load_table(weight.bytes);
  Floats total[tokens][tiles];
  for (int m = 0; m < tokens; ++m)
    for (int t = 0; t < tiles; ++t) total[m][t] = floats(0);
  for (size_t g = 0; g < weight.groups; ++g) {
    Ints dots[2][tokens][tiles];
#pragma GCC unroll 8
    for (int m = 0; m < tokens; ++m)
#pragma GCC unroll 2
      for (int t = 0; t < tiles; ++t) {
        dots[0][m][t] = ints(q.start[(first + static_cast<size_t>(m)) * weight.groups + g]);
        dots[1][m][t] = ints(0);
      }
    for (size_t u = 0; u < weight.units; ++u, unit += C::bits * kLine, x += kUnit) {
#pragma GCC unroll 16
      for (int line = 0; line < 2 * C::bits; ++line) prefetch(unit + kAhead + 64 * line);
      unit_steps<C, tokens, tiles>(AllSteps{}, unit, x, width, table, dots);
    }
#pragma GCC unroll 2
    for (int t = 0; t < tiles; ++t) {
      const size_t index = at + g * kPanel + kTile * static_cast<size_t>(t);
      const Floats scale = parameters(weight, weight.scales, index);
#pragma GCC unroll 8
      for (int m = 0; m < tokens; ++m)
        total[m][t] = finished(weight, dots[0][m][t] + dots[1][m][t], scale, weight.zeros, index, q,
                               (first + static_cast<size_t>(m)) * weight.groups + g, total[m][t]);
    }
  }
  for (int m = 0; m < tokens; ++m)
    for (int t = 0; t < tiles; ++t) store_floats(sums + static_cast<size_t>(m) * kPanel + kTile * static_cast<size_t>(tile + t), total[m][t]);
}

// Decodes `units` units to bytes, [step][tile 2][64].
template <class C, int... j>
static inline void decode_unit(Steps<j...>, const uint8_t* unit, ByteTable table, uint8_t* out) {
  auto one = [&]<int step>() {
    for (int t = 0; t < 2; ++t) {
      Bytes v = codes_of_step<C::bits, step>(unit + 64 * t);
      if constexpr (C::table) v = look_up(table, v);
      store_bytes(out + step * kLine + 64 * t, v);
    }
  };
  (one.template operator()<j>(), ...);
}

// Decoded groups [group, group + groups) times `tokens` tokens, added to sums.
template <int value_bits, int tokens, int tiles>
void multiply(const LowBitWeight& weight, const uint8_t* decoded, size_t panel, int tile, size_t group, size_t groups,
              const QuantizedRows& q, size_t first, float* sums) {
  const size_t width = weight.width(), steps = weight.units * 8;
  const size_t at = panel * weight.groups * kPanel + kTile * static_cast<size_t>(tile);
  const int8_t* x = q.codes + first * width + group * weight.units * kUnit;
  const uint8_t* v = decoded + 64 * static_cast<size_t>(tile);
  sums += kTile * static_cast<size_t>(tile);
  for (size_t g = group; g < group + groups; ++g) {
    Ints dots[tokens][tiles];
#pragma GCC unroll 8
    for (int m = 0; m < tokens; ++m)
#pragma GCC unroll 2
      for (int t = 0; t < tiles; ++t) dots[m][t] = ints(q.start[(first + static_cast<size_t>(m)) * weight.groups + g]);
    for (size_t s = 0; s < steps; ++s, v += kLine, x += 4) {
      Bytes w[tiles];
#pragma GCC unroll 2
      for (int t = 0; t < tiles; ++t) w[t] = load_bytes(v + 64 * t);
#pragma GCC unroll 8
      for (int m = 0; m < tokens; ++m) {
        const int32_t four = four_bytes(x + static_cast<size_t>(m) * width);
#pragma GCC unroll 2
        for (int t = 0; t < tiles; ++t) dots[m][t] = dot<value_bits>(dots[m][t], w[t], four);
      }
    }
#pragma GCC unroll 2
    for (int t = 0; t < tiles; ++t) {
      const size_t index = at + g * kPanel + kTile * static_cast<size_t>(t);
      const Floats scale = parameters(weight, weight.scales, index);
#pragma GCC unroll 8
      for (int m = 0; m < tokens; ++m) {
        float* sum = sums + static_cast<size_t>(m) * kPanel + kTile * static_cast<size_t>(t);
        store_floats(sum, finished(weight, dots[m][t], scale, weight.zeros, index, q,
                                   (first + static_cast<size_t>(m)) * weight.groups + g, load_floats(sum)));
      }
    }
  }
}

template <class C>
void few(const LowBitWeight& weight, size_t panel, const QuantizedRows& q, size_t first, size_t tokens, float* sums) {
  for (int tile = 0; tile < 2; tile += kTilesAtOnce) {
    if (tokens == 1) stream<C, 1, kTilesAtOnce>(weight, panel, tile, q, first, sums);
    if (tokens == 2) stream<C, 2, kTilesAtOnce>(weight, panel, tile, q, first, sums);
    if constexpr (kStreamed == 4) {
      if (tokens == 3) stream<C, 3, kTilesAtOnce>(weight, panel, tile, q, first, sums);
      if (tokens == 4) stream<C, 4, kTilesAtOnce>(weight, panel, tile, q, first, sums);
    }
  }
}

template <class C>
void many(const LowBitWeight& weight, size_t panel, const QuantizedRows& q, size_t first, size_t tokens, float* sums) {
  alignas(64) uint8_t decoded[kDecoded];
  const size_t group_bytes = weight.units * kUnit * kPanel;
  const size_t run = kDecoded / group_bytes;
  const ByteTable table = load_table(weight.bytes);
  memset(sums, 0, tokens * kPanel * sizeof(float));
  const uint8_t* unit = weight.codes + panel * weight.panel_bytes();
  for (size_t g = 0; g < weight.groups; g += run) {
    const size_t groups = weight.groups - g < run ? weight.groups - g : run;
    for (size_t u = 0; u < groups * weight.units; ++u, unit += C::bits * kLine)
      decode_unit<C>(AllSteps{}, unit, table, decoded + u * kUnit * kPanel);
    for (int tile = 0; tile < 2; tile += kTilesAtOnce) {
      size_t m = 0;
      for (; m + kTokens <= tokens; m += kTokens)
        multiply<C::value_bits, kTokens, kTilesAtOnce>(weight, decoded, panel, tile, g, groups, q, first + m, sums + m * kPanel);
      for (; m + 2 <= tokens; m += 2)
        multiply<C::value_bits, 2, kTilesAtOnce>(weight, decoded, panel, tile, g, groups, q, first + m, sums + m * kPanel);
      for (; m < tokens; ++m)
        multiply<C::value_bits, 1, kTilesAtOnce>(weight, decoded, panel, tile, g, groups, q, first + m, sums + m * kPanel);
    }
  }
}

void int8(const LowBitWeight& weight, size_t panel, const QuantizedRows& q, size_t first, size_t tokens, float* sums) {
  with_codes(weight, [&](auto codes) {
    using C = decltype(codes);
    if constexpr (kStreamed > 0)
      if (tokens <= kStreamed) return few<C>(weight, panel, q, first, tokens, sums);
    many<C>(weight, panel, q, first, tokens, sums);
  });
}

}  // namespace

extern const LowBitInt8 lowbit_int8;
const LowBitInt8 lowbit_int8 = {quantize, int8};

}  // namespace qonnx::cpu::QONNX_TIER
