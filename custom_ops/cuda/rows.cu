// Hadamard, HadamardDynamicQuantize and DynamicQuantizeRows: one block of threads per row.
//
// A row is read once, 16 bytes a thread, into shared memory as float32, rotated there and written once as numbers or
// codes. The fast Walsh-Hadamard transform of order 2^m goes through shared memory every third step: eight numbers at
// distance h meet in the registers of a thread. Then `base` mixes runs of numbers, and each block of the row gets the
// scale largest / 127. Without a rotation the row is read twice, four numbers a thread, the second time from the cache.
//
// Shared memory: the row, number i at i + i / 8 so that the eight distances of a step lie in different banks; a second
// row where `base` mixes; one word a warp for the largest number of a block.
#include "rows.h"

#include "numbers.cuh"

namespace qonnx::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

QONNX_DEVICE int padded(int index) { return index + index / 8; }

// Steps of the transform at distances h, 2h, … (radix / 2) · h, in place.
template <int radix>
QONNX_DEVICE void transform_step(float* row, int columns, int h) {
  for (int group = threadIdx.x; group < columns / radix; group += blockDim.x) {
    const int begin = group / h * h * radix + group % h;
    float v[radix];
#pragma unroll
    for (int i = 0; i < radix; ++i) v[i] = row[padded(begin + i * h)];
#pragma unroll
    for (int distance = 1; distance < radix; distance *= 2)
#pragma unroll
      for (int i = 0; i < radix; ++i)
        if (!(i & distance)) {
          const float a = v[i], b = v[i + distance];
          v[i] = a + b;
          v[i + distance] = a - b;
        }
#pragma unroll
    for (int i = 0; i < radix; ++i) row[padded(begin + i * h)] = v[i];
  }
}

QONNX_DEVICE void transform(float* row, int columns, int power) {
  int h = 1;
  for (; h * 8 <= power; h *= 8) {
    transform_step<8>(row, columns, h);
#if !FAULT(rows_transform_barrier)
    __syncthreads();
#endif
  }
  if (h * 4 <= power) transform_step<4>(row, columns, h);
  else if (h * 2 <= power) transform_step<2>(row, columns, h);
  __syncthreads();
}

// mixed = base · row for each run of order · power numbers, a row of base per run of `power` numbers.
QONNX_DEVICE void mix(const Rows& job, const float* row, float* mixed) {
  const int order = job.base_order, power = job.power;
  for (int i = threadIdx.x; i < job.columns; i += blockDim.x) {
    const int run = i / (order * power), line = i / power % order, column = i % power;
    const float* from = job.base + line * order;
    float sum = 0;
    for (int j = 0; j < order; ++j) sum = fmaf(from[j], row[padded((run * order + j) * power + column)], sum);
    mixed[padded(i)] = sum;
  }
#if !FAULT(rows_mix_barrier)
  __syncthreads();
#endif
}

// A row as int8: a block of it for each warp, or for all warps together where there are fewer blocks than warps.
// load(i, numbers) takes `at_once` numbers of the row, which divides blocks and columns.
template <int at_once, class Load>
QONNX_DEVICE void quantize(const Rows& job, int64_t r, uint32_t* of_warps, Load load) {
  auto* codes = static_cast<int8_t*>(job.y) + r * job.columns;
  float* scale = job.scale + r * job.blocks;
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool together = job.blocks < warps;
  const int first = at_once * (together ? threadIdx.x : lane), step = at_once * (together ? blockDim.x : 32);
  for (int b = together ? 0 : warp; b < job.blocks; b += together ? 1 : warps) {
    const int begin = b * job.block;
#if FAULT(rows_short_block)
    const int end = begin + job.block;
#else
    const int end = begin + job.block < job.columns ? begin + job.block : job.columns;
#endif
    uint32_t largest = 0;
    float numbers[at_once];
    for (int i = begin + first; i < end; i += step) {
      load(i, numbers);
#pragma unroll
      for (int n = 0; n < at_once; ++n) {
        const uint32_t magnitude = float_as_bits(numbers[n]) & kMagnitude;
        largest = magnitude > largest ? magnitude : largest;
      }
    }
    largest = largest_of_warp(largest);
    if (together) {
      if (lane == 0) of_warps[warp] = largest;
#if !FAULT(rows_largest_barrier)
      __syncthreads();
#endif
      for (int w = 0; w < warps; ++w) largest = of_warps[w] > largest ? of_warps[w] : largest;
#if !FAULT(rows_next_block_barrier)
      __syncthreads();  // before the next block's numbers take the place of these
#endif
    }
    const Grid grid = grid_of(largest);
    if (first == 0) scale[b] = grid.step;
    for (int i = begin + first; i < end; i += step) {
      load(i, numbers);
      if constexpr (at_once == 4) {
        uint32_t word = 0;
#pragma unroll
        for (int n = 0; n < 4; ++n) word |= static_cast<uint32_t>(static_cast<uint8_t>(code_of(numbers[n], grid))) << 8 * n;
        *reinterpret_cast<uint32_t*>(codes + i) = word;
      } else {
        codes[i] = code_of(numbers[0], grid);
      }
    }
  }
}

