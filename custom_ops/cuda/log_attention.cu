// LogAttention: weights from a logarithmic code of the distance to the row's largest score, times values.
//
// A block of four warps computes 64 rows of y for 64 columns of the values, 16 rows a warp. Scores are read twice: for
// the largest of each row, then as weights, which become A operands of the tensor cores in the registers of the thread
// that has read them. 64 rows of values at a time lie in shared memory, [plane][64][64 + 8] (rows of 144 bytes meet
// different banks), and are read transposed as B operands.
//
// Exactness: weights are up to three numbers of the operand's type that add up to the table's float32 (powers of two
// are one), values one, or three where they are float32; all products are summed in float32. For float16 the table is
// scaled by a power of two so that its largest weight is just below 2^15: what underflows is below 2^-39 of it.
#include "log_attention.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "../formats/float16.h"
#include "numbers.cuh"

namespace qonnx::cuda {

namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps, kRows = 16 * kWarps;  // rows of y
constexpr int kDepth = 64, kColumns = 64, kPitch = kColumns + 8;        // rows and columns of values at a time
constexpr int kPlanes = 3;

struct Table {
  uint16_t planes[kPlanes][kMostLevels];
  float weight[kMostLevels];  // the sum of the planes
  int used, levels;
};

template <Element element, bool integers>
constexpr int kValuePlanes = element == Element::float32 && !integers ? 3 : 1;

// In shared memory.
struct Space {
  float* weight;
  uint16_t *table, *values;
};
QONNX_DEVICE Space space_of(char* shared) {
  auto* weight = reinterpret_cast<float*>(shared);
  auto* table = reinterpret_cast<uint16_t*>(weight + kMostLevels);
  return {weight, table, table + kPlanes * kMostLevels};
}
constexpr size_t shared_bytes(int value_planes) {
  return kMostLevels * (sizeof(float) + kPlanes * sizeof(uint16_t)) +
         sizeof(uint16_t) * value_planes * kDepth * kPitch;
}

// The largest score of a row, and whether it holds NaN or +∞; four threads share a row.
template <Element element>
QONNX_DEVICE float top_of(const LogAttention& job, size_t row, bool real, bool& spoiled) {
  float top = bits_as_float(0xff800000);
  uint32_t bad = 0;
  if (real)
    for (int k = threadIdx.x % 4; k < job.n; k += 4) {
      const float score = load_number<element>(job.scores, row + k);
      if (!(score < bits_as_float(kInfinity))) bad = 1;
      else top = score > top ? score : top;
    }
#pragma unroll
  for (int distance = 1; distance < 4; distance *= 2) {
    const float other = bits_as_float(shuffle_xor(float_as_bits(top), distance));
    top = other > top ? other : top;
    bad |= shuffle_xor(bad, distance);
  }
  spoiled = bad;
  return top == bits_as_float(0xff800000) ? 0.0f : top;
}

// Rows `first` … of values as numbers of the operand's type; zeros beyond the matrix.
template <Element element, bool integers>
QONNX_DEVICE void fetch_values(const LogAttention& job, size_t matrix, int first, uint16_t* to) {
  const int begin = blockIdx.y * kColumns;
  for (int i = threadIdx.x; i < kDepth * kColumns; i += kThreads) {
    const int row = i / kColumns, column = i % kColumns;
    float value = 0;
    if (first + row < job.n && begin + column < job.d) {
      const size_t at = matrix + static_cast<size_t>(first + row) * job.d + begin + column;
      value = integers ? load_number<Element::int8>(job.value, at) : load_number<element>(job.value, at);
    }
#pragma unroll
    for (int plane = 0; plane < kValuePlanes<element, integers>; ++plane) {
      const float part = kValuePlanes<element, integers> > 1 ? next_plane(value) : value;
      to[(plane * kDepth + row) * kPitch + column] =
          element == Element::float16 ? half_of_float(part) : bfloat16_of_float(part);
    }
  }
}

template <Element element, bool integers>
__global__ void __launch_bounds__(kThreads, 4) log_attention_kernel(const LogAttention job, const Table table) {
  QONNX_SHARED(shared);
  const Space space = space_of(shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  size_t scores = 0, values = 0;  // matrices
  for (int i = job.dimensions - 1, rest = blockIdx.z; i >= 0; rest /= job.size[i--]) {
    scores += static_cast<size_t>(rest % job.size[i]) * job.score_step[i];
    values += static_cast<size_t>(rest % job.size[i]) * job.value_step[i];
  }
  values *= static_cast<size_t>(job.n) * job.d;
  for (int i = threadIdx.x; i < kMostLevels; i += kThreads) {
    space.weight[i] = table.weight[i];
    for (int plane = 0; plane < kPlanes; ++plane) space.table[plane * kMostLevels + i] = table.planes[plane][i];
  }
  const int first = blockIdx.x * kRows + 16 * warp + g;
  size_t row[2];
  float top[2], total[2] = {};
  bool real[2], spoiled[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    real[half] = first + 8 * half < job.m;
    row[half] = (scores * job.m + first + 8 * half) * job.n;
    top[half] = top_of<element>(job, row[half], real[half], spoiled[half]);
  }

  constexpr int kTiles = kColumns / 8;
  const float last = static_cast<float>(table.levels - 1);
  float sum[kTiles][4] = {};
  for (int begin = 0; begin < job.n; begin += kDepth) {
#if !FAULT(attention_reuse_barrier)
    __syncthreads();  // the values before have been used by all warps
#endif
    fetch_values<element, integers>(job, values, begin, space.values);
#if !FAULT(attention_values_barrier)
    __syncthreads();
#endif
#pragma unroll 1
    for (int step = 0; step < kDepth / 16 && begin + 16 * step < job.n; ++step) {
      uint32_t code[4][2];
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int half = j % 2, k = begin + 16 * step + 2 * t + 8 * (j / 2) + h;
          code[j][h] = kMostLevels;
          if (!real[half] || spoiled[half] || k >= job.n) continue;
          const float score = load_number<element>(job.scores, row[half] + k);
          const float position = multiply_rounded(top[half] - score, job.factor);
          code[j][h] = nearest_integer(position < last ? position : last);
          total[half] += space.weight[code[j][h]];
        }
#pragma unroll 1
      for (int plane = 0; plane < table.used; ++plane) {
        uint32_t a[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const auto number = [&](uint32_t of) -> uint32_t {
            return of == kMostLevels ? 0 : space.table[plane * kMostLevels + of];
          };
          a[j] = number(code[j][0]) | number(code[j][1]) << 16;
        }
#pragma unroll
        for (int value_plane = 0; value_plane < kValuePlanes<element, integers>; ++value_plane)
#pragma unroll
          for (int tile = 0; tile < kTiles; tile += 2) {
            uint32_t b[4];
            const int k = 16 * step + lane % 16, column = 8 * (tile + lane / 16);
            load_matrices_transposed(b, space.values + (value_plane * kDepth + k) * kPitch + column);
#pragma unroll
            for (int i = 0; i < 2; ++i)
              if constexpr (element == Element::float16) multiply_float16(sum[tile + i], a, b[2 * i], b[2 * i + 1], sum[tile + i]);
              else multiply_bfloat16(sum[tile + i], a, b[2 * i], b[2 * i + 1], sum[tile + i]);
          }
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2)
      total[half] += bits_as_float(shuffle_xor(float_as_bits(total[half]), distance));
    if (!real[half]) continue;
    const float divisor = spoiled[half] ? bits_as_float(0x7fc00000) : total[half] > 0.0f ? total[half] : 1.0f;
    const size_t to = (static_cast<size_t>(blockIdx.z) * job.m + first + 8 * half) * job.d;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int column = blockIdx.y * kColumns + 8 * tile + 2 * t + h;
#if FAULT(attention_column_guard)
        if (column > job.d) continue;
#else
        if (column >= job.d) continue;
#endif
        const float scale = job.scale[job.scales > 1 ? column : 0];
        store_number<element>(job.y, to + column, divide_rounded(sum[tile][2 * half + h], divisor) * scale);
      }
  }
}

// The table, scaled for its type, as planes of 16-bit numbers, each what the ones before leave over.
Table planes_of(const float* weights, int levels, bool float16) {
  Table table{};
  table.levels = levels;
  float largest = 0, rest[kMostLevels] = {};
  for (int i = 0; i < levels; ++i) largest = std::max(largest, std::fabs(weights[i]));
  int exponent = 0;
  if (float16 && largest > 0) {
    std::frexp(largest, &exponent);
    exponent = 15 - exponent;
  }
  for (int i = 0; i < levels; ++i) rest[i] = std::ldexp(weights[i], exponent);
  do {
    for (int i = 0; i < levels; ++i) {
      const uint16_t code = float16 ? encode_float16(rest[i]) : encode_bfloat16(rest[i]);
      const float part = float16 ? decode_float16(code) : decode_bfloat16(code);
      table.planes[table.used][i] = code;
      table.weight[i] += part;
      rest[i] -= part;
    }
    ++table.used;
  } while (table.used < kPlanes && std::any_of(rest, rest + levels, [](float r) { return r != 0; }));
  return table;
}

}  // namespace

Failure run_log_attention(const LogAttention& job, const float* table, int levels, Stream stream) {
  if (!job.batches || !job.m || !job.d) return {};
  const Table planes = planes_of(table, levels, job.element == Element::float16);
  const auto divided_up = [](int a, int b) { return static_cast<unsigned>((a + b - 1) / b); };
  const dim3 blocks{divided_up(job.m, kRows), divided_up(job.d, kColumns), static_cast<unsigned>(job.batches)};
  if (blocks.z > 65535)
    return "LogAttention of " + std::to_string(job.batches) + " matrices: at most 65535 fit in one launch";
  return by_element(job.element, [&]<Element element>() {
    const auto run = [&](void (*kernel)(const LogAttention, const Table), int value_planes) {
      return launch("LogAttention", kernel, blocks, dim3{kThreads}, shared_bytes(value_planes), stream, job, planes);
    };
    if (job.integers) return run(log_attention_kernel<element, true>, kValuePlanes<element, true>);
    return run(log_attention_kernel<element, false>, kValuePlanes<element, false>);
  });
}

}  // namespace qonnx::cuda
