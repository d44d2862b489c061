// An operator as a C++ class: the layer between the C ABI and the kernels.
//
// A kernel class K provides
//   static constexpr const char* name;
//   static constexpr Port inputs[], outputs[];       (outputs may be empty: static constexpr std::span<const Port>)
//   static void infer(ShapeInference&);              shapes of the outputs, symbolic dimensions kept
//   explicit K(const NodeInfo&);                     reads attributes, checks them, repacks constant inputs
//   void run(Context&);                              one call; several threads may be inside at once
// and `operation<K>()` is its OrtCustomOp. Errors are thrown as `Error` with a sentence and leave as an OrtStatus; no
// exception crosses the C boundary.
#pragma once

#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "ort_abi.h"

namespace qonnx {

using abi::Arity;
using abi::Memory;
using abi::Type;

struct Error : std::exception {
  explicit Error(std::string text) : message(std::move(text)) {}
  const char* what() const noexcept override { return message.c_str(); }
  std::string message;
};

// Throws when a call of the C API failed.
inline void check(abi::Status* status) {
  if (!status) return;
  Error error(abi::GetErrorMessage()(status));
  abi::ReleaseStatus()(status);
  throw error;
}

// True when a call of the C API succeeded; its error is dropped (a missing attribute, say).
inline bool succeeded(abi::Status* status) {
  if (status) abi::ReleaseStatus()(status);
  return !status;
}

// Runs `body` and turns what it throws into a status.
template <class Body>
abi::Status* guarded(Body&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Error& error) {
    return abi::CreateStatus()(abi::kErrorInvalidArgument, error.what());
  } catch (const std::exception& error) {
    return abi::CreateStatus()(abi::kErrorFail, error.what());
  } catch (...) {
    return abi::CreateStatus()(abi::kErrorFail, "unknown error in an operator of ai.qonnx");
  }
}

// One input or output of an operator.
struct Port {
  Type type;
  Arity arity = Arity::required;
  Memory memory = Memory::of_provider;
};

// A view of a tensor that ONNX Runtime owns. `present` is false for an optional input that was left out.
struct Tensor {
  bool present = false;
  Type type = Type::any;
  std::vector<int64_t> shape;
  size_t count = 0;
  const void* data = nullptr;

  explicit operator bool() const { return present; }
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

Tensor view(const abi::Value* value);
std::string shape_text(const std::vector<int64_t>& shape);  // "[2, 3]"
const char* type_text(Type type);                           // "float16"

// What a kernel sees when it is created.
class NodeInfo {
 public:
  explicit NodeInfo(const abi::KernelInfo* info) : info_(info) {}
  std::string node_name() const;
  int64_t integer(const char* attribute, int64_t fallback) const;
  std::vector<int64_t> integers(const char* attribute) const;  // empty when it is missing
  float number(const char* attribute, float fallback) const;
  std::string text(const char* attribute, const std::string& fallback) const;
  size_t input_count() const;
  Type input_type(size_t index) const;  // any when the input is left out
  Tensor constant(size_t index) const;  // not present when the input is no initializer

 private:
  const abi::KernelInfo* info_;
};

// What a kernel sees in one call.
class Context {
 public:
  explicit Context(abi::KernelContext* context) : context_(context) {}
  Tensor input(size_t index) const;
  void* output(size_t index, const std::vector<int64_t>& shape);
  abi::KernelContext* raw() const { return context_; }

  // body(index) for every index below `total`, on the threads of ONNX Runtime's own pool; `body` must not throw.
  template <class Body>
  void parallel(size_t total, Body&& body) const {
    if (total == 1) return body(size_t{0});
    auto call = [](void* data, size_t index) { (*static_cast<std::remove_reference_t<Body>*>(data))(index); };
    check(abi::KernelContext_ParallelFor()(context_, call, total, 0, &body));
  }

 private:
  abi::KernelContext* context_;
};

// What shape inference sees.
class ShapeInference {
 public:
  struct Shape {
    bool known = false;  // false for unknown rank (and for scalars, which the C API cannot tell apart)
    Type type = Type::any;
    std::vector<int64_t> dims;         // -1 where unknown
    std::vector<std::string> symbols;  // "" where the dimension has no name
  };
  explicit ShapeInference(abi::ShapeContext* context) : context_(context) {}
  Shape input(size_t index) const;
  std::vector<int64_t> integers(const char* attribute) const;  // empty when it is missing
  void output(size_t index, Shape shape);

 private:
  abi::ShapeContext* context_;
};

template <class K>
struct Operation : abi::CustomOp {
  explicit Operation(const char* provider) : provider_(provider) {
    std::memset(static_cast<abi::CustomOp*>(this), 0, sizeof(abi::CustomOp));
    using Op = const abi::CustomOp*;
    version = abi::kApiVersion;
    GetName = [](Op) { return K::name; };
    GetExecutionProviderType = [](Op op) { return static_cast<const Operation*>(op)->provider_; };
    GetInputTypeCount = [](Op) { return std::size(K::inputs); };
    GetInputType = [](Op, size_t i) { return static_cast<int>(K::inputs[i].type); };
    GetInputCharacteristic = [](Op, size_t i) { return static_cast<int>(K::inputs[i].arity); };
    GetInputMemoryType = [](Op, size_t i) { return static_cast<int>(K::inputs[i].memory); };
    GetOutputTypeCount = [](Op) { return std::size(K::outputs); };
    GetOutputType = [](Op, size_t i) { return static_cast<int>(K::outputs[i].type); };
    GetOutputCharacteristic = [](Op, size_t i) { return static_cast<int>(K::outputs[i].arity); };
    GetVariadicInputMinArity = GetVariadicInputHomogeneity = [](Op) { return 0; };
    GetVariadicOutputMinArity = GetVariadicOutputHomogeneity = [](Op) { return 0; };
    CreateKernel = [](Op, void* const*, const abi::KernelInfo*) -> void* { return nullptr; };
    KernelCompute = [](void*, abi::KernelContext*) {};
    CreateKernelV2 = [](Op, void* const*, const abi::KernelInfo* info, void** kernel) {
      return guarded([&] { *kernel = new K(NodeInfo(info)); });
    };
    KernelComputeV2 = [](void* kernel, abi::KernelContext* c) {
      return guarded([&] {
        Context context(c);
        static_cast<K*>(kernel)->run(context);
      });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<K*>(kernel); };
    GetStartVersion = [](Op) { return 1; };
    GetEndVersion = [](Op) { return 0x7fffffff; };
    InferOutputShape = [](Op, abi::ShapeContext* c) {
      return guarded([&] {
        ShapeInference shapes(c);
        K::infer(shapes);
      });
    };
  }

 private:
  const char* provider_;
};

// The OrtCustomOp of a kernel class; it lives as long as the process, as ONNX Runtime requires.
template <class K>
const abi::CustomOp* operation(const char* provider = "CPUExecutionProvider") {
  static const Operation<K> op(provider);
  return &op;
}

}  // namespace qonnx
