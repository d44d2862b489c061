// A custom-op library whose operators are those of the GPU, on the emulated device and the CPU provider: for tests.
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
    for (const abi::CustomOp* op : cuda::operators("CPUExecutionProvider")) check(abi::CustomOpDomain_Add()(domain, op));
    check(abi::AddCustomOpDomain()(options, domain));
  });
}
