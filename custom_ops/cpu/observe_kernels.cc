// The inner loops of ObserveSink in plain C++ that compilers vectorise; compiled once per tier (see tier.h).
#include "observe_kernels.h"

#include <string.h>

#include "../formats/float16.h"
#include "vector.h"

namespace qonnx::cpu::QONNX_TIER {

namespace {

uint32_t largest(const float* x, size_t n) {
  uint32_t result = 0;
  for (size_t i = 0; i < n; ++i) {
    const uint32_t magnitude = float_bits(x[i]) & 0x7fffffff;
    result = magnitude > result ? magnitude : result;
  }
  return result;
}

void rows(const float* x, size_t count, size_t channels, float* minimum, float* maximum, double* sum) {
  for (size_t row = 0; row < count; ++row, x += channels)
    for (size_t c = 0; c < channels; ++c) {
      const float value = x[c];
      minimum[c] = value < minimum[c] ? value : minimum[c];
      maximum[c] = value > maximum[c] ? value : maximum[c];
      sum[c] += value;
    }
}

void segment(const float* x, size_t n, float* minimum, float* maximum, double* sum) {
  constexpr size_t kLanes = 32;  // independent chains, so that the loop runs at the speed of loads
  float low[kLanes], high[kLanes];
  double total[kLanes] = {};
  for (size_t l = 0; l < kLanes; ++l) low[l] = *minimum, high[l] = *maximum;
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (size_t l = 0; l < kLanes; ++l) {
      const float value = x[i + l];
      low[l] = value < low[l] ? value : low[l];
      high[l] = value > high[l] ? value : high[l];
      total[l] += value;
    }
  for (size_t l = 0; i < n; ++i, ++l) {
    low[l] = x[i] < low[l] ? x[i] : low[l];
    high[l] = x[i] > high[l] ? x[i] : high[l];
    total[l] += x[i];
  }
  for (size_t l = 0; l < kLanes; ++l) {
    *minimum = low[l] < *minimum ? low[l] : *minimum;
    *maximum = high[l] > *maximum ? high[l] : *maximum;
    *sum += total[l];
  }
}

void histogram(const float* x, size_t n, float per_unit, size_t bins, uint32_t* scratch, int64_t* counts) {
  // Four histograms in turn: neighbours in the same bin (zeros, above all) would wait for each other's store.
  constexpr size_t kBlock = 256;
  int32_t index[kBlock];
  const int32_t middle = static_cast<int32_t>(bins / 2);
  for (size_t begin = 0; begin < n; begin += kBlock) {
    const size_t length = n - begin < kBlock ? n - begin : kBlock;
    for (size_t i = 0; i < length; ++i) {
      // floor by hand: truncate, then one less where truncation went up (this form vectorises on every tier)
      const float scaled = x[begin + i] * per_unit;
      const int32_t truncated = static_cast<int32_t>(scaled);
      index[i] = middle + truncated - (static_cast<float>(truncated) > scaled ? 1 : 0);
    }
    size_t i = 0;
    for (; i + 4 <= length; i += 4) {
      ++scratch[index[i]];
      ++scratch[bins + index[i + 1]];
      ++scratch[2 * bins + index[i + 2]];
      ++scratch[3 * bins + index[i + 3]];
    }
    for (; i < length; ++i) ++scratch[index[i]];
  }
  for (size_t b = 0; b < bins; ++b)
    counts[b] += static_cast<int64_t>(scratch[b]) + scratch[bins + b] + scratch[2 * bins + b] + scratch[3 * bins + b];
  memset(scratch, 0, 4 * bins * sizeof *scratch);
}

void gram(const float* a, const float* b, size_t count, size_t stride, double* tile) {
  constexpr size_t kColumns = kVectorLanes * 2;
  constexpr size_t kRows = kVectorLanes == 16 ? 8 : 4;  // accumulators fill half of the register file
  for (size_t i = 0; i < kGramTile; i += kRows)
    for (size_t j = 0; j < kGramTile; j += kColumns) {
      Vector sum[kRows][2] = {};
      for (size_t row = 0; row < count; ++row) {
        const float *left = a + row * stride + i, *right = b + row * stride + j;
        const Vector first = load(right), second = load(right + kVectorLanes);
#pragma GCC unroll 8
        for (size_t r = 0; r < kRows; ++r) {
          const Vector value = broadcast(left[r]);
          sum[r][0] = multiply_add(value, first, sum[r][0]);
          sum[r][1] = multiply_add(value, second, sum[r][1]);
        }
      }
      for (size_t r = 0; r < kRows; ++r)
        for (size_t half = 0; half < 2; ++half)
          for (size_t l = 0; l < kVectorLanes; ++l)
            tile[(i + r) * kGramTile + j + half * kVectorLanes + l] += static_cast<double>(sum[r][half][l]);
    }
}

}  // namespace

extern const ObserveKernels observe_kernels;
const ObserveKernels observe_kernels = {largest, rows, segment, histogram, gram};

}  // namespace qonnx::cpu::QONNX_TIER
