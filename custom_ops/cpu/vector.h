// Float vectors of the tier's natural width, for loops that compilers do not vectorise well by themselves.
#pragma once

#include <stddef.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace qonnx::cpu::QONNX_TIER {

#if defined(__AVX512F__)
constexpr size_t kVectorLanes = 16;
#elif defined(__AVX2__)
constexpr size_t kVectorLanes = 8;
#else
constexpr size_t kVectorLanes = 4;
#endif

typedef float Vector __attribute__((vector_size(kVectorLanes * sizeof(float))));

static inline Vector load(const float* x) {
  Vector v;
  memcpy(&v, x, sizeof v);
  return v;
}

static inline Vector broadcast(float x) {  // spelled out: compilers turn `Vector{} + x` into an addition and a shuffle
#if defined(__AVX512F__)
  return _mm512_set1_ps(x);
#elif defined(__AVX2__)
  return _mm256_set1_ps(x);
#else
  return Vector{x, x, x, x};
#endif
}

static inline Vector multiply_add(Vector a, Vector b, Vector c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

}  // namespace qonnx::cpu::QONNX_TIER
