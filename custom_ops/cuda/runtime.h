// The GPU as plain C++ sees it: whether there is one, its memory. cuda/runtime.cu or, emulated, emulate/runtime.cc.
#pragma once

#include <memory>

#include "product.h"

namespace qonnx::cuda {

// True where a driver and a GPU of compute capability 7.5 or newer are found; never fails.
bool gpu_present();

// The present GPU. Throws std::runtime_error with a sentence.
Device present_device();

// A copy of host memory on the GPU.
class DeviceArray {
 public:
  DeviceArray() = default;
  DeviceArray(const void* host, size_t bytes);  // throws std::runtime_error with a sentence
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(void* data) const;  // waits for kernels that may still read it
  };
  std::unique_ptr<void, Free> data_;
};

}  // namespace qonnx::cuda
