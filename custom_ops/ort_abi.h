// The slice of the ONNX Runtime C ABI that this library uses, declared by hand.
//
// The wheels of ONNX Runtime ship no headers, and the C ABI only ever grows: `OrtApi` is a table of function pointers
// whose slot numbers never change, `OrtCustomOp` a struct that gets new fields at its end. So the numbers below hold
// for every release from 1.18 (API 18) on. tests/test_custom_ops_abi.py compares them with real headers where
// ONNXRUNTIME_INCLUDE_DIR names a copy.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qonnx::abi {

constexpr uint32_t kApiVersion = 18;  // ONNX Runtime 1.18, the oldest release accepted
constexpr const char* kOldestRelease = "1.18";

// Opaque types of the C API.
struct Status;
struct Value;
struct TypeInfo;
struct TensorInfo;  // OrtTensorTypeAndShapeInfo
struct KernelInfo;
struct KernelContext;
struct CustomOpDomain;
struct SessionOptions;
struct ShapeContext;
struct OpAttribute;
struct Allocator;
struct MemoryInfo;

struct ApiBase {
  void* const* (*GetApi)(uint32_t version);  // null when the runtime is older than `version`
  const char* (*GetVersionString)();
};

// ONNXTensorElementDataType
enum class Type : int {
  any = 0,  // as an operator's input type: every type is accepted
  float32 = 1,
  uint8 = 2,
  int8 = 3,
  uint16 = 4,
  int16 = 5,
  int32 = 6,
  int64 = 7,
  string = 8,
  boolean = 9,
  float16 = 10,
  float64 = 11,
  uint32 = 12,
  uint64 = 13,
  bfloat16 = 16,
  uint4 = 21,  // two a byte, the first in the low nibble
  int4 = 22,
};

// OrtCustomOpInputOutputCharacteristic
enum class Arity : int { required = 0, optional = 1, variadic = 2 };

// OrtMemType: where a provider of a device wants an input
enum class Memory : int { of_provider = 0, host = -2 };

constexpr int kErrorFail = 1;             // ORT_FAIL
constexpr int kErrorInvalidArgument = 2;  // ORT_INVALID_ARGUMENT

using ParallelTask = void (*)(void* data, size_t index);

// name, slot in OrtApi, result, parameters
#define QONNX_ORT_API(F)                                                                                             \
  F(CreateStatus, 0, Status*, (int code, const char* message))                                                       \
  F(GetErrorMessage, 2, const char*, (const Status*))                                                                \
  F(CreateCustomOpDomain, 26, Status*, (const char* name, CustomOpDomain**))                                         \
  F(CustomOpDomain_Add, 27, Status*, (CustomOpDomain*, const void* op))                                              \
  F(AddCustomOpDomain, 28, Status*, (SessionOptions*, CustomOpDomain*))                                              \
  F(GetTensorMutableData, 51, Status*, (Value*, void** data))                                                        \
  F(CastTypeInfoToTensorInfo, 55, Status*, (const TypeInfo*, const TensorInfo**))                                    \
  F(CreateTensorTypeAndShapeInfo, 57, Status*, (TensorInfo**))                                                       \
  F(SetTensorElementType, 58, Status*, (TensorInfo*, int type))                                                      \
  F(SetDimensions, 59, Status*, (TensorInfo*, const int64_t* dims, size_t rank))                                     \
  F(GetTensorElementType, 60, Status*, (const TensorInfo*, int* type))                                               \
  F(GetDimensionsCount, 61, Status*, (const TensorInfo*, size_t* rank))                                              \
  F(GetDimensions, 62, Status*, (const TensorInfo*, int64_t* dims, size_t rank))                                     \
  F(GetSymbolicDimensions, 63, Status*, (const TensorInfo*, const char** symbols, size_t rank))                      \
  F(GetTensorShapeElementCount, 64, Status*, (const TensorInfo*, size_t* count))                                     \
  F(GetTensorTypeAndShape, 65, Status*, (const Value*, TensorInfo**))                                                \
  F(AllocatorAlloc, 75, Status*, (Allocator*, size_t bytes, void**))                                                 \
  F(AllocatorFree, 76, Status*, (Allocator*, void*))                                                                 \
  F(KernelInfoGetAttribute_float, 85, Status*, (const KernelInfo*, const char* name, float*))                        \
  F(KernelInfoGetAttribute_int64, 86, Status*, (const KernelInfo*, const char* name, int64_t*))                      \
  F(KernelInfoGetAttribute_string, 87, Status*, (const KernelInfo*, const char* name, char*, size_t* size))          \
  F(KernelContext_GetInputCount, 88, Status*, (const KernelContext*, size_t*))                                       \
  F(KernelContext_GetInput, 90, Status*, (const KernelContext*, size_t index, const Value**))                        \
  F(KernelContext_GetOutput, 91, Status*, (KernelContext*, size_t index, const int64_t* dims, size_t rank, Value**)) \
  F(ReleaseStatus, 93, void, (Status*))                                                                              \
  F(ReleaseTypeInfo, 98, void, (TypeInfo*))                                                                          \
  F(ReleaseTensorTypeAndShapeInfo, 99, void, (TensorInfo*))                                                          \
  F(ReleaseAllocator, 132, void, (Allocator*))                                                                       \
  F(KernelInfoGetAttributeArray_int64, 163, Status*, (const KernelInfo*, const char* name, int64_t*, size_t* size))   \
  F(KernelContext_GetGPUComputeStream, 193, Status*, (const KernelContext*, void** stream))                          \
  F(GetTensorMemoryInfo, 194, Status*, (const Value*, const MemoryInfo**))                                           \
  F(KernelInfo_GetInputCount, 230, Status*, (const KernelInfo*, size_t*))                                            \
  F(KernelInfo_GetInputTypeInfo, 234, Status*, (const KernelInfo*, size_t index, TypeInfo**))                        \
  F(KernelInfo_GetNodeName, 244, Status*, (const KernelInfo*, char*, size_t* size))                                  \
  F(KernelInfoGetConstantInput_tensor, 249, Status*,                                                                 \
    (const KernelInfo*, size_t index, int* is_constant, const Value**))                                              \
  F(KernelContext_GetAllocator, 253, Status*, (const KernelContext*, const MemoryInfo*, Allocator**))                \
  F(ShapeInferContext_GetInputCount, 267, Status*, (const ShapeContext*, size_t*))                                   \
  F(ShapeInferContext_GetInputTypeShape, 268, Status*, (const ShapeContext*, size_t index, TensorInfo**))            \
  F(ShapeInferContext_GetAttribute, 269, Status*, (const ShapeContext*, const char* name, const OpAttribute**))      \
  F(ShapeInferContext_SetOutputTypeShape, 270, Status*, (const ShapeContext*, size_t index, const TensorInfo*))      \
  F(SetSymbolicDimensions, 271, Status*, (TensorInfo*, const char** symbols, size_t rank))                           \
  F(ReadOpAttr, 272, Status*, (const OpAttribute*, int type, void* data, size_t size, size_t* out))                  \
  F(KernelContext_ParallelFor, 274, Status*,                                                                         \
    (const KernelContext*, ParallelTask, size_t total, size_t batches, void* data))

