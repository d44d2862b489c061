// Codes of numbers on a logarithmic grid; compiled once per tier.
//
//   code = clip(round(−log2(x / scale) · per_octave), 0, levels − 1), the last code for x that is not positive
//
// log2 of r = m · 2^e, m in [√½, √2): e + 2 / ln 2 · (z + z³/3 + … + z⁹/9), z = (m − 1) / (m + 1). |z| < 0.172, so that
// the first term left out is below 4e-10, less than float32 shows.
#include "log_quantize.h"

#include <string.h>

#include "sixteen.h"

namespace qonnx::cpu::QONNX_TIER {

namespace {

static inline Integers bits_of(Numbers x) {
  Integers v;
  memcpy(&v, &x, sizeof v);
  return v;
}
static inline Numbers number_of(Integers x) {
  Numbers v;
  memcpy(&v, &x, sizeof v);
  return v;
}

// log2 of positive numbers; of +∞ and of what lies below 2^-190 something at least as large or as small as that.
static inline Numbers log2_of(Numbers r) {
  constexpr float kSmall = 0x1p-100f, kUp = 0x1p+90f;  // subnormal numbers have no exponent of their own
  const Numbers lifted = r < kSmall ? r * kUp : r;
  const Numbers lowered = r < kSmall ? all(-90.0f) : all(0.0f);
  const Integers offset = bits_of(lifted) - 0x3f3504f3;  // √½
  const Integers exponent = offset >> 23;
  const Numbers m = number_of((offset & 0x7fffff) + 0x3f3504f3);
  const Numbers z = (m - 1.0f) / (m + 1.0f), square = z * z;
  const Numbers series = 1.0f + square * (0.33333334f + square * (0.2f + square * (0.14285715f + square * 0.11111111f)));
  return __builtin_convertvector(exponent, Numbers) + lowered + 2.8853901f * z * series;
}

static inline Integers codes_of(const LogGrid& grid, Numbers x) {
  const float last = static_cast<float>(grid.levels - 1);
  Numbers position = log2_of(x / grid.scale) * -grid.per_octave;
  position = position > 0.0f ? position : all(0.0f);
  position = position < last ? position : all(last);
  return __builtin_convertvector(x > 0.0f ? rounded(position) : all(last), Integers);
}

static inline Numbers load(const float* x, size_t n) {  // at most 16, filled up with 0
  Numbers v{};
  if (n >= 16) memcpy(&v, x, sizeof v);
  else memcpy(&v, x, n * sizeof(float));
  return v;
}

void encode(const LogGrid& grid, const float* x, size_t n, uint8_t* codes) {
  for (size_t i = 0; i < n; i += 16) {
    const Sixteen bytes = __builtin_convertvector(codes_of(grid, load(x + i, n - i)), Sixteen);
    if (n - i >= 16) memcpy(codes + i, &bytes, 16);
    else memcpy(codes + i, &bytes, n - i);
  }
}

void round_trip(const LogGrid& grid, const float* table, const float* x, size_t n, float* y) {
  for (size_t i = 0; i < n; i += 16) {
    const Numbers from = load(x + i, n - i);
    const Integers code = codes_of(grid, from);
    Numbers entry;
    for (int j = 0; j < 16; ++j) entry[j] = table[code[j]];
    const Numbers value = from == from ? entry * grid.scale : from;
    if (n - i >= 16) memcpy(y + i, &value, sizeof value);
    else memcpy(y + i, &value, (n - i) * sizeof(float));
  }
}

}  // namespace

extern const LogQuantizeKernels log_quantize_kernels;
const LogQuantizeKernels log_quantize_kernels = {encode, round_trip};

}  // namespace qonnx::cpu::QONNX_TIER
