// Scores to logarithmic codes and weights, and the product of byte weights with int8 values; compiled once per tier.
#include <limits>

#include "../formats/float16.h"
#include "log_attention.h"
#include "vector.h"

namespace qonnx::cpu::QONNX_TIER {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Peak {
  float largest;
  bool spoiled;  // NaN or +∞ is there
};

#if defined(__AVX512F__)

static inline __mmask16 first_lanes(size_t n) { return n >= 16 ? 0xffff : static_cast<__mmask16>((1u << n) - 1); }

// Four chains at a time: rows are short, and a maximum takes four cycles.
Peak peak_of(const float* x, size_t n) {
  const __m512 infinity = _mm512_set1_ps(kInfinity), none = _mm512_set1_ps(-kInfinity);
  __m512 largest[4] = {none, none, none, none};
  __mmask16 spoiled = 0;
  auto take = [&](__m512& into, __m512 v) {
    into = _mm512_max_ps(into, v);
    spoiled |= _mm512_cmp_ps_mask(v, infinity, _CMP_NLT_UQ);
  };
  size_t i = 0;
  for (; i + 64 <= n; i += 64)
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; ++j) take(largest[j], _mm512_loadu_ps(x + i + 16 * j));
  for (; i < n; i += 16) take(largest[0], _mm512_mask_loadu_ps(none, first_lanes(n - i), x + i));
  const __m512 two = _mm512_max_ps(_mm512_max_ps(largest[0], largest[1]), _mm512_max_ps(largest[2], largest[3]));
  return {_mm512_reduce_max_ps(two), spoiled != 0};
}

struct Codes {
  __m512 largest, factor, last;
  explicit Codes(const LogTable& table, float top)
      : largest(_mm512_set1_ps(top)),
        factor(_mm512_set1_ps(table.factor)),
        last(_mm512_set1_ps(static_cast<float>(table.levels - 1))) {}
  __m512i of(__m512 x) const {
    return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_mul_ps(_mm512_sub_ps(largest, x), factor), last));
  }
};

template <class LookUp>
float weigh_by(const LogTable& table, float top, const float* x, size_t n, float* weights, LookUp&& look_up) {
  const Codes codes(table, top);
  __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  size_t i = 0;
  for (; i + 32 <= n; i += 32)
#pragma GCC unroll 2
    for (size_t j = 0; j < 2; ++j) {
      const __m512 w = look_up(codes.of(_mm512_loadu_ps(x + i + 16 * j)));
      _mm512_storeu_ps(weights + i + 16 * j, w);
      sum[j] = _mm512_add_ps(sum[j], w);
    }
  for (; i < n; i += 16) {
    const __mmask16 lanes = first_lanes(n - i);
    const __m512 w = _mm512_maskz_mov_ps(lanes, look_up(codes.of(_mm512_maskz_loadu_ps(lanes, x + i))));
    _mm512_mask_storeu_ps(weights + i, lanes, w);
    sum[0] = _mm512_add_ps(sum[0], w);
  }
  return _mm512_reduce_add_ps(_mm512_add_ps(sum[0], sum[1]));
}

float weigh_row(const LogTable& table, float top, const float* x, size_t n, float* weights) {
  const __m512 first = _mm512_load_ps(table.weight);
  if (table.levels <= 16)
    return weigh_by(table, top, x, n, weights, [&](__m512i code) { return _mm512_permutexvar_ps(code, first); });
  if (table.period) {
    const __m512i inside = _mm512_set1_epi32(table.period - 1), last = _mm512_set1_epi32(table.levels - 1);
    const __m128i shift = _mm_cvtsi32_si128(__builtin_ctz(static_cast<unsigned>(table.period)));
    return weigh_by(table, top, x, n, weights, [&](__m512i code) {
      const __m512 fraction = _mm512_permutexvar_ps(_mm512_and_si512(code, inside), first);
      const __m512i halvings = _mm512_slli_epi32(_mm512_srl_epi32(code, shift), 23);
      const __m512 w = _mm512_castsi512_ps(_mm512_sub_epi32(_mm512_castps_si512(fraction), halvings));
      return _mm512_maskz_mov_ps(_mm512_cmplt_epi32_mask(code, last), w);
    });
  }
  return weigh_by(table, top, x, n, weights, [&](__m512i code) { return _mm512_i32gather_ps(code, table.weight, 4); });
}

