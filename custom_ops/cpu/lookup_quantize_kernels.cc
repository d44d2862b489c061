// Codes of numbers on a grid of chosen levels; compiled once per tier.
//
//   code = table[clip(round(x / scale) + zero_point, 0, 255)]
//
// Positions of 64 numbers are packed into bytes; where the tier permutes bytes (VBMI), the 256 entries stay in four
// registers, elsewhere they are read one by one.
#include "lookup_quantize.h"

#include <string.h>

#include "sixteen.h"

#if defined(__AVX512VBMI__)
#include <immintrin.h>
#endif

namespace qonnx::cpu::QONNX_TIER {

namespace {

constexpr size_t kGroup = 64;

// Positions of 16 numbers. Clipped before they are rounded: the bounds are whole numbers, so that changes nothing.
static inline Sixteen positions(const float* x, float scale, float lowest, float highest, int zero_point) {
  Numbers ratio;
  memcpy(&ratio, x, sizeof ratio);
  ratio /= scale;
  ratio = ratio > lowest ? ratio : all(lowest);  // NaN becomes the lowest
  ratio = ratio < highest ? ratio : all(highest);
  const Integers whole = __builtin_convertvector(rounded(ratio), Integers) + zero_point;
  return __builtin_convertvector(whole, Sixteen);
}

#if defined(__AVX512VBMI__)
class Table {
 public:
  explicit Table(const uint8_t* table) {
    for (int i = 0; i < 4; ++i) entries_[i] = _mm512_loadu_si512(table + kGroup * i);
  }
  void look_up(const uint8_t* positions, uint8_t* codes) const {
    const __m512i index = _mm512_loadu_si512(positions);  // bit 7 chooses the half, the others the entry in it
    const __m512i low = _mm512_permutex2var_epi8(entries_[0], index, entries_[1]);
    const __m512i high = _mm512_permutex2var_epi8(entries_[2], index, entries_[3]);
    _mm512_storeu_si512(codes, _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high));
  }

 private:
  __m512i entries_[4];
};
#else
class Table {
 public:
  explicit Table(const uint8_t* table) : entries_(table) {}
  void look_up(const uint8_t* positions, uint8_t* codes) const {
    for (size_t i = 0; i < kGroup; ++i) codes[i] = entries_[positions[i]];
  }

 private:
  const uint8_t* entries_;
};
#endif

void encode(const float* x, size_t n, float scale, int zero_point, const uint8_t* table, uint8_t* codes) {
  const Table entries(table);
  const float lowest = static_cast<float>(-zero_point), highest = static_cast<float>(255 - zero_point);
  for (size_t i = 0; i < n; i += kGroup) {
    float rest[kGroup] = {};
    uint8_t found[kGroup];
    const bool whole = n - i >= kGroup;
    if (!whole) memcpy(rest, x + i, (n - i) * sizeof(float));
    const float* from = whole ? x + i : rest;
    for (size_t j = 0; j < kGroup; j += 16) {
      const Sixteen bytes = positions(from + j, scale, lowest, highest, zero_point);
      memcpy(found + j, &bytes, sizeof bytes);
    }
    entries.look_up(found, whole ? codes + i : found);
    if (!whole) memcpy(codes + i, found, n - i);
  }
}

}  // namespace

extern const LookupQuantizeKernels lookup_quantize_kernels;
const LookupQuantizeKernels lookup_quantize_kernels = {encode};

}  // namespace qonnx::cpu::QONNX_TIER
