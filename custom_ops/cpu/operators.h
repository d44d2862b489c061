// The CPU operators by name, for the list in register.cc; each is defined in the file of its family.
#pragma once

#include "../ort_op.h"

#if defined(_WIN32)
#define QONNX_EXPORT __declspec(dllexport)
#else
#define QONNX_EXPORT __attribute__((visibility("default")))
#endif

namespace qonnx::cpu {

const abi::CustomOp* matmul_lowbit_float32();
const abi::CustomOp* matmul_lowbit_float16();
const abi::CustomOp* matmul_lowbit_bfloat16();
const abi::CustomOp* dynamic_matmul_lowbit_float32();
const abi::CustomOp* dynamic_matmul_lowbit_float16();
const abi::CustomOp* dynamic_matmul_lowbit_bfloat16();
const abi::CustomOp* conv_lowbit_float32();
const abi::CustomOp* conv_lowbit_float16();
const abi::CustomOp* conv_lowbit_bfloat16();
const abi::CustomOp* quantized_matmul_lowbit_float32();
const abi::CustomOp* quantized_matmul_lowbit_float16();
const abi::CustomOp* quantized_matmul_lowbit_bfloat16();
const abi::CustomOp* qlinear_matmul_lowbit_uint8();
const abi::CustomOp* qlinear_matmul_lowbit_int8();
const abi::CustomOp* static_matmul_lowbit_float32();
const abi::CustomOp* static_matmul_lowbit_float16();
const abi::CustomOp* static_matmul_lowbit_bfloat16();
const abi::CustomOp* gather_codebook_float32();
const abi::CustomOp* gather_codebook_float16();
const abi::CustomOp* gather_codebook_bfloat16();
const abi::CustomOp* hadamard_float32();
const abi::CustomOp* hadamard_float16();
const abi::CustomOp* hadamard_bfloat16();
const abi::CustomOp* hadamard_quantize_float32();
const abi::CustomOp* hadamard_quantize_float16();
const abi::CustomOp* hadamard_quantize_bfloat16();
const abi::CustomOp* quantize_rows_float32();
const abi::CustomOp* quantize_rows_float16();
const abi::CustomOp* quantize_rows_bfloat16();
const abi::CustomOp* log_attention_float32();
const abi::CustomOp* log_attention_float16();
const abi::CustomOp* log_attention_bfloat16();
const abi::CustomOp* lookup_quantize_float32();
const abi::CustomOp* lookup_quantize_float16();
const abi::CustomOp* lookup_quantize_bfloat16();
const abi::CustomOp* log_quantize_float32();
const abi::CustomOp* log_quantize_float16();
const abi::CustomOp* log_quantize_bfloat16();
const abi::CustomOp* log_round_trip_float32();
const abi::CustomOp* log_round_trip_float16();
const abi::CustomOp* log_round_trip_bfloat16();
const abi::CustomOp* matmul_codebook_float32();
const abi::CustomOp* matmul_codebook_float16();
const abi::CustomOp* matmul_codebook_bfloat16();
const abi::CustomOp* dynamic_matmul_codebook_float32();
const abi::CustomOp* dynamic_matmul_codebook_float16();
const abi::CustomOp* dynamic_matmul_codebook_bfloat16();
const abi::CustomOp* observe_sink_float32();
const abi::CustomOp* observe_sink_float16();
const abi::CustomOp* observe_sink_bfloat16();
// For a provider of a device: ONNX Runtime copies what is observed to the host.
std::vector<const abi::CustomOp*> observe_sinks_of_copies(const char* provider);

}  // namespace qonnx::cpu
