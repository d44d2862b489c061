// What the processor can do at best, measured by the benchmark: multiply-adds of `dot`, and reading of memory.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace qonnx::cpu {

struct Limits {
  // `rounds` times sixteen independent dots, kMultiplyAdds of them in all a round; the result keeps them alive.
  int32_t (*multiply)(size_t rounds);
  // Every byte of p, once.
  int32_t (*read)(const uint8_t* p, size_t bytes);
};

constexpr size_t kMultiplyAdds = 16 * 64;

}  // namespace qonnx::cpu