float weigh_bytes_row(const LogTable& table, float top, const float* x, size_t n, uint8_t* high, uint8_t* low) {
  const Codes codes(table, top);
  const __m512 first = _mm512_load_ps(table.weight);
  const __m128i high_of = _mm_load_si128(reinterpret_cast<const __m128i*>(table.high));
  const __m128i low_of = _mm_load_si128(reinterpret_cast<const __m128i*>(table.low));
  __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  size_t i = 0;
  for (; i + 32 <= n; i += 32)
#pragma GCC unroll 2
    for (size_t j = 0; j < 2; ++j) {
      const __m512i code = codes.of(_mm512_loadu_ps(x + i + 16 * j));
      sum[j] = _mm512_add_ps(sum[j], _mm512_permutexvar_ps(code, first));
      const __m128i bytes = _mm512_cvtepi32_epi8(code);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(high + i + 16 * j), _mm_shuffle_epi8(high_of, bytes));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(low + i + 16 * j), _mm_shuffle_epi8(low_of, bytes));
    }
  for (; i < n; i += 16) {
    const __mmask16 lanes = first_lanes(n - i);
    const __m512i code = codes.of(_mm512_maskz_loadu_ps(lanes, x + i));
    sum[0] = _mm512_mask_add_ps(sum[0], lanes, sum[0], _mm512_permutexvar_ps(code, first));
    const __m128i bytes = _mm512_cvtepi32_epi8(code);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(high + i), _mm_maskz_mov_epi8(lanes, _mm_shuffle_epi8(high_of, bytes)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(low + i), _mm_maskz_mov_epi8(lanes, _mm_shuffle_epi8(low_of, bytes)));
  }
  return _mm512_reduce_add_ps(_mm512_add_ps(sum[0], sum[1]));
}

#else

Peak peak_of(const float* x, size_t n) {
  Vector largest = broadcast(-kInfinity);
  auto below = largest < broadcast(kInfinity);
  size_t i = 0;
  for (; i + kVectorLanes <= n; i += kVectorLanes) {
    const Vector v = load(x + i);
    below &= v < broadcast(kInfinity);
    largest = v > largest ? v : largest;
  }
  Peak peak{-kInfinity, false};
  for (size_t lane = 0; lane < kVectorLanes; ++lane) {
    peak.largest = largest[lane] > peak.largest ? largest[lane] : peak.largest;
    peak.spoiled |= !below[lane];
  }
  for (; i < n; ++i) {
    peak.spoiled |= !(x[i] < kInfinity);
    peak.largest = x[i] > peak.largest ? x[i] : peak.largest;
  }
  return peak;
}

static inline int32_t code_of(const LogTable& table, float top, float x) {
  const float last = static_cast<float>(table.levels - 1), octaves = (top - x) * table.factor;
  return static_cast<int32_t>(__builtin_rintf(octaves < last ? octaves : last));
}

float weigh_row(const LogTable& table, float top, const float* x, size_t n, float* weights) {
  float sum[4] = {};
  for (size_t i = 0; i < n; ++i) weights[i] = table.weight[code_of(table, top, x[i])];
  for (size_t i = 0; i < n; ++i) sum[i % 4] += weights[i];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

float weigh_bytes_row(const LogTable& table, float top, const float* x, size_t n, uint8_t* high, uint8_t* low) {
  float sum = 0;
  for (size_t i = 0; i < (n + 15) / 16 * 16; ++i) {
    const int32_t code = i < n ? code_of(table, top, x[i]) : table.levels - 1;
    high[i] = table.high[code];
    low[i] = table.low[code];
    if (i < n) sum += table.weight[code];
  }
  return sum;
}

#endif

float weigh(const LogTable& table, const float* scores, size_t n, float* weights) {
  const Peak peak = peak_of(scores, n);
  if (!peak.spoiled && peak.largest > -kInfinity) return weigh_row(table, peak.largest, scores, n, weights);
  memset(weights, 0, n * sizeof(float));
  return peak.spoiled ? std::numeric_limits<float>::quiet_NaN() : 0;
}

float weigh_bytes(const LogTable& table, const float* scores, size_t n, uint8_t* high, uint8_t* low) {
  const Peak peak = peak_of(scores, n);
  if (!peak.spoiled && peak.largest > -kInfinity) return weigh_bytes_row(table, peak.largest, scores, n, high, low);
  memset(high, 0, (n + 15) / 16 * 16);
  memset(low, 0, (n + 15) / 16 * 16);
  return peak.spoiled ? std::numeric_limits<float>::quiet_NaN() : 0;
}

void finish(const float* sums, float factor, const float* scale, size_t d, float* y) {
  for (size_t c = 0; c < d; ++c) y[c] = sums[c] * factor * scale[c];
}

void widen_bytes(const int8_t* x, size_t n, float* y) {
  for (size_t i = 0; i < n; ++i) y[i] = x[i];
}

void pack_bytes(const int8_t* value, size_t n, size_t d, size_t padded, int8_t* packed) {
  for (size_t i = 0; i < n; i += 4, packed += 4 * padded) {
    size_t c = 0;
#if defined(__AVX512F__)
    if (i + 4 <= n)
      for (; c + 16 <= d; c += 16) {
        auto row = [&](size_t j) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(value + (i + j) * d + c)); };
        auto put = [&](size_t at, __m128i x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(packed + 4 * c + at), x); };
        const __m128i r0 = row(0), r1 = row(1), r2 = row(2), r3 = row(3);
        const __m128i a = _mm_unpacklo_epi8(r0, r1), b = _mm_unpacklo_epi8(r2, r3);
        const __m128i e = _mm_unpackhi_epi8(r0, r1), f = _mm_unpackhi_epi8(r2, r3);
        put(0, _mm_unpacklo_epi16(a, b)), put(16, _mm_unpackhi_epi16(a, b));
        put(32, _mm_unpacklo_epi16(e, f)), put(48, _mm_unpackhi_epi16(e, f));
      }
