// LookupQuantize, with the roundings of the CPU's kernels, so that codes are the same on both.
#include "lookup_quantize.h"

#include "map.cuh"

namespace qonnx::cuda {

namespace {

template <Element element>
__global__ void __launch_bounds__(kMapThreads) lookup_quantize_kernel(const LookupQuantize job) {
  QONNX_SHARED(shared);  // the threads of a warp read different entries: constant memory would take turns
  auto* table = reinterpret_cast<uint8_t*>(shared);
  table[threadIdx.x] = job.table[threadIdx.x];
#if !FAULT(lookup_quantize_barrier)
  __syncthreads();
#endif
  const float lowest = static_cast<float>(-job.zero_point), highest = static_cast<float>(255 - job.zero_point);
  map_to_codes<element>(job.x, job.count, job.codes, [&](float x) {
    float ratio = divide_rounded(x, job.scale);
    ratio = ratio > lowest ? ratio : lowest;  // the bounds are whole numbers; NaN becomes the lowest
    ratio = ratio < highest ? ratio : highest;
    return table[nearest_integer(ratio) + job.zero_point];
  });
}

}  // namespace

Failure run_lookup_quantize(const LookupQuantize& job, Stream stream) {
  static_assert(sizeof job.table == kMapThreads);
  if (!job.count) return {};
  return by_element(job.element, [&]<Element element>() {
    return launch("LookupQuantize", lookup_quantize_kernel<element>, map_blocks(job.count), dim3{kMapThreads},
                  sizeof job.table, stream, job);
  });
}

}  // namespace qonnx::cuda
