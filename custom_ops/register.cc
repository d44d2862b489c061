// The library's entry point: every operator of domain ai.qonnx, one line per operator × type × provider.
#include <iterator>

#include "cpu/operators.h"
#include "ort_op.h"
#if defined(QONNX_CUDA)
#include "cuda/operators.h"
#include "cuda/runtime.h"
#endif

namespace {

using namespace qonnx;

const abi::CustomOp* (*const kOperators[])() = {
    cpu::matmul_lowbit_float32,
    cpu::matmul_lowbit_float16,
    cpu::matmul_lowbit_bfloat16,
    cpu::dynamic_matmul_lowbit_float32,
    cpu::dynamic_matmul_lowbit_float16,
    cpu::dynamic_matmul_lowbit_bfloat16,
    cpu::conv_lowbit_float32,
    cpu::conv_lowbit_float16,
    cpu::conv_lowbit_bfloat16,
    cpu::quantized_matmul_lowbit_float32,
    cpu::quantized_matmul_lowbit_float16,
    cpu::quantized_matmul_lowbit_bfloat16,
    cpu::qlinear_matmul_lowbit_uint8,
    cpu::qlinear_matmul_lowbit_int8,
    cpu::static_matmul_lowbit_float32,
    cpu::static_matmul_lowbit_float16,
    cpu::static_matmul_lowbit_bfloat16,
    cpu::gather_codebook_float32,
    cpu::gather_codebook_float16,
    cpu::gather_codebook_bfloat16,
    cpu::hadamard_float32,
    cpu::hadamard_float16,
    cpu::hadamard_bfloat16,
    cpu::hadamard_quantize_float32,
    cpu::hadamard_quantize_float16,
    cpu::hadamard_quantize_bfloat16,
    cpu::quantize_rows_float32,
    cpu::quantize_rows_float16,
    cpu::quantize_rows_bfloat16,
    cpu::log_attention_float32,
    cpu::log_attention_float16,
    cpu::log_attention_bfloat16,
    cpu::log_quantize_float32,
    cpu::log_quantize_float16,
    cpu::log_quantize_bfloat16,
    cpu::log_round_trip_float32,
    cpu::log_round_trip_float16,
    cpu::log_round_trip_bfloat16,
    cpu::lookup_quantize_float32,
    cpu::lookup_quantize_float16,
    cpu::lookup_quantize_bfloat16,
    cpu::matmul_codebook_float32,
    cpu::matmul_codebook_float16,
    cpu::matmul_codebook_bfloat16,
    cpu::dynamic_matmul_codebook_float32,
    cpu::dynamic_matmul_codebook_float16,
    cpu::dynamic_matmul_codebook_bfloat16,
    cpu::observe_sink_float32,
    cpu::observe_sink_float16,
    cpu::observe_sink_bfloat16,
};

}  // namespace

extern "C" QONNX_EXPORT abi::Status* RegisterCustomOps(abi::SessionOptions* options, const abi::ApiBase* base) {
  abi::api = base->GetApi(abi::kApiVersion);
  if (!abi::api) {
    abi::api = base->GetApi(1);  // only to have CreateStatus
    const std::string message = std::string("the operators of ai.qonnx need ONNX Runtime ") + abi::kOldestRelease +
                                " or newer, this is " + base->GetVersionString() + "; update onnxruntime";
    return abi::CreateStatus()(abi::kErrorFail, message.c_str());
  }
  return guarded([&] {
    abi::CustomOpDomain* domain = nullptr;
    check(abi::CreateCustomOpDomain()("ai.qonnx", &domain));  // never freed: sessions may outlive their options
    for (auto* create : kOperators) check(abi::CustomOpDomain_Add()(domain, create()));
#if defined(QONNX_CUDA)
    constexpr const char* kCuda = "CUDAExecutionProvider";
    if (cuda::gpu_present()) {  // an operator that cannot run would only be in the way of its function
      for (const abi::CustomOp* op : cuda::operators(kCuda)) check(abi::CustomOpDomain_Add()(domain, op));
      for (const abi::CustomOp* op : cpu::observe_sinks_of_copies(kCuda)) check(abi::CustomOpDomain_Add()(domain, op));
    }
#endif
    check(abi::AddCustomOpDomain()(options, domain));
  });
}
