// The GPU through the CUDA runtime, which is linked statically and looks for the driver at the first call.
#include "runtime.h"

#include <cuda_runtime.h>

#include <stdexcept>

namespace qonnx::cuda {

namespace {

constexpr int kOldest = 75;  // compute capability 7.5

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // or later launches would report it again
  throw std::runtime_error(std::string(what) + " failed: " + cudaGetErrorString(error));
}

int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, device), "asking the GPU for its properties");
  return value;
}

int capability(int device) {
  return 10 * attribute(cudaDevAttrComputeCapabilityMajor, device) +
         attribute(cudaDevAttrComputeCapabilityMinor, device);
}

}  // namespace

bool gpu_present() {
  int count = 0;
  const cudaError_t found = cudaGetDeviceCount(&count);
  if (found != cudaSuccess) cudaGetLastError();
  return found == cudaSuccess && count > 0;
}

Device present_device() {
  int device = 0;
  check(cudaGetDevice(&device), "finding the GPU");
  if (const int found = capability(device); found < kOldest)
    throw std::runtime_error("this GPU has compute capability " + std::to_string(found / 10) + "." +
                             std::to_string(found % 10) + ", but the kernels of ai.qonnx need 7.5 or newer; use "
                             "CPUExecutionProvider");
  return {attribute(cudaDevAttrMultiProcessorCount, device),
          static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device))};
}

DeviceArray::DeviceArray(const void* host, size_t bytes) {
  if (!bytes) return;
  void* data = nullptr;
  check(cudaMalloc(&data, bytes), "allocating GPU memory for a weight");
  data_.reset(data);
  check(cudaMemcpy(data, host, bytes, cudaMemcpyHostToDevice), "copying a weight to the GPU");
}

void DeviceArray::Free::operator()(void* data) const { cudaFree(data); }

}  // namespace qonnx::cuda
