// Launches of kernels: the same call for nvcc and the emulated device, every launch checked.
#pragma once

#include "fault.h"
#include "ptx.cuh"
#include "types.h"

namespace qonnx::cuda {

#if defined(__CUDACC__)

inline Failure failure_of(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return {};
  return std::string(what) + " failed on the GPU: " + cudaGetErrorString(error);
}

template <class... Parameters, class... Arguments>
Failure launch(const char* what, void (*kernel)(Parameters...), dim3 blocks, dim3 threads, size_t shared_bytes,
               Stream stream, Arguments... arguments) {
  constexpr size_t kWithoutAsking = 48 << 10;
  if (shared_bytes > kWithoutAsking) {
    const cudaError_t allowed = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                     static_cast<int>(shared_bytes));
    if (allowed != cudaSuccess) {
      cudaGetLastError();
      return failure_of(allowed, what);
    }
  }
  kernel<<<blocks, threads, shared_bytes, stream>>>(arguments...);
  return failure_of(cudaGetLastError(), what);
}

#else

template <class... Parameters, class... Arguments>
Failure launch(const char* what, void (*kernel)(Parameters...), dim3 blocks, dim3 threads, size_t shared_bytes,
               Stream, Arguments... arguments) {
  const char* error = emulate::launch(blocks, threads, shared_bytes, [=] { kernel(arguments...); });
  return error ? std::string(what) + " failed on the emulated GPU: " + error : Failure();
}

#endif

}  // namespace qonnx::cuda
