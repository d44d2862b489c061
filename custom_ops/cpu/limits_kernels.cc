// Peak rates of a tier (limits.h): sixteen sums that do not wait for each other, and a plain walk through memory.
#include "limits.h"

#include "lowbit_decode.h"

namespace qonnx::cpu::QONNX_TIER {

namespace {

#if defined(__AVX512VNNI__) && defined(__GNUC__)

// Written out: compilers copy sums once a round, and copies take the place of products.
int32_t multiply(size_t rounds) {
  __m512i sum;
#define QONNX_EIGHT(ten)                                                                                      \
  "vpdpbusd %%zmm30, %%zmm31, %%zmm" #ten "0\n\tvpdpbusd %%zmm30, %%zmm31, %%zmm" #ten "1\n\t"                \
  "vpdpbusd %%zmm30, %%zmm31, %%zmm" #ten "2\n\tvpdpbusd %%zmm30, %%zmm31, %%zmm" #ten "3\n\t"                \
  "vpdpbusd %%zmm30, %%zmm31, %%zmm" #ten "4\n\tvpdpbusd %%zmm30, %%zmm31, %%zmm" #ten "5\n\t"                \
  "vpdpbusd %%zmm30, %%zmm31, %%zmm" #ten "6\n\tvpdpbusd %%zmm30, %%zmm31, %%zmm" #ten "7\n\t"
  asm volatile("vpternlogd $255, %%zmm30, %%zmm30, %%zmm30\n\tvpabsb %%zmm30, %%zmm31\n\t"
               "1:\n\t" QONNX_EIGHT(1) QONNX_EIGHT(2) "dec %1\n\tjnz 1b\n\tvmovdqa64 %%zmm10, %0"
               : "=v"(sum), "+r"(rounds)
               :
               : "cc", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm20", "xmm21",
                 "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm30", "xmm31");
#undef QONNX_EIGHT
  return _mm512_reduce_add_epi32(sum);
}

#else

int32_t multiply(size_t rounds) {
  uint8_t codes[64];
  memset(codes, 3, sizeof codes);
  const Bytes w = load_bytes(codes);
  Ints sum[16];  // that begin apart: compilers compute equal ones once
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) sum[i] = ints(i);
  for (size_t i = 0; i < rounds; ++i)
#pragma GCC unroll 16
    for (auto& s : sum) s = dot<4>(s, w, static_cast<int32_t>(i));
  int32_t all = 0;
  for (auto& s : sum) all ^= sum_of(s);
  return all;
}

#endif

int32_t read(const uint8_t* p, size_t bytes) {
  Bytes all[4] = {};
  for (size_t i = 0; i + 256 <= bytes; i += 256)
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; ++j) {
      prefetch_stream(p + i + 64 * j);
      all[j] = all[j] | load_bytes(p + i + 64 * j);
    }
  uint8_t last[64];
  store_bytes(last, (all[0] | all[1]) | (all[2] | all[3]));
  return last[0];
}

}  // namespace

extern const Limits limits;
const Limits limits = {multiply, read};

}  // namespace qonnx::cpu::QONNX_TIER
