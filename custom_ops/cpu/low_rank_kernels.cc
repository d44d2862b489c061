// One row of X times the first factor of a low-rank branch; compiled once per tier.
#include "low_rank.h"
#include "vector.h"

namespace qonnx::cpu::QONNX_TIER {

namespace {

// `vectors` vectors of y. An addition takes four cycles and two begin in each, so eight sums hide its latency.
template <int vectors>
void some(const float* x, size_t columns, const float* a, size_t width, float* y) {
  constexpr int kChains = 8 / vectors;
  Vector sum[kChains][vectors];
#pragma GCC unroll 8
  for (int i = 0; i < kChains; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) sum[i][v] = broadcast(0);
  size_t k = 0;
  for (; k + kChains <= columns; k += kChains)
#pragma GCC unroll 8
    for (int i = 0; i < kChains; ++i) {
      const Vector one = broadcast(x[k + i]);
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v)
        sum[i][v] = multiply_add(one, load(a + (k + i) * width + static_cast<size_t>(v) * kVectorLanes), sum[i][v]);
    }
  for (; k < columns; ++k)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v)
      sum[0][v] = multiply_add(broadcast(x[k]), load(a + k * width + static_cast<size_t>(v) * kVectorLanes), sum[0][v]);
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) {
    for (int i = 1; i < kChains; ++i) sum[0][v] += sum[i][v];
    memcpy(y + static_cast<size_t>(v) * kVectorLanes, &sum[0][v], sizeof(Vector));
  }
}

void down(const float* x, size_t columns, const float* a, size_t width, float* y) {
  size_t c = 0;
  for (; c + 4 * kVectorLanes <= width; c += 4 * kVectorLanes) some<4>(x, columns, a + c, width, y + c);
  for (; c + 2 * kVectorLanes <= width; c += 2 * kVectorLanes) some<2>(x, columns, a + c, width, y + c);
  for (; c < width; c += kVectorLanes) some<1>(x, columns, a + c, width, y + c);
}

}  // namespace

extern const LowRankKernels low_rank_kernels;
const LowRankKernels low_rank_kernels = {down};

}  // namespace qonnx::cpu::QONNX_TIER
