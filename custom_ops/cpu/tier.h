// Instruction-set tiers: which build of a kernel family runs on this machine.
//
// Kernel sources are compiled once per tier, each in a namespace of its own (QONNX_TIER) with its own -march flags, and
// export one table of functions. The adaptor asks `active_tier()` when a kernel is created and takes that tier's table.
// The environment variable QONNX_CPU names the highest tier to use, so that tests reach the lower ones on any machine.
#pragma once

#include <string>

namespace qonnx::cpu {

// In ascending order; a tier may use everything that the ones below it on its architecture use, but for avx512, which
// is older than avx2vnni.
#ifdef QONNX_ARM64
enum class Tier {
  scalar,  // portable C++, which compilers turn into Advanced SIMD instructions
  neon,    // dot products of bytes (Armv8.2)
};
constexpr int kTierCount = 2;
#else
enum class Tier {
  scalar,      // portable C++
  avx2,        // AVX2, FMA, F16C
  avx2vnni,    // and products of bytes in AVX's encoding; the kernels that have none are those of avx2
  avx512,      // AVX-512 F, BW, DQ, VL
  avx512vnni,  // and VNNI, VBMI
};
constexpr int kTierCount = 5;
#endif

const char* tier_name(Tier tier);
Tier highest_tier();  // of this machine
Tier active_tier();   // the lower of the machine's and QONNX_CPU's; throws Error on an unknown name

// Declares every tier's `name` and gathers them in `name_table`, indexed by Tier. To be used in namespace qonnx::cpu.
// QONNX_BY_DOT_TIER does it for kernels that spend their time on products of bytes.
#ifdef QONNX_X86
#define QONNX_ON_X86(Table, name, of_avx2vnni) \
  namespace scalar {               \
  extern const Table name;         \
  }                                \
  namespace avx2 {                 \
  extern const Table name;         \
  }                                \
  namespace avx512 {               \
  extern const Table name;         \
  }                                \
  namespace avx512vnni {           \
  extern const Table name;         \
  }                                \
  static const Table* const name##_table[kTierCount] = {&scalar::name, &avx2::name, &of_avx2vnni::name, &avx512::name, \
                                                        &avx512vnni::name};
#define QONNX_BY_TIER(Table, name) QONNX_ON_X86(Table, name, avx2)
#define QONNX_BY_DOT_TIER(Table, name) \
  namespace avx2vnni {                 \
  extern const Table name;             \
  }                                    \
  QONNX_ON_X86(Table, name, avx2vnni)
#elif defined(QONNX_ARM64)
#define QONNX_BY_TIER(Table, name) \
  namespace scalar {               \
  extern const Table name;         \
  }                                \
  namespace neon {                 \
  extern const Table name;         \
  }                                \
  static const Table* const name##_table[kTierCount] = {&scalar::name, &neon::name};
#else
#define QONNX_BY_TIER(Table, name) \
  namespace scalar {               \
  extern const Table name;         \
  }                                \
  static const Table* const name##_table[kTierCount] = {&scalar::name};
#endif
#ifndef QONNX_BY_DOT_TIER
#define QONNX_BY_DOT_TIER QONNX_BY_TIER
#endif

}  // namespace qonnx::cpu
