// The GPU operators, for register.cc: all of them, for one execution provider.
#pragma once

#include <vector>

#include "../ort_op.h"

namespace qonnx::cuda {

// `provider`: CUDAExecutionProvider, or the CPU's in tests on the emulated GPU.
std::vector<const abi::CustomOp*> row_operators(const char* provider);
std::vector<const abi::CustomOp*> lowbit_operators(const char* provider);
std::vector<const abi::CustomOp*> operators(const char* provider);

}  // namespace qonnx::cuda
