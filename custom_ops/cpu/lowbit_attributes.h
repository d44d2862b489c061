// The attributes by which a node describes its low-bit weight, checked.
#pragma once

#include <algorithm>
#include <string>

#include "../operands.h"
#include "lowbit_pack.h"

namespace qonnx::cpu {

// K, N, block_size and the layout of codes.
inline LowBitShape low_bit_shape(const NodeInfo& info, uint32_t most_levels, const std::string& who) {
  LowBitShape shape{};
  shape.columns = positive_attribute(info, "K", who);
  shape.rows = positive_attribute(info, "N", who);
  shape.block = std::min(positive_attribute(info, "block_size", who), shape.columns);
  shape.layout = code_layout(info, most_levels, who);
  return shape;
}

}  // namespace qonnx::cpu