// Set once, when the library is registered.
inline void* const* api = nullptr;

#define QONNX_ORT_FUNCTION(name, slot, result, parameters) \
  constexpr int name##_slot = slot;                        \
  inline auto name() { return reinterpret_cast<result(*) parameters>(api[slot]); }
QONNX_ORT_API(QONNX_ORT_FUNCTION)
#undef QONNX_ORT_FUNCTION

struct CustomOp {
  uint32_t version;
  void* (*CreateKernel)(const CustomOp*, void* const* api, const KernelInfo*);
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);
  int (*GetInputType)(const CustomOp*, size_t index);
  size_t (*GetInputTypeCount)(const CustomOp*);
  int (*GetOutputType)(const CustomOp*, size_t index);
  size_t (*GetOutputTypeCount)(const CustomOp*);
  void (*KernelCompute)(void* kernel, KernelContext*);
  void (*KernelDestroy)(void* kernel);
  int (*GetInputCharacteristic)(const CustomOp*, size_t index);
  int (*GetOutputCharacteristic)(const CustomOp*, size_t index);
  int (*GetInputMemoryType)(const CustomOp*, size_t index);
  int (*GetVariadicInputMinArity)(const CustomOp*);
  int (*GetVariadicInputHomogeneity)(const CustomOp*);
  int (*GetVariadicOutputMinArity)(const CustomOp*);
  int (*GetVariadicOutputHomogeneity)(const CustomOp*);
  Status* (*CreateKernelV2)(const CustomOp*, void* const* api, const KernelInfo*, void** kernel);
  Status* (*KernelComputeV2)(void* kernel, KernelContext*);
  Status* (*InferOutputShape)(const CustomOp*, ShapeContext*);
  int (*GetStartVersion)(const CustomOp*);
  int (*GetEndVersion)(const CustomOp*);
  size_t (*GetMayInplace)(int** input, int** output);
  void (*ReleaseMayInplace)(int* input, int* output);
  size_t (*GetAliasMap)(int** input, int** output);
  void (*ReleaseAliasMap)(int* input, int* output);
};
static_assert(sizeof(void*) != 8 || (sizeof(CustomOp) == 208 && offsetof(CustomOp, InferOutputShape) == 152));

}  // namespace qonnx::abi
