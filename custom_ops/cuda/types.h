// Names that the launchers share with plain C++: number types of tensors, failures, streams.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

struct CUstream_st;  // the CUDA runtime's own name

namespace qonnx::cuda {

// The last four are codes of static quantization; two 4-bit ones a byte, the first in the low half.
enum class Element : int { float32, float16, bfloat16, uint8, int8, uint4, int4 };
constexpr bool is_code(Element element) { return element > Element::bfloat16; }
template <Element element>
constexpr bool kIsCode = is_code(element);  // device code cannot call the function
constexpr size_t bytes_for(Element element, size_t numbers) {
  if (element == Element::float32) return 4 * numbers;
  return is_code(element) ? (element > Element::int8 ? (numbers + 1) / 2 : numbers) : 2 * numbers;
}

// What a launcher returns: empty, or a sentence that says what failed.
using Failure = std::string;
using Stream = CUstream_st*;

}  // namespace qonnx::cuda
