// Attributes and operands that operators of every device check alike; `who` begins the sentences of errors.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <vector>

#include "formats/codes.h"
#include "formats/float16.h"
#include "ort_op.h"

namespace qonnx {

inline size_t positive_attribute(const NodeInfo& info, const char* attribute, const std::string& who,
                                 int64_t most = int64_t{1} << 31) {
  const int64_t value = info.integer(attribute, 0);
  if (value < 1 || value > most)
    throw Error(who + "attribute " + attribute + "=" + std::to_string(value) + " is missing or not a positive number");
  return static_cast<size_t>(value);
}

// levels, codes_per_word, bytes_per_word.
inline CodeLayout code_layout(const NodeInfo& info, uint32_t most_levels, const std::string& who) {
  const auto number = [&](const char* name) { return static_cast<uint32_t>(positive_attribute(info, name, who)); };
  const CodeLayout layout{number("levels"), number("codes_per_word"), number("bytes_per_word")};
  if (!layout.valid() || layout.levels > most_levels)
    throw Error(who + "levels=" + std::to_string(layout.levels) + " codes, " + std::to_string(layout.codes_per_word) +
                " of them in a word of " + std::to_string(layout.bytes_per_word) +
                " bytes, do not fit; use for example 16, 2, 1 for 4 bits or 8, 8, 3 for 3 bits");
  return layout;
}

inline std::vector<float> numbers_of(const Tensor& tensor, const std::string& who, const char* input) {
  std::vector<float> values(tensor.count);
  for (size_t i = 0; i < tensor.count; ++i) switch (tensor.type) {
      case Type::float32: values[i] = tensor.as<float>()[i]; break;
      case Type::float16: values[i] = decode_float16(tensor.as<uint16_t>()[i]); break;
      case Type::bfloat16: values[i] = decode_bfloat16(tensor.as<uint16_t>()[i]); break;
      case Type::uint8: values[i] = tensor.as<uint8_t>()[i]; break;
      default:
        throw Error(who + "input " + input + " is " + type_text(tensor.type) +
                    "; use float32, float16, bfloat16 (or uint8 for zero points)");
    }
  return values;
}

// Whether the tensor has exactly these dimensions.
inline bool has_shape(const Tensor& tensor, std::initializer_list<size_t> dimensions) {
  return std::equal(tensor.shape.begin(), tensor.shape.end(), dimensions.begin(), dimensions.end(),
                    [](int64_t found, size_t wanted) { return found >= 0 && static_cast<size_t>(found) == wanted; });
}

// One number, as a scalar or as [1].
inline bool is_single(const Tensor& tensor) { return tensor.count == 1 && tensor.shape.size() <= 1; }

inline void expect_shape(bool holds, const std::string& who, const char* input, const Tensor& tensor,
                         const std::string& wanted) {
  if (!holds)
    throw Error(who + "input " + input + " has shape " + shape_text(tensor.shape) + ", but the attributes ask for " +
                wanted);
}

}  // namespace qonnx
