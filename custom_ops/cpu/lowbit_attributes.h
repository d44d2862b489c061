// The attributes by which a node describes its low-bit weight, checked.
#pragma once

#include <algorithm>
#include <string>

#include "lowbit_pack.h"

namespace qonnx::cpu {

inline size_t positive_attribute(const NodeInfo& info, const char* attribute, const std::string& who) {
  const int64_t value = info.integer(attribute, 0);
  if (value < 1 || value > int64_t{1} << 31)
    throw Error(who + "attribute " + attribute + "=" + std::to_string(value) +
                " is missing or not a positive number");
  return static_cast<size_t>(value);
}

// K, N, block_size, levels, codes_per_word, bytes_per_word. `who` begins the sentences of errors.
inline LowBitShape low_bit_shape(const NodeInfo& info, uint32_t most_levels, const std::string& who) {
  LowBitShape shape{};
  shape.columns = positive_attribute(info, "K", who);
  shape.rows = positive_attribute(info, "N", who);
  shape.block = std::min(positive_attribute(info, "block_size", who), shape.columns);
  shape.layout = {static_cast<uint32_t>(positive_attribute(info, "levels", who)),
                  static_cast<uint32_t>(positive_attribute(info, "codes_per_word", who)),
                  static_cast<uint32_t>(positive_attribute(info, "bytes_per_word", who))};
  if (!shape.layout.valid() || shape.layout.levels > most_levels)
    throw Error(who + "levels=" + std::to_string(shape.layout.levels) + " codes, " +
                std::to_string(shape.layout.codes_per_word) + " of them in a word of " +
                std::to_string(shape.layout.bytes_per_word) +
                " bytes, do not fit; use for example 16, 2, 1 for 4 bits or 8, 8, 3 for 3 bits");
  return shape;
}

}  // namespace qonnx::cpu
