// LogQuantize and LogQuantizeDequantize.
//
// log2 of r = m · 2^e, m in [√½, √2): e + 2 / ln 2 · (z + z³/3 + … + z⁹/9), z = (m − 1) / (m + 1); the terms of the CPU's
// kernels, with its roundings, so that codes are the same on both. A multiplication is never fused with an addition.
#include "log_quantize.h"

#include "map.cuh"

namespace qonnx::cuda {

namespace {

QONNX_DEVICE float rounded_log2(float r) {
  constexpr float kSmall = 0x1p-100f, kUp = 0x1p+90f;  // subnormal numbers have no exponent of their own
  const bool small = r < kSmall;
  const int32_t offset = static_cast<int32_t>(float_as_bits(small ? r * kUp : r)) - 0x3f3504f3;  // √½
  const int32_t exponent = offset >> 23;
  const float m = bits_as_float((offset & 0x7fffff) + 0x3f3504f3);
  const float z = divide_rounded(m - 1.0f, m + 1.0f), square = multiply_rounded(z, z);
  float series = 0.14285715f + multiply_rounded(square, 0.11111111f);
  series = 0.2f + multiply_rounded(square, series);
  series = 0.33333334f + multiply_rounded(square, series);
  series = 1.0f + multiply_rounded(square, series);
  const float whole = static_cast<float>(exponent) + (small ? -90.0f : 0.0f);
  return whole + multiply_rounded(multiply_rounded(2.8853901f, z), series);
}

template <Element element, bool values>
__global__ void __launch_bounds__(kMapThreads) log_quantize_kernel(const LogQuantize job) {
  const float scale = job.scale, last = static_cast<float>(job.levels - 1);
  const auto code_of_number = [&](float x) {
    float position = multiply_rounded(rounded_log2(divide_rounded(x, scale)), -job.per_octave);
    position = position > 0.0f ? position : 0.0f;
    position = position < last ? position : last;
    return nearest_integer(x > 0.0f ? position : last);
  };
  if constexpr (values) {
    QONNX_SHARED(shared);  // the threads of a warp read different entries: constant memory would take turns
    auto* table = reinterpret_cast<float*>(shared);
    for (int i = threadIdx.x; i < job.levels; i += kMapThreads) table[i] = multiply_rounded(job.table[i], scale);
#if !FAULT(log_quantize_barrier)
    __syncthreads();
#endif
    map_to_numbers<element>(job.x, job.count, job.y, [&](float x) { return x == x ? table[code_of_number(x)] : x; });
  } else {
    map_to_codes<element>(job.x, job.count, static_cast<uint8_t*>(job.y), code_of_number);
  }
}

}  // namespace

Failure run_log_quantize(const LogQuantize& job, Stream stream) {
  if (!job.count) return {};
  const dim3 blocks = map_blocks(job.count), threads{kMapThreads};
  return by_element(job.element, [&]<Element element>() {
    if (job.values)
      return launch("LogQuantizeDequantize", log_quantize_kernel<element, true>, blocks, threads, sizeof job.table,
                    stream, job);
    return launch("LogQuantize", log_quantize_kernel<element, false>, blocks, threads, size_t{0}, stream, job);
  });
}

}  // namespace qonnx::cuda
