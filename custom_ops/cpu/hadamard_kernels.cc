// Fast Walsh-Hadamard transform of a row, and rows to int8; compiled once per tier.
//
// Steps inside a vector exchange lanes and add; steps between vectors are additions alone, two steps to a pass, so that
// a row goes through the registers log4(n / lanes) + 1 times.
#include "hadamard.h"

#include <limits>

#include "../formats/float16.h"
#include "vector.h"

namespace qonnx::cpu::QONNX_TIER {

namespace {

typedef int32_t Lanes __attribute__((vector_size(kVectorLanes * sizeof(int32_t))));

static inline void store(float* x, Vector v) { memcpy(x, &v, sizeof v); }

template <int distance>
static inline Vector exchange(Vector v) {
  Lanes partner;
  Vector sign;
  for (int lane = 0; lane < static_cast<int>(kVectorLanes); ++lane) {
    partner[lane] = lane ^ distance;
    sign[lane] = lane & distance ? -1.0f : 1.0f;
  }
  return multiply_add(v, sign, __builtin_shuffle(v, partner));
}

static inline Vector inside(Vector v) {
  v = exchange<2>(exchange<1>(v));
  if constexpr (kVectorLanes > 4) v = exchange<4>(v);
  if constexpr (kVectorLanes > 8) v = exchange<8>(v);
  return v;
}

void transform_short(float* x, size_t n) {
  for (size_t h = 1; h < n; h *= 2)
    for (size_t i = 0; i < n; ++i)
      if (!(i & h)) {
        const float a = x[i], b = x[i + h];
        x[i] = a + b;
        x[i + h] = a - b;
      }
}

void transform(float* x, size_t n) {
  if (n < kVectorLanes) return transform_short(x, n);
  for (size_t i = 0; i < n; i += kVectorLanes) store(x + i, inside(load(x + i)));
  size_t h = kVectorLanes;
  for (; 4 * h <= n; h *= 4)
    for (size_t begin = 0; begin < n; begin += 4 * h)
      for (size_t i = begin; i < begin + h; i += kVectorLanes) {
        const Vector a = load(x + i), b = load(x + i + h), c = load(x + i + 2 * h), d = load(x + i + 3 * h);
        const Vector ab = a + b, a_b = a - b, cd = c + d, c_d = c - d;
        store(x + i, ab + cd);
        store(x + i + h, a_b + c_d);
        store(x + i + 2 * h, ab - cd);
        store(x + i + 3 * h, a_b - c_d);
      }
  if (h < n)
    for (size_t i = 0; i < h; i += kVectorLanes) {
      const Vector a = load(x + i), b = load(x + i + h);
      store(x + i, a + b);
      store(x + i + h, a - b);
    }
}

void mix(const float* base, size_t k, const float* x, size_t columns, float* y) {
  for (size_t i = 0; i < k; ++i)
    for (size_t c = 0; c < columns; ++c) {
      float sum = 0;
      for (size_t j = 0; j < k; ++j) sum += base[i * k + j] * x[j * columns + c];
      y[i * columns + c] = sum;
    }
}

void scale(float* x, float factor, size_t n) {
  for (size_t i = 0; i < n; ++i) x[i] *= factor;
}

float quantize(const float* x, size_t n, int8_t* codes) {
  int32_t bits = 0;  // magnitudes of floats are in the order of their bits, NaN and infinity above all numbers
  for (size_t i = 0; i < n; ++i) {
    const int32_t magnitude = static_cast<int32_t>(float_bits(x[i]) & 0x7fffffff);
    bits = magnitude > bits ? magnitude : bits;
  }
  if (bits >= 0x7f800000) {
    memset(codes, 0, n);
    return std::numeric_limits<float>::quiet_NaN();
  }
  const float found = bits_float(static_cast<uint32_t>(bits)), largest = found > 0x1p-100f ? found : 0x1p-100f;
  const float inverse = 127.0f / largest;
  for (size_t i = 0; i < n; ++i) codes[i] = static_cast<int8_t>(static_cast<int32_t>(__builtin_rintf(x[i] * inverse)));
  return largest / 127.0f;
}

}  // namespace

extern const HadamardKernels hadamard_kernels;
const HadamardKernels hadamard_kernels = {transform, mix, scale, quantize};

}  // namespace qonnx::cpu::QONNX_TIER
