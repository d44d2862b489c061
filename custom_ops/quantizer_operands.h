// Operands of quantizers of numbers, checked alike for every device; `who` begins the sentences of errors.
#pragma once

#include <cmath>
#include <string>

#include "operands.h"

namespace qonnx {

inline float codes_per_octave(const NodeInfo& info, const std::string& who) {
  const float found = info.number("codes_per_octave", 0);
  if (!(found > 0) || !std::isfinite(found))
    throw Error(who + "attribute codes_per_octave=" + std::to_string(found) +
                " is missing or not a positive number; use 1 for base 2, 2 for base √2");
  return found;
}

inline float one_scale(const Tensor& scale, const std::string& who) {
  if (!is_single(scale))
    throw Error(who + "scale has shape " + shape_text(scale.shape) + ", but one number is wanted");
  const float found = numbers_of(scale, who, "scale")[0];
  if (!(found > 0) || !std::isfinite(found))
    throw Error(who + "input scale is " + std::to_string(found) + ", not a positive number");
  return found;
}

// Levels of a logarithmic grid: the length of its table of weights.
inline int levels_of(const Tensor& table, const std::string& who) {
  if (table.count < 2 || table.count > 256 || table.shape.size() != 1)
    throw Error(who + "table has shape " + shape_text(table.shape) + ", but 2 to 256 entries are wanted");
  return static_cast<int>(table.count);
}

struct LookupGrid {
  float scale;
  int zero_point;
  const uint8_t* table;  // [256]
};

inline LookupGrid lookup_grid(const Tensor& scale, const Tensor& zero_point, const Tensor& table,
                              const std::string& who) {
  if (!is_single(zero_point))
    throw Error(who + "zero_point has shape " + shape_text(zero_point.shape) + ", but one number is wanted");
  if (!has_shape(table, {256}))
    throw Error(who + "table has shape " + shape_text(table.shape) + ", but 256 entries are wanted");
  return {one_scale(scale, who), zero_point.as<uint8_t>()[0], table.as<uint8_t>()};
}

}  // namespace qonnx
