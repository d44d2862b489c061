// Instruction-set tiers: which build of a kernel family runs on this machine.
//
// Kernel sources are compiled once per tier, each in a namespace of its own (QONNX_TIER) with its own -march flags, and
// export one table of functions. The adaptor asks `active_tier()` when a kernel is created and takes that tier's table.
// The environment variable QONNX_CPU names the highest tier to use, so that tests reach the lower ones on any machine.
#pragma once

#include <string>

namespace qonnx::cpu {

// In ascending order; a tier may use everything that the ones below it on its architecture use.
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
  avx512,      // AVX-512 F, BW, DQ, VL
  avx512vnni,  // and VNNI, VBMI
};
constexpr int kTierCount = 4;
#endif

const char* tier_name(Tier tier);
Tier highest_tier();  // of this machine
Tier active_tier();   // the lower of the machine's and QONNX_CPU's; throws Error on an unknown name

// Declares every tier's `name` and gathers them in `name_table`, indexed by Tier. To be used in namespace qonnx::cpu.
#ifdef QONNX_X86
#define QONNX_BY_TIER(Table, name) \
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
  static const Table* const name##_table[kTierCount] = {&scalar::name, &avx2::name, &avx512::name, &avx512vnni::name};
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

}  // namespace qonnx::cpu
