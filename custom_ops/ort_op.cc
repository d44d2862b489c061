// The parts of the operator layer that need no template: tensors, attributes, shape inference.
#include "ort_op.h"

#include <atomic>

namespace qonnx {

Tensor view(const abi::Value* value) {
  Tensor tensor;
  if (!value) return tensor;
  abi::TensorInfo* raw = nullptr;
  check(abi::GetTensorTypeAndShape()(value, &raw));
  std::unique_ptr<abi::TensorInfo, void (*)(abi::TensorInfo*)> info(raw, abi::ReleaseTensorTypeAndShapeInfo());
  size_t rank = 0;
  check(abi::GetDimensionsCount()(raw, &rank));
  tensor.shape.resize(rank);
  check(abi::GetDimensions()(raw, tensor.shape.data(), rank));
  int type = 0;
  check(abi::GetTensorElementType()(raw, &type));
  tensor.type = static_cast<Type>(type);
  check(abi::GetTensorShapeElementCount()(raw, &tensor.count));
  void* data = nullptr;
  check(abi::GetTensorMutableData()(const_cast<abi::Value*>(value), &data));  // the C API has no const form
  tensor.data = data;
  tensor.present = true;
  return tensor;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

const char* type_text(Type type) {
  switch (type) {
    case Type::float32: return "float32";
    case Type::uint8: return "uint8";
    case Type::int8: return "int8";
    case Type::uint16: return "uint16";
    case Type::int16: return "int16";
    case Type::int32: return "int32";
    case Type::int64: return "int64";
    case Type::string: return "string";
    case Type::boolean: return "bool";
    case Type::float16: return "float16";
    case Type::float64: return "float64";
    case Type::uint32: return "uint32";
    case Type::uint64: return "uint64";
    case Type::bfloat16: return "bfloat16";
    case Type::uint4: return "uint4";
    case Type::int4: return "int4";
    default: return "another type";
  }
}

std::string NodeInfo::node_name() const {
  size_t size = 0;
  if (!succeeded(abi::KernelInfo_GetNodeName()(info_, nullptr, &size)) || !size) return "";
  std::string name(size, '\0');
  check(abi::KernelInfo_GetNodeName()(info_, name.data(), &size));
  name.resize(size - 1);  // the size counts the terminator
  return name;
}

int64_t NodeInfo::integer(const char* attribute, int64_t fallback) const {
  int64_t value = 0;
  return succeeded(abi::KernelInfoGetAttribute_int64()(info_, attribute, &value)) ? value : fallback;
}

std::vector<int64_t> NodeInfo::integers(const char* attribute) const {
  size_t size = 0;
  if (!succeeded(abi::KernelInfoGetAttributeArray_int64()(info_, attribute, nullptr, &size))) return {};
  std::vector<int64_t> values(size);
  if (size) check(abi::KernelInfoGetAttributeArray_int64()(info_, attribute, values.data(), &size));
  return values;
}

float NodeInfo::number(const char* attribute, float fallback) const {
  float value = 0;
  return succeeded(abi::KernelInfoGetAttribute_float()(info_, attribute, &value)) ? value : fallback;
}

std::string NodeInfo::text(const char* attribute, const std::string& fallback) const {
  size_t size = 0;
  if (!succeeded(abi::KernelInfoGetAttribute_string()(info_, attribute, nullptr, &size)) || !size) return fallback;
  std::string value(size, '\0');
  check(abi::KernelInfoGetAttribute_string()(info_, attribute, value.data(), &size));
  value.resize(size - 1);
  return value;
}

size_t NodeInfo::input_count() const {
  size_t count = 0;
  check(abi::KernelInfo_GetInputCount()(info_, &count));
  return count;
}

Type NodeInfo::input_type(size_t index) const {
  if (index >= input_count()) return Type::any;
  abi::TypeInfo* raw = nullptr;
  if (!succeeded(abi::KernelInfo_GetInputTypeInfo()(info_, index, &raw)) || !raw) return Type::any;
  std::unique_ptr<abi::TypeInfo, void (*)(abi::TypeInfo*)> info(raw, abi::ReleaseTypeInfo());
  const abi::TensorInfo* tensor = nullptr;
  check(abi::CastTypeInfoToTensorInfo()(raw, &tensor));
  int type = 0;
  if (tensor) check(abi::GetTensorElementType()(tensor, &type));
  return static_cast<Type>(type);
}

Tensor NodeInfo::constant(size_t index) const {
  if (index >= input_count()) return {};
  int is_constant = 0;
  const abi::Value* value = nullptr;
  if (!succeeded(abi::KernelInfoGetConstantInput_tensor()(info_, index, &is_constant, &value))) return {};
  return is_constant ? view(value) : Tensor{};
}

Tensor Context::input(size_t index) const {
  size_t count = 0;
  check(abi::KernelContext_GetInputCount()(context_, &count));
  if (index >= count) return {};
  const abi::Value* value = nullptr;
  check(abi::KernelContext_GetInput()(context_, index, &value));
  return view(value);
}

void* Context::output(size_t index, const std::vector<int64_t>& shape) {
  abi::Value* value = nullptr;
  check(abi::KernelContext_GetOutput()(context_, index, shape.data(), shape.size(), &value));
  if (!value) return nullptr;
  void* data = nullptr;
  check(abi::GetTensorMutableData()(value, &data));
  return data;
}

ShapeInference::Shape ShapeInference::input(size_t index) const {
  Shape shape;
  size_t count = 0;
  check(abi::ShapeInferContext_GetInputCount()(context_, &count));
  if (index >= count) return shape;
  abi::TensorInfo* info = nullptr;
  if (!succeeded(abi::ShapeInferContext_GetInputTypeShape()(context_, index, &info)) || !info) return shape;
  size_t rank = 0;
  check(abi::GetDimensionsCount()(info, &rank));
  int type = 0;
  check(abi::GetTensorElementType()(info, &type));
  shape.type = static_cast<Type>(type);
  if (!rank) return shape;
  shape.known = true;
  shape.dims.resize(rank);
  check(abi::GetDimensions()(info, shape.dims.data(), rank));
  std::vector<const char*> symbols(rank, nullptr);
  check(abi::GetSymbolicDimensions()(info, symbols.data(), rank));
  for (const char* symbol : symbols) shape.symbols.emplace_back(symbol ? symbol : "");
  return shape;
}

std::vector<int64_t> ShapeInference::integers(const char* attribute) const {
  constexpr int kIntegers = 2;  // ORT_OP_ATTR_INTS
  const abi::OpAttribute* found = nullptr;
  if (!succeeded(abi::ShapeInferContext_GetAttribute()(context_, attribute, &found)) || !found) return {};
  size_t bytes = 0;  // wanted: the first call fails and says so
  if (succeeded(abi::ReadOpAttr()(found, kIntegers, nullptr, 0, &bytes)) || !bytes) return {};
  std::vector<int64_t> values(bytes / sizeof(int64_t));
  return succeeded(abi::ReadOpAttr()(found, kIntegers, values.data(), bytes, &bytes)) ? values : std::vector<int64_t>{};
}

void ShapeInference::output(size_t index, Shape shape) {
  // An unknown dimension handed back without a name becomes the number -1 in the graph, and later nodes fail on it:
  // so each gets a name of its own.
  static std::atomic<uint64_t> unnamed{0};
  if (!shape.known) return;
  shape.symbols.resize(shape.dims.size());
  std::vector<const char*> symbols;
  for (size_t i = 0; i < shape.dims.size(); ++i) {
    std::string& symbol = shape.symbols[i];
    if (shape.dims[i] < 0 && symbol.empty()) symbol = "qonnx_unknown_" + std::to_string(unnamed++);
    symbols.push_back(symbol.c_str());
  }
  abi::TensorInfo* info = nullptr;
  check(abi::CreateTensorTypeAndShapeInfo()(&info));
  std::unique_ptr<abi::TensorInfo, void (*)(abi::TensorInfo*)> owner(info, abi::ReleaseTensorTypeAndShapeInfo());
  check(abi::SetTensorElementType()(info, static_cast<int>(shape.type)));
  check(abi::SetDimensions()(info, shape.dims.data(), shape.dims.size()));
  check(abi::SetSymbolicDimensions()(info, symbols.data(), symbols.size()));
  check(abi::ShapeInferContext_SetOutputTypeShape()(context_, index, info));
}

}  // namespace qonnx
