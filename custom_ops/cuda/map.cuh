// Operators that make one number of each number of x: 16 bytes of x a thread and turn where arrays lie on such boundaries.
#pragma once

#include "numbers.cuh"

namespace qonnx::cuda {

constexpr int kMapThreads = 256;

// Blocks that give each thread two turns: enough of them for any GPU, and tables in shared memory are worth their copy.
inline dim3 map_blocks(int64_t count) {
  constexpr int64_t kNumbers = int64_t{2} * 8 * kMapThreads, kMost = 1 << 16;
  const int64_t wanted = (count + kNumbers - 1) / kNumbers;
  return dim3{static_cast<unsigned>(wanted < kMost ? wanted : kMost)};
}

// whole(chunk) for the chunks of an aligned array, one(i) for the numbers that are in none.
template <int chunk_numbers, class Whole, class One>
QONNX_DEVICE void each_chunk(bool aligned, int64_t count, Whole whole, One one) {
  const int64_t me = static_cast<int64_t>(blockIdx.x) * kMapThreads + threadIdx.x;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kMapThreads, chunks = aligned ? count / chunk_numbers : 0;
  for (int64_t chunk = me; chunk < chunks; chunk += threads) whole(chunk);
#if FAULT(map_guard)
  for (int64_t i = chunks * chunk_numbers + me; i <= count; i += threads) one(i);
#else
  for (int64_t i = chunks * chunk_numbers + me; i < count; i += threads) one(i);
#endif
}

// y[i] = make(x[i]), both of the same type.
template <Element element, class Make>
QONNX_DEVICE void map_to_numbers(const void* x, int64_t count, void* y, Make make) {
  constexpr int kNumbers = kChunk<element>;
  each_chunk<kNumbers>(
      is_aligned(x) && is_aligned(y), count,
      [&](int64_t chunk) {
        float numbers[kNumbers];
        load_chunk<element>(x, chunk, numbers);
#pragma unroll
        for (int i = 0; i < kNumbers; ++i) numbers[i] = make(numbers[i]);
        store_chunk<element>(y, chunk, numbers);
      },
      [&](int64_t i) { store_number<element>(y, i, make(load_number<element>(x, i))); });
}

// codes[i] = make(x[i]) in a byte.
template <Element element, class Make>
QONNX_DEVICE void map_to_codes(const void* x, int64_t count, uint8_t* codes, Make make) {
  constexpr int kNumbers = kChunk<element>, kWords = kNumbers / 4;
  each_chunk<kNumbers>(
      is_aligned(x) && is_aligned(codes), count,
      [&](int64_t chunk) {
        float numbers[kNumbers];
        load_chunk<element>(x, chunk, numbers);
        uint32_t words[kWords] = {};
#pragma unroll
        for (int i = 0; i < kNumbers; ++i) words[i / 4] |= static_cast<uint32_t>(make(numbers[i])) << 8 * (i % 4);
        if constexpr (kWords == 2) reinterpret_cast<uint2*>(codes)[chunk] = {words[0], words[1]};
        else reinterpret_cast<uint32_t*>(codes)[chunk] = words[0];
      },
      [&](int64_t i) { codes[i] = static_cast<uint8_t>(make(load_number<element>(x, i))); });
}

}  // namespace qonnx::cuda
