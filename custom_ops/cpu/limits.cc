// C functions by which the benchmark measures the processor's limits (qonnx/custom_ops/bench/limits.py).
#include "limits.h"

#include "operators.h"
#include "tier.h"

namespace qonnx::cpu {

QONNX_BY_DOT_TIER(Limits, limits)

namespace {
const Limits& active_limits() {
  try {
    return *limits_table[static_cast<int>(active_tier())];
  } catch (const Error&) {  // QONNX_CPU names no tier
    return *limits_table[0];
  }
}
}  // namespace

}  // namespace qonnx::cpu

// Multiply-adds that `rounds` rounds of independent dots take; the caller measures the time.
extern "C" QONNX_EXPORT uint64_t qonnx_multiply(uint64_t rounds, int32_t* result) {
  *result = qonnx::cpu::active_limits().multiply(rounds);
  return rounds * qonnx::cpu::kMultiplyAdds;
}

// Reads `bytes` bytes at p.
extern "C" QONNX_EXPORT int32_t qonnx_read(const void* p, uint64_t bytes) {
  return qonnx::cpu::active_limits().read(static_cast<const uint8_t*>(p), bytes);
}