#endif
    for (; c < padded; ++c)
      for (size_t j = 0; j < 4; ++j) packed[4 * c + j] = c < d && i + j < n ? value[(i + j) * d + c] : int8_t{0};
  }
}

#if defined(__AVX512VNNI__)

// Sums are of this type: GCC keeps an array of __m512i in memory, its casts to and fro get in the way.
typedef int32_t Sums __attribute__((vector_size(64)));

static inline Sums dot(Sums sum, __m512i weights, __m512i values) {
  return reinterpret_cast<Sums>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), weights, values));
}

// `rows` rows by `tiles` tiles of 16 columns, two sums each.
template <int rows, int tiles>
void byte_tile(const LogTable& table, const uint8_t* high, const uint8_t* low, size_t stride, const int8_t* packed,
               size_t n, size_t padded, float* y) {
  Sums of_high[rows][tiles], of_low[rows][tiles];
#pragma GCC unroll 6
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (int t = 0; t < tiles; ++t) of_high[r][t] = of_low[r][t] = Sums{};
  auto four = [](const uint8_t* weights) {
    int32_t x;
    memcpy(&x, weights, 4);
    return _mm512_set1_epi32(x);
  };
  for (size_t i = 0; i < n; i += 4, packed += 4 * padded) {
    __m512i v[tiles];
#pragma GCC unroll 4
    for (int t = 0; t < tiles; ++t) v[t] = _mm512_loadu_si512(packed + 64 * t);
#pragma GCC unroll 6
    for (int r = 0; r < rows; ++r) {
      const __m512i w = four(high + static_cast<size_t>(r) * stride + i);
#pragma GCC unroll 4
      for (int t = 0; t < tiles; ++t) of_high[r][t] = dot(of_high[r][t], w, v[t]);
      const __m512i x = four(low + static_cast<size_t>(r) * stride + i);
#pragma GCC unroll 4
      for (int t = 0; t < tiles; ++t) of_low[r][t] = dot(of_low[r][t], x, v[t]);
    }
  }
  const __m512 high_unit = _mm512_set1_ps(table.high_unit), low_unit = _mm512_set1_ps(table.low_unit);
#pragma GCC unroll 6
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (int t = 0; t < tiles; ++t) {
      const __m512 high_sum = _mm512_mul_ps(_mm512_cvtepi32_ps(reinterpret_cast<__m512i>(of_high[r][t])), high_unit);
      const __m512 low_sum = _mm512_mul_ps(_mm512_cvtepi32_ps(reinterpret_cast<__m512i>(of_low[r][t])), low_unit);
      _mm512_storeu_ps(y + static_cast<size_t>(r) * padded + 16 * t, _mm512_add_ps(high_sum, low_sum));
    }
}

template <int rows>
void byte_strip(const LogTable& table, const uint8_t* high, const uint8_t* low, size_t stride, const int8_t* packed,
                size_t n, size_t padded, float* y) {
  size_t c = 0;
  for (; c + 64 <= padded; c += 64) byte_tile<rows, 4>(table, high, low, stride, packed + 4 * c, n, padded, y + c);
  for (; c < padded; c += 16) byte_tile<rows, 1>(table, high, low, stride, packed + 4 * c, n, padded, y + c);
}

void multiply_bytes(const LogTable& table, const uint8_t* high, const uint8_t* low, size_t stride, size_t rows,
                    const int8_t* packed, size_t n, size_t padded, float* y) {
  for (; rows >= 3; rows -= 3, high += 3 * stride, low += 3 * stride, y += 3 * padded)
    byte_strip<3>(table, high, low, stride, packed, n, padded, y);
  for (; rows; --rows, high += stride, low += stride, y += padded)
    byte_strip<1>(table, high, low, stride, packed, n, padded, y);
}
constexpr auto kMultiplyBytes = multiply_bytes;

#else
constexpr decltype(LogAttentionKernels::multiply_bytes) kMultiplyBytes = nullptr;
#endif

}  // namespace

extern const LogAttentionKernels log_attention_kernels;
const LogAttentionKernels log_attention_kernels = {weigh, weigh_bytes, finish, widen_bytes, pack_bytes, kMultiplyBytes};

}  // namespace qonnx::cpu::QONNX_TIER
