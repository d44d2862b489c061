// The GPU operators, for register.cc: all of them, for one execution provider.
#pragma once

#include <vector>

#include "../ort_op.h"

namespace qonnx::cuda {

// `provider`: CUDAExecutionProvider, or the CPU's in tests on the emulated GPU.
std::vector<const abi::CustomOp*> row_operators(const char* provider);
std::vector<const abi::CustomOp*> product_operators(const char* provider);
std::vector<const abi::CustomOp*> static_operators(const char* provider);
std::vector<const abi::CustomOp*> decode_operators(const char* provider);
std::vector<const abi::CustomOp*> operators(const char* provider);

}  // namespace qonnx::cuda