// The row as float32 in shared memory; 16 bytes at a time where rows begin on such a boundary.
template <Element element>
QONNX_DEVICE void fetch(const Rows& job, int64_t r, float* row) {
  constexpr int kNumbers = kChunk<element>;
  const char* from = static_cast<const char*>(job.x) + r * job.columns * (16 / kNumbers);
  int done = 0;
  if (job.columns % kNumbers == 0 && is_aligned(job.x)) {
    done = job.columns;
    for (int chunk = threadIdx.x; chunk < job.columns / kNumbers; chunk += blockDim.x) {
      float numbers[kNumbers];
      load_chunk<element>(from, chunk, numbers);
#pragma unroll
      for (int i = 0; i < kNumbers; ++i) row[padded(chunk * kNumbers + i)] = numbers[i];
    }
  }
  for (int i = done + threadIdx.x; i < job.columns; i += blockDim.x) row[padded(i)] = load_number<element>(from, i);
#if !FAULT(rows_fetch_barrier)
  __syncthreads();
#endif
}

template <Element element, bool rotates, bool quantizes>
__global__ void __launch_bounds__(kThreads) rows_kernel(const Rows job) {
  QONNX_SHARED(shared);
  auto* of_warps = reinterpret_cast<uint32_t*>(shared);
  const int64_t r = blockIdx.x;
  if constexpr (rotates) {
    auto* row = reinterpret_cast<float*>(of_warps + kWarps);
    fetch<element>(job, r, row);
    transform(row, job.columns, job.power);
    if (job.base_order > 1) {
      float* mixed = row + padded(job.columns);
      mix(job, row, mixed);
      row = mixed;
    }
    const float factor = job.base && job.base_order == 1 ? job.factor * job.base[0] : job.factor;
    if constexpr (quantizes)
      quantize<1>(job, r, of_warps, [=](int i, float(&number)[1]) { number[0] = row[padded(i)] * factor; });
    else
      for (int i = threadIdx.x; i < job.columns; i += blockDim.x)
        store_number<element>(job.y, r * job.columns + i, row[padded(i)] * factor);
  } else {
    const size_t begin = r * job.columns;
    if (job.columns % 4 == 0 && job.block % 4 == 0 && is_aligned(job.x) && is_aligned(job.y))
      quantize<4>(job, r, of_warps, [=](int i, float(&four)[4]) { load_four<element>(job.x, (begin + i) / 4, four); });
    else
      quantize<1>(job, r, of_warps, [=](int i, float(&number)[1]) {
        number[0] = load_number<element>(job.x, begin + i);
      });
  }
}

}  // namespace

size_t rows_shared_bytes(const Rows& rows) {
  const size_t row = rows.rotates ? static_cast<size_t>(rows.columns) + rows.columns / 8 : 0;
  return sizeof(uint32_t) * kWarps + sizeof(float) * row * (rows.base_order > 1 ? 2 : 1);
}

Failure run_rows(const Rows& rows, Stream stream) {
  if (!rows.rows || !rows.columns) return {};
  const unsigned wanted = static_cast<unsigned>(rows.columns + 7) / 8, threads = (wanted + 31) / 32 * 32;
  const dim3 blocks{static_cast<unsigned>(rows.rows)}, block{threads < kThreads ? threads : kThreads};
  const size_t shared = rows_shared_bytes(rows);
  return by_element(rows.element, [&]<Element element>() {
    if (!rows.rotates)
      return launch("DynamicQuantizeRows", rows_kernel<element, false, true>, blocks, block, shared, stream, rows);
    if (rows.quantizes)
      return launch("HadamardDynamicQuantize", rows_kernel<element, true, true>, blocks, block, shared, stream, rows);
    return launch("Hadamard", rows_kernel<element, true, false>, blocks, block, shared, stream, rows);
  });
}

}  // namespace qonnx::cuda
