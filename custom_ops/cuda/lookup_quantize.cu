// LookupQuantize: a number a thread; the roundings of the CPU's kernels, so that codes are the same on both.
#include "lookup_quantize.h"

#include "numbers.cuh"

namespace qonnx::cuda {

namespace {

constexpr int kThreads = 256;

template <Element element>
__global__ void __launch_bounds__(kThreads) lookup_quantize_kernel(const LookupQuantize job) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
#if !FAULT(lookup_quantize_guard)
  if (i >= job.count) return;
#endif
  const float lowest = static_cast<float>(-job.zero_point), highest = static_cast<float>(255 - job.zero_point);
  float ratio = divide_rounded(load_number<element>(job.x, i), job.scale);
  ratio = ratio > lowest ? ratio : lowest;  // the bounds are whole numbers; NaN becomes the lowest
  ratio = ratio < highest ? ratio : highest;
  job.codes[i] = job.table[nearest_integer(ratio) + job.zero_point];
}

}  // namespace

Failure run_lookup_quantize(const LookupQuantize& job, Stream stream) {
  if (!job.count) return {};
  const dim3 blocks{static_cast<unsigned>((job.count + kThreads - 1) / kThreads)}, threads{kThreads};
  return by_element(job.element, [&]<Element element>() {
    return launch("LookupQuantize", lookup_quantize_kernel<element>, blocks, threads, size_t{0}, stream, job);
  });
}

}  // namespace qonnx::cuda
