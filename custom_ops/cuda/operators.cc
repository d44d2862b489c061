// The list of GPU operators.
#include "operators.h"

namespace qonnx::cuda {

std::vector<const abi::CustomOp*> operators(const char* provider) {
  std::vector<const abi::CustomOp*> all;
  for (auto* family : {row_operators, product_operators, static_operators, decode_operators})
    for (const abi::CustomOp* op : family(provider)) all.push_back(op);
  return all;
}

}  // namespace qonnx::cuda
