// Stream and workspace of a call (call.h).
#include "call.h"

namespace qonnx::cuda {

Stream stream_of([[maybe_unused]] const Context& context) {
#if defined(QONNX_EMULATED)
  return nullptr;
#else
  void* stream = nullptr;
  check(abi::KernelContext_GetGPUComputeStream()(context.raw(), &stream));
  return static_cast<Stream>(stream);
#endif
}

Workspace::Workspace(const Context& context, size_t input, size_t bytes) {
  constexpr size_t kAlignment = 256;
  const abi::Value* value = nullptr;
  check(abi::KernelContext_GetInput()(context.raw(), input, &value));
  const abi::MemoryInfo* memory = nullptr;
  check(abi::GetTensorMemoryInfo()(value, &memory));
  check(abi::KernelContext_GetAllocator()(context.raw(), memory, &allocator_));
  abi::Status* status = abi::AllocatorAlloc()(allocator_, bytes + kAlignment, &block_);
  if (status) {
    abi::ReleaseAllocator()(allocator_);
    check(status);
  }
  data_ = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(block_) + kAlignment - 1) / kAlignment * kAlignment);
}

Workspace::~Workspace() {
  succeeded(abi::AllocatorFree()(allocator_, block_));
  abi::ReleaseAllocator()(allocator_);
}

}  // namespace qonnx::cuda
