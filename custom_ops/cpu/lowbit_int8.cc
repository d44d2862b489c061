// Low-bit matrix product with activations quantized to int8 by row and group; compiled once per tier.
//
//   y[m, n] = Σ_g sx[m, g] · scale[n, g] · (Σ_k q[m, k] · v[n, k] − zero[n, g] · Σ_k q[m, k])
//
// The inner sums are exact in int32: unsigned bytes v of the weight times signed bytes q of the activations. A zero
// that is one whole number for all costs nothing: the sums start from −zero · Σ q. Activations of 16 bits are two rows
// of bytes, q = 256 · high + low (QuantizedRows::pairs), whose sums are put together once a group or, of few tokens,
// once a panel.
//
// Few tokens (up to 8): every code is decoded in registers and used at once; the weight streams through, once.
// More tokens: a run of groups of the panel is decoded to bytes into the L1 cache (16 KB) and multiplied with all
// tokens, kBlockTokens at a time, before the next run; partial results stay in `sums`. The number of tokens is rounded
// up to 1, 2, 4, 8 or a multiple of kBlockTokens with rows of zeros.
#include "codebook_decode.h"
#include "lowbit_decode.h"
#include "lowbit_dots.h"

namespace qonnx::cpu::QONNX_TIER {

namespace {

constexpr size_t kDecoded = 16384;  // bytes of decoded panel at a time

// Codes of 16 bits go from −kPairSteps to kPairSteps, so that both bytes are signed ones.
constexpr float kPairSteps = 127 * 257;

// 16 codes at a time, four neighbours in k staying together.
static inline void store_codes(Ints code, int8_t* to, size_t together) {
  int8_t sixteen[16];
  store_int8(sixteen, code);
  for (size_t i = 0; i < 4; ++i) memcpy(to + 4 * together * i, sixteen + 4 * i, 4);
}

// A row of 16-bit codes into rows 2 · row and 2 · row + 1, which lie together.
void quantize_pair(const LowBitWeight& weight, const float* x, size_t row, const QuantizedRows& q) {
  const size_t width = weight.units * kUnit, block = width * weight.parts, n = q.together;
  int8_t* codes = q.codes + 2 * row / n * weight.width() * n + 4 * (2 * row % n);
  size_t at = 2 * row / n * weight.groups * n + 2 * row % n;
  for (size_t g = 0; g < weight.groups; g += weight.parts) {
    Ints largest = ints(0);
    for (size_t k = 0; x && k < block; k += 16) largest = max_of(largest, magnitude_bits(load_floats(x + k)));
    const uint32_t bits = static_cast<uint32_t>(largest_of(largest));
    const bool finite = bits < 0x7f800000;
    const float magnitude = bits_float(bits), safe = magnitude > 0x1p-100f ? magnitude : 0x1p-100f;
    const Floats inverse = floats(finite ? kPairSteps / safe : 0.0f);
    const float scale = !x ? 0 : finite ? safe / kPairSteps : bits_float(0x7fc00000);
    for (size_t part = 0; part < weight.parts; ++part, at += n) {
      Ints sum[2] = {ints(0), ints(0)};
      for (size_t k = 0; k < width; k += 16, codes += 16 * n) {
        const Floats code = to_float(x && finite ? rounded(load_floats(x + k) * inverse) : ints(0));
        // Rounded up at halves, so that the low byte never is 128.
        const Ints high = rounded(fma(code, floats(0x1p-8f), floats(0x1p-10f)));
        const Ints low = rounded(fma(to_float(high), floats(-256.0f), code));
        sum[0] = sum[0] + high;
        sum[1] = sum[1] + low;
        store_codes(high, codes, n);
        store_codes(low, codes + 4, n);
      }
      if (x) x += width;
      for (size_t byte = 0; byte < 2; ++byte) {
        const int32_t total = sum_of(sum[byte]);
        q.scale[at + byte] = byte ? scale : 256 * scale;
        q.start[at + byte] = weight.zero_kind == Zero::integer ? -static_cast<int32_t>(weight.zero) * total : 0;
        q.sum[at + byte] = static_cast<float>(total) * (weight.zero_kind == Zero::number ? weight.zero : 1.0f);
      }
    }
  }
}

void quantize(const LowBitWeight& weight, const float* x, size_t row, const QuantizedRows& q) {
  if (q.pairs) return quantize_pair(weight, x, row, q);
  const size_t width = weight.units * kUnit, block = width * weight.parts, n = q.together;
  int8_t* codes = q.codes + row / n * weight.width() * n + 4 * (row % n);
  size_t at = row / n * weight.groups * n + row % n;
  if (!x) {
    for (size_t k = 0; k < weight.width(); k += 4) memset(codes + k * n, 0, 4);
    for (size_t g = 0; g < weight.groups; ++g) q.scale[at + g * n] = q.sum[at + g * n] = 0, q.start[at + g * n] = 0;
    return;
  }
  for (size_t g = 0; g < weight.groups; g += weight.parts) {
    Ints largest = ints(0);
    for (size_t k = 0; k < block; k += 16) largest = max_of(largest, magnitude_bits(load_floats(x + k)));
    const uint32_t bits = static_cast<uint32_t>(largest_of(largest));
    const bool finite = bits < 0x7f800000;
    const float magnitude = bits_float(bits), safe = magnitude > 0x1p-100f ? magnitude : 0x1p-100f;
    const Floats inverse = floats(finite ? 127.0f / safe : 0.0f);
    for (size_t part = 0; part < weight.parts; ++part, x += width, at += n) {
      Ints sum = ints(0);
      for (size_t k = 0; k < width; k += 16, codes += 16 * n) {
        const Ints code = finite ? rounded(load_floats(x + k) * inverse) : ints(0);
        sum = sum + code;
        store_codes(code, codes, n);
      }
      const int32_t total = sum_of(sum);
      q.scale[at] = finite ? safe / 127.0f : bits_float(0x7fc00000);
      q.start[at] = weight.zero_kind == Zero::integer ? -static_cast<int32_t>(weight.zero) * total : 0;
      q.sum[at] = static_cast<float>(total) * (weight.zero_kind == Zero::number ? weight.zero : 1.0f);
    }
  }
}

// sum + sx · scale · (dots − zero · Σ q) for one token and tile; `at` indexes the zeros.
static inline Floats finished(const LowBitWeight& weight, Zero kind, Ints dots, Floats scale, size_t at, float sx,
                              float codes, Floats sum) {
  Floats value = to_float(dots);
  if (kind == Zero::number) value = value - floats(codes);
  if (kind == Zero::rows) value = value - parameters(weight, weight.zeros, at) * floats(codes);
  return fma(scale * floats(sx), value, sum);
}

// Two sums for each token and tile where registers allow it: the next product need not wait for the last.
template <int tokens>
constexpr int kChains = tokens <= 2 ? 2 : 1;

// One step of four k: decode once, use for every token.
template <class C, int units, int tokens, int tiles, int j>
static inline void step(const uint8_t* lines, const int8_t* x, const Decoder<C>& decoder,
                        Ints (&dots)[kChains<tokens>][tokens][tiles]) {
  Bytes v[tiles];
#pragma GCC unroll 2
  for (int t = 0; t < tiles; ++t) v[t] = decoder.template value<units, j>(lines + 64 * t);
#pragma GCC unroll 8
  for (int m = 0; m < tokens; ++m) {
    const int32_t four = four_bytes(x + 4 * (j * tokens + m));
#pragma GCC unroll 2
    for (int t = 0; t < tiles; ++t) {
      Ints& sum = dots[j % kChains<tokens>][m][t];
      sum = dot<C::value_bits>(sum, v[t], four);
    }
  }
}

template <class C, int units, int tokens, int tiles, int... j>
static inline void chunk_steps(Steps<j...>, const uint8_t* lines, const int8_t* x, const Decoder<C>& decoder,
                               Ints (&dots)[kChains<tokens>][tokens][tiles]) {
  (step<C, units, tokens, tiles, j>(lines, x, decoder, dots), ...);
}

// Few tokens, exactly `tokens` = q.together: tiles [tile, tile + tiles) of the panel.
template <class C, int tokens, int tiles>
void stream(const LowBitWeight& weight, size_t panel, int tile, const QuantizedRows& q, size_t first, float* sums) {
  const uint8_t* lines = weight.codes + panel * weight.panel_bytes() + 64 * static_cast<size_t>(tile);
  const size_t groups = weight.groups, units = weight.units;
  const size_t at = panel * groups * kPanel + kTile * static_cast<size_t>(tile);
  const int8_t* x = q.codes + first * weight.width();
  const Zero kind = weight.zero_kind;
  const Decoder<C> decoder(weight);
  Floats total[tokens][tiles];
  for (int m = 0; m < tokens; ++m)
    for (int t = 0; t < tiles; ++t) total[m][t] = floats(0);
  for (size_t g = 0; g < groups; ++g) {
    const size_t group = (first / tokens * groups + g) * tokens;
    Ints dots[kChains<tokens>][tokens][tiles];
#pragma GCC unroll 8
    for (int m = 0; m < tokens; ++m)
#pragma GCC unroll 2
      for (int t = 0; t < tiles; ++t) {
        dots[kChains<tokens> - 1][m][t] = ints(0);
        dots[0][m][t] = ints(q.start[group + static_cast<size_t>(m)]);
      }
    for_chunks<C>(units, [&](auto chunk) {
      constexpr size_t count = C::template lines<chunk()>;
#pragma GCC unroll 16
      for (size_t line = 0; line < tiles * count; ++line) prefetch_stream(lines + kLine / tiles * line);
      chunk_steps<C, chunk(), tokens, tiles>(StepsOf<chunk()>{}, lines, x, decoder, dots);
      lines += count * kLine;
      x += kUnit * tokens * chunk();
    });
#pragma GCC unroll 2
    for (int t = 0; t < tiles; ++t) {
      const size_t index = at + g * kPanel + kTile * static_cast<size_t>(t);
      const Floats scale = parameters(weight, weight.scales, index);
#pragma GCC unroll 8
      for (int m = 0; m < tokens; ++m) {
        Ints dot = dots[0][m][t];
        if constexpr (kChains<tokens> == 2) dot = dot + dots[1][m][t];
        const size_t of_row = group + static_cast<size_t>(m);
        total[m][t] = finished(weight, kind, dot, scale, index, q.scale[of_row], q.sum[of_row], total[m][t]);
      }
    }
  }
  for (int m = 0; m < tokens; ++m)
    for (int t = 0; t < tiles; ++t) {
      if (q.pairs && m % 2 == 0) continue;
      if constexpr (tokens > 1)
        if (q.pairs) total[m][t] = total[m - 1][t] + total[m][t];
      const size_t row = static_cast<size_t>(q.pairs ? m / 2 : m);
      store_floats(sums + row * kPanel + kTile * static_cast<size_t>(tile + t), total[m][t]);
    }
}

// Decodes a chunk to bytes, [step][tile 2][64].
template <class C, int units, int... j>
static inline void decode_chunk(Steps<j...>, const uint8_t* lines, const Decoder<C>& decoder, uint8_t* out) {
  auto one = [&]<int step>() {
    for (int t = 0; t < 2; ++t)
      store_bytes(out + step * kLine + 64 * t, decoder.template value<units, step>(lines + 64 * t));
  };
  (one.template operator()<j>(), ...);
}

// Decoded groups [group, group + groups) times `tokens` rows of codes, added to sums. `plain`: zeros are in the start
// values. Float sums stay in registers meanwhile, where there are enough of them.
template <int value_bits, bool plain, int tokens, bool pairs>
void multiply(const LowBitWeight& shared_weight, const uint8_t* decoded, size_t panel, int tile, size_t group,
              size_t groups, const QuantizedRows& shared_q, size_t first, float* sums) {
  constexpr int tiles = kTilesAtOnce;
  const LowBitWeight weight = shared_weight;  // a copy that the stores below cannot touch: its fields stay in registers
  const QuantizedRows q = shared_q;
  const size_t units = weight.units, all_groups = weight.groups;
  const bool half = weight.half_units();
  const size_t at = panel * all_groups * kPanel + kTile * static_cast<size_t>(tile);
  const Zero kind = plain ? Zero::integer : weight.zero_kind;
  const int8_t* x = q.codes + first * weight.width() + group * weight.units * kUnit * tokens;
  const uint8_t* v = decoded + 64 * static_cast<size_t>(tile);
  sums += kTile * static_cast<size_t>(tile);
  constexpr int rows = pairs ? tokens / 2 : tokens;
  Floats total[rows][tiles];
#pragma GCC unroll 8
  for (int m = 0; m < rows; ++m)
#pragma GCC unroll 2
    for (int t = 0; t < tiles; ++t)
      total[m][t] = load_floats(sums + static_cast<size_t>(m) * kPanel + kTile * static_cast<size_t>(t));
  for (size_t g = group; g < group + groups; ++g) {
    const size_t index_q = first * all_groups + g * tokens;
    Ints dots[tokens][tiles];
#pragma GCC unroll 8
    for (int m = 0; m < tokens; ++m)
#pragma GCC unroll 2
      for (int t = 0; t < tiles; ++t) dots[m][t] = ints(q.start[index_q + static_cast<size_t>(m)]);
    prefetch_next_rows(x, weight.width() * tokens, units * kUnit * tokens);
    if (half) add_half_unit<value_bits>(v, x, dots);
    else add_group<value_bits, false>(v, x, units, dots);
    v += units * 8 * kLine;
    x += units * kUnit * tokens;
#pragma GCC unroll 2
    for (int t = 0; t < tiles; ++t) {
      const size_t index = at + g * kPanel + kTile * static_cast<size_t>(t);
      const Floats scale = parameters(weight, weight.scales, index);
#pragma GCC unroll 8
      for (int m = 0; m < rows; ++m) {
        const size_t of_row = index_q + static_cast<size_t>(pairs ? 2 * m : m);
        if constexpr (pairs) {
          const Ints dot = times_256(dots[2 * m][t]) + dots[2 * m + 1][t];
          total[m][t] = finished(weight, kind, dot, scale, index, q.scale[of_row + 1],
                                 256 * q.sum[of_row] + q.sum[of_row + 1], total[m][t]);
        } else {
          total[m][t] =
              finished(weight, kind, dots[m][t], scale, index, q.scale[of_row], q.sum[of_row], total[m][t]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < rows; ++m)
#pragma GCC unroll 2
    for (int t = 0; t < tiles; ++t)
      store_floats(sums + static_cast<size_t>(m) * kPanel + kTile * static_cast<size_t>(t), total[m][t]);
}

template <class C>
void few(const LowBitWeight& weight, size_t panel, const QuantizedRows& q, size_t first, float* sums) {
  for (int tile = 0; tile < 2; tile += kTilesAtOnce) {
    if (q.together == 1) stream<C, 1, kTilesAtOnce>(weight, panel, tile, q, first, sums);
    if (q.together == 2) stream<C, 2, kTilesAtOnce>(weight, panel, tile, q, first, sums);
    if constexpr (kStreamed == 4)
      if (q.together == 4) stream<C, 4, kTilesAtOnce>(weight, panel, tile, q, first, sums);
    if constexpr (kStreamed == 4)
      if (q.together == 8) stream<C, 8, kTilesAtOnce>(weight, panel, tile, q, first, sums);
  }
}

// Every group of a panel: decode(first group, groups, bytes) and multiply with all tokens.
template <int value_bits, class Decode>
void many(const LowBitWeight& weight, size_t panel, const QuantizedRows& q, size_t first, size_t tokens, float* sums,
          Decode&& decode) {
  alignas(64) uint8_t decoded[kDecoded];
  const size_t group_bytes = weight.units * kUnit * kPanel, run = kDecoded / group_bytes;
  const bool plain = weight.zero_kind == Zero::integer;
  memset(sums, 0, tokens / (q.pairs ? 2 : 1) * kPanel * sizeof(float));
  for (size_t g = 0; g < weight.groups; g += run) {
    const size_t groups = weight.groups - g < run ? weight.groups - g : run;
    decode(g, groups, decoded);
    for (int tile = 0; tile < 2; tile += kTilesAtOnce) {
      const size_t together = q.together;
      const auto rows = [&](auto count, auto pairs) {
        for (size_t m = 0; m < tokens; m += together)
          (plain ? multiply<value_bits, true, count(), pairs()>
                 : multiply<value_bits, false, count(), pairs()>)(weight, decoded, panel, tile, g, groups, q, first + m,
                                                                  sums + (pairs() ? m / 2 : m) * kPanel);
      };
      const auto any = [&](auto count) {
        constexpr int least = count() > 1 ? count() : 2;
        if (q.pairs) rows(std::integral_constant<int, least>{}, std::true_type{});
        else rows(count, std::false_type{});
      };
      if (together == kBlockTokens || kBlockTokens == 1) any(std::integral_constant<int, kBlockTokens>{});
      else if (together == 1) rows(std::integral_constant<int, 1>{}, std::false_type{});
      else any(std::integral_constant<int, kTokens>{});
    }
  }
}

size_t rows_together(const LowBitWeight& weight, size_t rows, bool pairs) {
  if (pairs && kBlockTokens == 1) return 2;
  if (weight.codebook && rows == 1) return 1;
  if (!weight.codebook && rows <= kStreamed) return together(weight, rows);
  return rows <= kTokens ? kTokens : kBlockTokens;
}

void int8(const LowBitWeight& weight, size_t panel, const QuantizedRows& q, size_t first, size_t tokens, float* sums) {
  if (weight.codebook)
    return many<8>(weight, panel, q, first, tokens, sums, [&](size_t g, size_t groups, uint8_t* decoded) {
      decode_vectors(weight, panel, g * weight.units, groups * weight.units, decoded);
    });
  with_codes(weight, [&](auto codes) {
    using C = decltype(codes);
    if constexpr (kStreamed > 0)
      if (q.together != kBlockTokens) return few<C>(weight, panel, q, first, sums);
    const Decoder<C> decoder(weight);
    const uint8_t* lines = weight.codes + panel * weight.panel_bytes();
    many<C::value_bits>(weight, panel, q, first, tokens, sums, [&](size_t, size_t groups, uint8_t* decoded) {
      for (size_t g = 0; g < groups; ++g)
        for_chunks<C>(weight.units, [&](auto chunk) {
          if (!C::triples && weight.half_units())
            decode_chunk<C, chunk()>(Steps<0, 1, 2, 3>{}, lines, decoder, decoded);
          else decode_chunk<C, chunk()>(StepsOf<chunk()>{}, lines, decoder, decoded);
          lines += C::template lines<chunk()> * kLine;
          decoded += chunk() * kUnit * kPanel;
        });
    });
  });
}

}  // namespace

extern const LowBitInt8 lowbit_int8;
const LowBitInt8 lowbit_int8 = {rows_together, quantize, int8};

}  // namespace qonnx::cpu::QONNX_TIER
