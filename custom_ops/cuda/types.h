// Names that the launchers share with plain C++: number types of tensors, failures, streams.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

struct CUstream_st;  // the CUDA runtime's own name

namespace qonnx::cuda {

enum class Element : int { float32, float16, bfloat16 };
constexpr size_t size_of(Element element) { return element == Element::float32 ? 4 : 2; }

// What a launcher returns: empty, or a sentence that says what failed.
using Failure = std::string;
using Stream = CUstream_st*;

}  // namespace qonnx::cuda
