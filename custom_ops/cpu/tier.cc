// Finds the instruction-set tier of this machine.
#include "tier.h"

#include <cstdlib>

#if defined(QONNX_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <cpuid.h>
#endif

#include "operators.h"

namespace qonnx::cpu {

namespace {
#ifdef QONNX_ARM64
constexpr const char* kNames[kTierCount] = {"scalar", "neon"};
constexpr const char* kChoice = "scalar or neon";
#else
constexpr const char* kNames[kTierCount] = {"scalar", "avx2", "avx2vnni", "avx512", "avx512vnni"};
constexpr const char* kChoice = "scalar, avx2, avx2vnni, avx512 or avx512vnni";
#endif

#ifdef QONNX_X86
// Compilers know the name of this feature only since a few versions.
bool avx_vnni() {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
#else
  return false;
#endif
}
#endif

}  // namespace

const char* tier_name(Tier tier) { return kNames[static_cast<int>(tier)]; }

Tier highest_tier() {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c"))
    return Tier::scalar;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
    return avx_vnni() ? Tier::avx2vnni : Tier::avx2;
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
    if (std::string(mask) == kNames[tier]) {
      const Tier wanted = static_cast<Tier>(tier) < highest ? static_cast<Tier>(tier) : highest;
#ifdef QONNX_X86
      if (wanted == Tier::avx2vnni && !avx_vnni()) return Tier::avx2;
#endif
      return wanted;
    }
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
