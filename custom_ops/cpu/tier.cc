// Finds the instruction-set tier of this machine.
#include "tier.h"

#include <cstdlib>

#if defined(QONNX_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "operators.h"

namespace qonnx::cpu {

namespace {
#ifdef QONNX_ARM64
constexpr const char* kNames[kTierCount] = {"scalar", "neon"};
constexpr const char* kChoice = "scalar or neon";
#else
constexpr const char* kNames[kTierCount] = {"scalar", "avx2", "avx512", "avx512vnni"};
constexpr const char* kChoice = "scalar, avx2, avx512 or avx512vnni";
#endif
}  // namespace

const char* tier_name(Tier tier) { return kNames[static_cast<int>(tier)]; }

Tier highest_tier() {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c"))
    return Tier::scalar;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
    return Tier::avx2;
  if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512vbmi")) return Tier::avx512;
  return Tier::avx512vnni;
#elif defined(QONNX_ARM64) && defined(__linux__)
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? Tier::neon : Tier::scalar;
#elif defined(QONNX_ARM64) && defined(__APPLE__)
  return Tier::neon;
#else
  return Tier::scalar;
#endif
}

Tier active_tier() {
  static const Tier highest = highest_tier();
  const char* mask = std::getenv("QONNX_CPU");
  if (!mask || !*mask) return highest;
  for (int tier = 0; tier < kTierCount; ++tier)
    if (std::string(mask) == kNames[tier]) return static_cast<Tier>(tier) < highest ? static_cast<Tier>(tier) : highest;
  throw Error(std::string("QONNX_CPU='") + mask + "' is no tier; use " + kChoice);
}

}  // namespace qonnx::cpu

// The name of the tier that kernels created now would use, or of an error; for `qonnx doctor`.
extern "C" QONNX_EXPORT const char* qonnx_cpu_tier() {
  try {
    return qonnx::cpu::tier_name(qonnx::cpu::active_tier());
  } catch (const qonnx::Error&) {
    return "unknown (QONNX_CPU names no tier)";
  }
}
