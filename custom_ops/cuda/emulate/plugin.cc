// A custom-op library whose operators are those of the GPU, on the emulated device: for tests. They are registered for the
// CPU's provider, or for the one that QONNX_EMULATED_PROVIDER names, as a library on a machine with a GPU does.
#include <cstdlib>

#include "../operators.h"
#include "machine.h"

using namespace qonnx;

extern "C" __attribute__((visibility("default"))) void emulated_seed(uint64_t seed) { emulate::set_seed(seed); }

extern "C" __attribute__((visibility("default"))) abi::Status* RegisterCustomOps(abi::SessionOptions* options,
                                                                                 const abi::ApiBase* base) {
  abi::api = base->GetApi(abi::kApiVersion);
  return guarded([&] {
    abi::CustomOpDomain* domain = nullptr;
    check(abi::CreateCustomOpDomain()("ai.qonnx", &domain));
    const char* named = std::getenv("QONNX_EMULATED_PROVIDER");
    const char* provider = named ? named : "CPUExecutionProvider";
    for (const abi::CustomOp* op : cuda::operators(provider)) check(abi::CustomOpDomain_Add()(domain, op));
    check(abi::AddCustomOpDomain()(options, domain));
  });
}
