// Peak rates of a tier (limits.h): sixteen sums that do not wait for each other, and a plain walk through memory.
#include "limits.h"

#include "lowbit_decode.h"

namespace qonnx::cpu::QONNX_TIER {

namespace {

int32_t multiply(size_t rounds) {
  uint8_t codes[64];
  memset(codes, 3, sizeof codes);
  const Bytes w = load_bytes(codes);
  Ints sum[16];
#pragma GCC unroll 16
  for (auto& s : sum) s = ints(0);
  for (size_t i = 0; i < rounds; ++i)
#pragma GCC unroll 16
    for (auto& s : sum) s = dot<4>(s, w, static_cast<int32_t>(i));
  int32_t all = 0;
  for (auto& s : sum) all ^= sum_of(s);
  return all;
}

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
