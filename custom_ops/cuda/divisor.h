// Quotients by a number that is known before a launch: a multiplication and a shift in the place of a division.
//
// With 2^(s−1) < d ≤ 2^s and m = ⌊2^32 (2^s − d) / d⌋ + 1, n / d = (⌊m n / 2^32⌋ + n) >> s for every n < 2^31
// (Granlund and Montgomery, "Division by Invariant Integers using Multiplication", 1994, figure 4.1).
#pragma once

#include <cstdint>

namespace qonnx::cuda {

struct Divisor {
  uint32_t divisor, multiplier, shift;
};

constexpr Divisor divisor_of(uint32_t divisor) {
  uint32_t shift = 0;
  while (uint64_t{1} << shift < divisor) ++shift;
  const uint64_t excess = (uint64_t{1} << shift) - divisor;
  return {divisor, static_cast<uint32_t>((excess << 32) / divisor + 1), shift};
}

}  // namespace qonnx::cuda
