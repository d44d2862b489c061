// The sixteen lanes of lanes.h in four registers of 64-bit Arm with dot products; included there, inside the tier's
// namespace. Lanes 4·i … 4·i + 3 are register i.

constexpr int kTilesAtOnce = 1;
constexpr int kTokens = 4;
constexpr int kBlockTokens = 4;
constexpr size_t kStreamed = 2;

struct Bytes {
  uint8x16_t v[4];
};
struct Ints {
  int32x4_t v[4];
};
struct Floats {
  float32x4_t v[4];
};

#define QONNX_LANES(type, expression)                   \
  type result;                                          \
  for (int i = 0; i < 4; ++i) result.v[i] = expression; \
  return result
static inline Bytes load_bytes(const uint8_t* p) { QONNX_LANES(Bytes, vld1q_u8(p + 16 * i)); }
static inline void store_bytes(uint8_t* p, const Bytes& x) {
  for (int i = 0; i < 4; ++i) vst1q_u8(p + 16 * i, x.v[i]);
}
static inline Bytes operator|(const Bytes& a, const Bytes& b) { QONNX_LANES(Bytes, vorrq_u8(a.v[i], b.v[i])); }
template <uint8_t mask>
static inline Bytes masked(const Bytes& x) {
  QONNX_LANES(Bytes, vandq_u8(x.v[i], vdupq_n_u8(mask)));
}
template <int n>
static inline Bytes shifted(const Bytes& x) {
  if constexpr (n > 0) {
    QONNX_LANES(Bytes, vshrq_n_u8(x.v[i], n));
  } else if constexpr (n < 0) {
    QONNX_LANES(Bytes, vshlq_n_u8(x.v[i], -n));
  } else {
    return x;
  }
}
struct ByteTable {
  uint8x16_t v;
};
static inline ByteTable load_table(const uint8_t* p) { return {vld1q_u8(p)}; }
static inline Bytes look_up(ByteTable t, const Bytes& code) {
  QONNX_LANES(Bytes, vqtbl1q_u8(t.v, vandq_u8(code.v[i], vdupq_n_u8(15))));
}
struct TripleTable {
  uint8x16x2_t v[3];
};
static inline TripleTable load_triples() {
  TripleTable t;
  for (int d = 0; d < 3; ++d) t.v[d] = {{vld1q_u8(kTriples[d]), vld1q_u8(kTriples[d] + 16)}};
  return t;
}
template <int d>
static inline Bytes digit(const TripleTable& t, const Bytes& c) {
  QONNX_LANES(Bytes, vqtbl2q_u8(t.v[d], c.v[i]));
}

static inline Ints ints(int32_t x) { QONNX_LANES(Ints, vdupq_n_s32(x)); }
static inline Ints operator+(const Ints& a, const Ints& b) { QONNX_LANES(Ints, vaddq_s32(a.v[i], b.v[i])); }
static inline Ints times_256(const Ints& x) { QONNX_LANES(Ints, vshlq_n_s32(x.v[i], 8)); }
static inline Floats to_float(const Ints& x) { QONNX_LANES(Floats, vcvtq_f32_s32(x.v[i])); }
static inline Ints rounded(const Floats& x) { QONNX_LANES(Ints, vcvtnq_s32_f32(x.v[i])); }
static inline Ints magnitude_bits(const Floats& x) {
  QONNX_LANES(Ints, vandq_s32(vreinterpretq_s32_f32(x.v[i]), vdupq_n_s32(0x7fffffff)));
}
static inline Ints max_of(const Ints& a, const Ints& b) { QONNX_LANES(Ints, vmaxq_s32(a.v[i], b.v[i])); }
static inline Floats floats(float x) { QONNX_LANES(Floats, vdupq_n_f32(x)); }
static inline Floats load_floats(const float* p) { QONNX_LANES(Floats, vld1q_f32(p + 4 * i)); }
static inline Floats load_halves(const uint16_t* p) {
  QONNX_LANES(Floats, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))));
}
static inline Floats operator*(const Floats& a, const Floats& b) { QONNX_LANES(Floats, vmulq_f32(a.v[i], b.v[i])); }
static inline Floats operator+(const Floats& a, const Floats& b) { QONNX_LANES(Floats, vaddq_f32(a.v[i], b.v[i])); }
static inline Floats operator-(const Floats& a, const Floats& b) { QONNX_LANES(Floats, vsubq_f32(a.v[i], b.v[i])); }
static inline Floats fma(const Floats& a, const Floats& b, const Floats& c) {
  QONNX_LANES(Floats, vfmaq_f32(c.v[i], a.v[i], b.v[i]));
}
template <int n>
static inline uint32x4_t byte_of_lanes(uint8x16_t x, uint32_t mask) {
  return vandq_u32(vreinterpretq_u32_u8(x) >> (8 * n), vdupq_n_u32(mask));
}
template <int n>
static inline Floats byte_float(const Bytes& x) {
  QONNX_LANES(Floats, vcvtq_f32_u32(byte_of_lanes<n>(x.v[i], 255)));
}
// Four registers as one table of 64 bytes: an index becomes those of its four bytes.
struct FloatTable {
  uint8x16x4_t v;
};
static inline FloatTable load_table(const float* p) {
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(p);
  return {{{vld1q_u8(bytes), vld1q_u8(bytes + 16), vld1q_u8(bytes + 32), vld1q_u8(bytes + 48)}}};
}
constexpr bool kLooksUpFourBits = false;  // but whole bytes
template <int n, int bit>
static inline Floats look_up(const FloatTable& t, const Bytes& x) {
  static_assert(bit == 0);
  QONNX_LANES(Floats, vreinterpretq_f32_u8(vqtbl4q_u8(
                          t.v, vreinterpretq_u8_u32(vmlaq_n_u32(vdupq_n_u32(0x03020100),
                                                                byte_of_lanes<n>(x.v[i], 15), 0x04040404)))));
}

static inline void store_floats(float* p, const Floats& x) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.v[i]);
}
static inline int32_t sum_of(const Ints& x) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(x.v[0], x.v[1]), vaddq_s32(x.v[2], x.v[3])));
}
static inline void store_int8(int8_t* p, const Ints& x) {
  const int16x8_t low = vcombine_s16(vmovn_s32(x.v[0]), vmovn_s32(x.v[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(x.v[2]), vmovn_s32(x.v[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
static inline int32_t largest_of(const Ints& x) {
  return vmaxvq_s32(vmaxq_s32(vmaxq_s32(x.v[0], x.v[1]), vmaxq_s32(x.v[2], x.v[3])));
}
template <int bits>
static inline Ints dot(const Ints& sum, const Bytes& w, int32_t a) {
  const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(a));
  if constexpr (bits < 8) {
    QONNX_LANES(Ints, vdotq_s32(sum.v[i], vreinterpretq_s8_u8(w.v[i]), x));
  } else {
    // The instruction takes signed bytes; the top bit, worth −128 there, goes apart and is subtracted.
    const Bytes low = masked<127>(w), top = masked<128>(w);
    QONNX_LANES(Ints, vsubq_s32(vdotq_s32(sum.v[i], vreinterpretq_s8_u8(low.v[i]), x),
                                vdotq_s32(vdupq_n_s32(0), vreinterpretq_s8_u8(top.v[i]), x)));
  }
}
#undef QONNX_LANES
