// One call of a GPU operator: the stream that ONNX Runtime computes on, and workspace from its own allocator.
#pragma once

#include "../ort_op.h"
#include "types.h"

namespace qonnx::cuda {

// Throws a launcher's failure as the error of the node.
inline void expect(const Failure& failure, const std::string& who) {
  if (!failure.empty()) throw Error(who + failure);
}

template <Type type>
constexpr Element element_of() {
  static_assert(type == Type::float32 || type == Type::float16 || type == Type::bfloat16);
  return type == Type::float32 ? Element::float32 : type == Type::float16 ? Element::float16 : Element::bfloat16;
}

Stream stream_of(const Context& context);

// Memory for the time of a call, aligned to 256 bytes. It may be used again as soon as this object is gone: by work that
// stands later in the same stream.
class Workspace {
 public:
  // `input`: of the node, one that lies in GPU memory.
  Workspace(const Context& context, size_t input, size_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  char* data() const { return data_; }

 private:
  abi::Allocator* allocator_ = nullptr;
  void* block_ = nullptr;
  char* data_ = nullptr;
};

}  // namespace qonnx::cuda
