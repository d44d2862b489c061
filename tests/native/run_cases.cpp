// Runs operators without Python: for sanitizer builds and other processors.
//
//     run_cases ONNXRUNTIME.so QONNX_OPS.so|- FOLDER [THREADS]
//
// For every FOLDER/NAME.onnx, in the order of their names: opens it, feeds FOLDER/NAME.in, writes FOLDER/NAME.out, or
// the runtime's sentence to FOLDER/NAME.error. Files of tensors hold, little-endian: int64 count, then for each tensor
// int64 type (as in ONNX), rank, dimensions, bytes, and the bytes. NAME is printed before anything is done with it, so
// that the last line names what did not return.
//
// THREADS above 1: every case runs in so many threads at once, and tasks of an operator go to threads that this file
// starts. A thread sanitizer sees those; of ONNX Runtime's own pool it sees the memory, but not what keeps it in order.
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "ort_abi.h"

namespace abi = qonnx::abi;
namespace fs = std::filesystem;
using Handle = void*;  // environments, sessions, options: the C API hands out pointers only

namespace {

// Slots of OrtApi that sessions need; they never change.
enum { kCreateEnv = 3, kCreateSession = 7, kRun = 9, kCreateSessionOptions = 10, kSetLogSeverity = 22,
       kSetIntraOpNumThreads = 24, kSessionGetInputCount = 30, kSessionGetOutputCount = 31, kSessionGetInputName = 36,
       kSessionGetOutputName = 37, kCreateTensorWithData = 49, kCreateCpuMemoryInfo = 69, kGetDefaultAllocator = 78,
       kReleaseSession = 95, kReleaseValue = 96, kReleaseSessionOptions = 100, kParallelFor = 274, kSlots = 280 };

struct Failure {
  std::string sentence;
};

template <typename... Parameters>
void call(int slot, Parameters... parameters) {
  auto* status = reinterpret_cast<abi::Status* (*)(Parameters...)>(abi::api[slot])(parameters...);
  if (status == nullptr) return;
  Failure failure{abi::GetErrorMessage()(status)};
  abi::ReleaseStatus()(status);
  throw failure;
}

template <typename Pointer>
void release(int slot, Pointer* object) {
  reinterpret_cast<void (*)(Pointer*)>(abi::api[slot])(object);
}

[[noreturn]] void fail(const std::string& sentence) {
  std::fprintf(stderr, "run_cases: %s\n", sentence.c_str());
  std::exit(2);
}

// The runtime's table with its ParallelFor replaced: index i of the tasks goes to thread i mod g_threads.
void* g_table[kSlots];
size_t g_threads = 1;

abi::Status* parallel_for(const abi::KernelContext*, abi::ParallelTask task, size_t total, size_t, void* data) {
  std::vector<std::thread> workers;
  for (size_t first = 0; first < std::min(total, g_threads); ++first)
    workers.emplace_back([=] {
      for (size_t i = first; i < total; i += g_threads) task(data, i);
    });
  for (std::thread& worker : workers) worker.join();
  return nullptr;
}

struct Array {
  int64_t type;
  std::vector<int64_t> shape;
  std::vector<char> bytes;
};

std::vector<Array> read_arrays(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail("cannot read " + path.string());
  const auto number = [&] {
    int64_t n = 0;
    file.read(reinterpret_cast<char*>(&n), sizeof n);
    return n;
  };
  std::vector<Array> arrays(static_cast<size_t>(number()));
  for (Array& array : arrays) {
    array.type = number();
    array.shape.resize(static_cast<size_t>(number()));
    for (int64_t& dimension : array.shape) dimension = number();
    array.bytes.resize(static_cast<size_t>(number()));
    file.read(array.bytes.data(), static_cast<std::streamsize>(array.bytes.size()));
  }
  return arrays;
}

size_t width_of(int64_t type) {
  switch (static_cast<abi::Type>(type)) {
    case abi::Type::int64: case abi::Type::float64: case abi::Type::uint64: return 8;
    case abi::Type::float32: case abi::Type::int32: case abi::Type::uint32: return 4;
    case abi::Type::float16: case abi::Type::bfloat16: case abi::Type::int16: case abi::Type::uint16: return 2;
    default: return 1;
  }
}

Array array_of(abi::Value* value) {
  abi::TensorInfo* info = nullptr;
  int type = 0;
  size_t rank = 0, count = 0;
  void* data = nullptr;
  call(abi::GetTensorTypeAndShape_slot, value, &info);
  call(abi::GetTensorElementType_slot, info, &type);
  call(abi::GetDimensionsCount_slot, info, &rank);
  Array array{type, std::vector<int64_t>(rank), {}};
  call(abi::GetDimensions_slot, info, array.shape.data(), rank);
  call(abi::GetTensorShapeElementCount_slot, info, &count);
  abi::ReleaseTensorTypeAndShapeInfo()(info);
  call(abi::GetTensorMutableData_slot, value, &data);
  array.bytes.assign(static_cast<char*>(data), static_cast<char*>(data) + count * width_of(type));
  return array;
}

void write_arrays(const fs::path& path, const std::vector<Array>& arrays) {
  std::ofstream file(path, std::ios::binary);
  const auto number = [&](int64_t n) { file.write(reinterpret_cast<const char*>(&n), sizeof n); };
  number(static_cast<int64_t>(arrays.size()));
  for (const Array& array : arrays) {
    number(array.type);
    number(static_cast<int64_t>(array.shape.size()));
    for (int64_t dimension : array.shape) number(dimension);
    number(static_cast<int64_t>(array.bytes.size()));
    file.write(array.bytes.data(), static_cast<std::streamsize>(array.bytes.size()));
  }
}

struct Session {
  Handle session = nullptr, allocator = nullptr, memory = nullptr;
  std::vector<const char*> inputs, outputs;

