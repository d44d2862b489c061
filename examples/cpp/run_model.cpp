// Runs a converted model without Python: ONNX Runtime from its shared library, kernels from libqonnx_ops.so.
//
//     qonnx ops --copy deploy/                   puts libqonnx_ops.so and ort_abi.h there
//     g++ -std=c++20 -Ideploy run_model.cpp -ldl -o run_model
//     ./run_model libonnxruntime.so deploy/libqonnx_ops.so model.onnx 1x3x224x224 input.bin output.bin
//
// One float32 input, one float32 output, both as raw files. Pass "-" as library to run without our kernels: operators of
// ai.qonnx then run as the functions that the model carries.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "ort_abi.h"

namespace abi = qonnx::abi;
using Handle = void*;  // environments, sessions, options: the C API hands out pointers only

[[noreturn]] void fail(const std::string& sentence) {
  std::fprintf(stderr, "run_model: %s\n", sentence.c_str());
  std::exit(1);
}

// Calls entry `slot` of the API, which returns a status; ends with the runtime's own sentence if that is not null.
template <typename... Parameters>
void call(int slot, Parameters... parameters) {
  auto* status = reinterpret_cast<abi::Status* (*)(Parameters...)>(abi::api[slot])(parameters...);
  if (status != nullptr) fail(abi::GetErrorMessage()(status));
}

// Slots of OrtApi that sessions need; they never change.
enum { kCreateEnv = 3, kCreateSession = 7, kRun = 9, kCreateSessionOptions = 10, kSetIntraOpNumThreads = 24,
       kRegisterCustomOpsLibrary = 29, kSessionGetInputName = 36, kSessionGetOutputName = 37,
       kCreateTensorWithData = 49, kCreateCpuMemoryInfo = 69, kGetDefaultAllocator = 78 };

int main(int count, char** words) {
  if (count != 7) fail("usage: run_model ONNXRUNTIME.so QONNX_OPS.so|- MODEL SHAPE INPUT OUTPUT");
  Handle runtime = dlopen(words[1], RTLD_NOW);
  if (runtime == nullptr) fail(dlerror());
  auto* base = reinterpret_cast<const abi::ApiBase* (*)()>(dlsym(runtime, "OrtGetApiBase"))();
  abi::api = base->GetApi(abi::kApiVersion);
  if (abi::api == nullptr) fail(std::string("ONNX Runtime is older than ") + abi::kOldestRelease);

  std::vector<int64_t> shape;
  for (std::string rest = words[4]; !rest.empty();) {
    size_t cut = rest.find('x');
    shape.push_back(std::stoll(rest.substr(0, cut)));
    rest = cut == std::string::npos ? "" : rest.substr(cut + 1);
  }
  std::ifstream file(words[5], std::ios::binary);
  std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};

  Handle environment, options, session, allocator, memory, library;
  call(kCreateEnv, 3, static_cast<const char*>("run_model"), &environment);
  call(kCreateSessionOptions, &options);
  call(kSetIntraOpNumThreads, options, 2);
  if (std::string(words[2]) != "-") call(kRegisterCustomOpsLibrary, options, const_cast<const char*>(words[2]), &library);
  call(kCreateSession, environment, const_cast<const char*>(words[3]), options, &session);

  const char *input, *output;
  abi::Value *x, *y = nullptr;
  call(kGetDefaultAllocator, &allocator);
  call(kSessionGetInputName, session, size_t{0}, allocator, &input);
  call(kSessionGetOutputName, session, size_t{0}, allocator, &output);
  call(kCreateCpuMemoryInfo, 1, 0, &memory);
  call(kCreateTensorWithData, memory, static_cast<void*>(bytes.data()), bytes.size(), shape.data(), shape.size(),
       static_cast<int>(abi::Type::float32), &x);
  call(kRun, session, Handle{}, &input, &x, size_t{1}, &output, size_t{1}, &y);

  abi::TensorInfo* info;
  size_t elements;
  float* data;
  call(abi::GetTensorTypeAndShape_slot, y, &info);
  call(abi::GetTensorShapeElementCount_slot, info, &elements);
  call(abi::GetTensorMutableData_slot, y, &data);
  std::ofstream(words[6], std::ios::binary).write(reinterpret_cast<char*>(data), elements * sizeof(float));
  std::printf("ONNX Runtime %s: %s -> %s, %zu numbers\n", base->GetVersionString(), input, output, elements);
}
