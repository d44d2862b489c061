// The emulated GPU's memory is the host's; it passes for a small card. Calls of the runtime are counted: those that a
// CUDA graph cannot hold have no place where a node computes.
#include "../runtime.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

namespace qonnx::cuda {

namespace {

std::atomic<uint64_t> calls = 0;

}  // namespace

extern "C" __attribute__((visibility("default"))) uint64_t emulated_runtime_calls() { return calls; }

bool gpu_present() { return true; }

Device present_device() {
  ++calls;
  return {4, size_t{99} << 10};
}

DeviceArray::DeviceArray(const void* host, size_t bytes) {
  void* data = nullptr;
  if (!bytes) return;
  ++calls;
  if (posix_memalign(&data, 256, bytes)) throw std::bad_alloc();
  data_.reset(std::memcpy(data, host, bytes));
}

void DeviceArray::Free::operator()(void* data) const {
  ++calls;
  std::free(data);
}

}  // namespace qonnx::cuda