  Session(Handle environment, Handle options, Handle memory, const fs::path& model) : memory(memory) {
    call(kCreateSession, environment, model.c_str(), options, &session);
    call(kGetDefaultAllocator, &allocator);
    names(kSessionGetInputCount, kSessionGetInputName, inputs);
    names(kSessionGetOutputCount, kSessionGetOutputName, outputs);
  }
  ~Session() {
    for (const auto* all : {&inputs, &outputs})
      for (const char* name : *all) call(abi::AllocatorFree_slot, allocator, const_cast<char*>(name));
    release(kReleaseSession, session);
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  std::vector<Array> run(std::vector<Array> given) const {
    if (given.size() != inputs.size()) fail("the model takes another number of inputs than its file holds");
    std::vector<abi::Value*> x(inputs.size()), y(outputs.size());
    for (size_t i = 0; i < x.size(); ++i)
      call(kCreateTensorWithData, memory, static_cast<void*>(given[i].bytes.data()), given[i].bytes.size(),
           given[i].shape.data(), given[i].shape.size(), static_cast<int>(given[i].type), &x[i]);
    std::vector<Array> arrays;
    try {
      call(kRun, session, Handle{}, inputs.data(), x.data(), x.size(), outputs.data(), y.size(), y.data());
      for (abi::Value* value : y) arrays.push_back(array_of(value));
    } catch (...) {
      for (abi::Value* value : x) release(kReleaseValue, value);
      throw;
    }
    for (const auto* all : {&x, &y})
      for (abi::Value* value : *all) release(kReleaseValue, value);
    return arrays;
  }

 private:
  void names(int count_slot, int name_slot, std::vector<const char*>& to) {
    size_t count = 0;
    call(count_slot, session, &count);
    for (size_t i = 0; i < count; ++i) {
      char* name = nullptr;
      call(name_slot, session, i, allocator, &name);
      to.push_back(name);
    }
  }
};

void run_case(Handle environment, Handle options, Handle memory, const fs::path& model) {
  const fs::path stem = model.parent_path() / model.stem();
  try {
    const Session session(environment, options, memory, model);
    const std::vector<Array> given = read_arrays(stem.string() + ".in");
    std::vector<std::vector<Array>> results(g_threads);
    std::vector<std::string> errors(g_threads);
    std::vector<std::thread> callers;
    for (size_t i = 1; i < g_threads; ++i)
      callers.emplace_back([&, i] {
        try {
          results[i] = session.run(given);
        } catch (const Failure& failure) {
          errors[i] = failure.sentence;
        }
      });
    try {
      results[0] = session.run(given);
    } catch (const Failure& failure) {
      errors[0] = failure.sentence;
    }
    for (std::thread& caller : callers) caller.join();
    for (size_t i = 0; i < g_threads; ++i) {
      if (!errors[i].empty()) throw Failure{errors[i]};
      for (size_t k = 0; k < results[0].size(); ++k)
        if (results[i][k].bytes != results[0][k].bytes) throw Failure{"threads disagree about output " + std::to_string(k)};
    }
    write_arrays(stem.string() + ".out", results[0]);
  } catch (const Failure& failure) {
    std::ofstream(stem.string() + ".error") << failure.sentence;
  }
}

}  // namespace

int main(int count, char** words) {
  if (count != 4 && count != 5) fail("usage: run_cases ONNXRUNTIME.so QONNX_OPS.so|- FOLDER [THREADS]");
  if (count == 5) g_threads = std::max<size_t>(1, std::strtoul(words[4], nullptr, 10));
  Handle runtime = dlopen(words[1], RTLD_NOW);
  if (runtime == nullptr) fail(dlerror());
  static const abi::ApiBase* base = reinterpret_cast<const abi::ApiBase* (*)()>(dlsym(runtime, "OrtGetApiBase"))();
  abi::api = base->GetApi(abi::kApiVersion);
  if (abi::api == nullptr) fail(std::string("ONNX Runtime is older than ") + abi::kOldestRelease);

  Handle environment, options, memory;
  call(kCreateEnv, 3, static_cast<const char*>("run_cases"), &environment);
  call(kCreateSessionOptions, &options);
  call(kSetIntraOpNumThreads, options, static_cast<int>(g_threads));
  call(kCreateCpuMemoryInfo, 1, 0, &memory);
  if (std::string(words[2]) != "-") {
    Handle library = dlopen(words[2], RTLD_NOW);
    if (library == nullptr) fail(dlerror());
    std::memcpy(g_table, abi::api, sizeof g_table);
    if (g_threads > 1) g_table[kParallelFor] = reinterpret_cast<void*>(parallel_for);
    static const abi::ApiBase own{[](uint32_t version) -> void* const* {
                                    return base->GetApi(version) ? g_table : nullptr;
                                  },
                                  base->GetVersionString};
    using Register = abi::Status* (*)(abi::SessionOptions*, const abi::ApiBase*);
    auto* status = reinterpret_cast<Register>(dlsym(library, "RegisterCustomOps"))(
        static_cast<abi::SessionOptions*>(options), &own);
    if (status != nullptr) fail(abi::GetErrorMessage()(status));
  }

  std::vector<fs::path> models;
  for (const auto& entry : fs::directory_iterator(words[3]))
    if (entry.path().extension() == ".onnx") models.push_back(entry.path());
  std::sort(models.begin(), models.end());
  for (const fs::path& model : models) {
    std::printf("%s\n", model.stem().c_str());
    std::fflush(stdout);
    run_case(environment, options, memory, model);
  }
  std::printf("ONNX Runtime %s: %zu cases\n", base->GetVersionString(), models.size());
}
