// The sixteen lanes of lanes.h in portable C++; included there, inside the tier's namespace.

constexpr int kTilesAtOnce = 1;
constexpr int kTokens = 1;
constexpr int kBlockTokens = 1;
constexpr size_t kStreamed = 0;

struct Bytes {
  uint8_t v[64];
};
struct Ints {
  int32_t v[16];
};
struct Floats {
  float v[16];
};

static inline Bytes load_bytes(const uint8_t* p) {
  Bytes x;
  memcpy(x.v, p, 64);
  return x;
}
static inline void store_bytes(uint8_t* p, const Bytes& x) { memcpy(p, x.v, 64); }
static inline Bytes operator|(Bytes a, const Bytes& b) {
  for (int i = 0; i < 64; ++i) a.v[i] |= b.v[i];
  return a;
}
template <uint8_t mask>
static inline Bytes masked(Bytes x) {
  for (int i = 0; i < 64; ++i) x.v[i] &= mask;
  return x;
}
// Shifts of single bytes: what crosses a byte on the vector tiers is masked away by the caller, so results agree.
template <int n>
static inline Bytes shifted(Bytes x) {
  for (int i = 0; i < 64; ++i)
    x.v[i] = static_cast<uint8_t>(n > 0 ? x.v[i] >> (n > 0 ? n : 0) : x.v[i] << (n < 0 ? -n : 0));
  return x;
}
struct ByteTable {
  uint8_t v[16];
};
static inline ByteTable load_table(const uint8_t* p) {
  ByteTable t;
  memcpy(t.v, p, 16);
  return t;
}
static inline Bytes look_up(const ByteTable& t, Bytes code) {
  for (int i = 0; i < 64; ++i) code.v[i] = t.v[code.v[i] & 15];
  return code;
}

struct TripleTable {};
static inline TripleTable load_triples() { return {}; }
template <int d>
static inline Bytes digit(const TripleTable&, Bytes c) {
  for (int i = 0; i < 64; ++i) c.v[i] = kTriples[d][c.v[i]];
  return c;
}

#define QONNX_LANES(type, expression)                    \
  type result;                                           \
  for (int i = 0; i < 16; ++i) result.v[i] = expression; \
  return result
static inline Ints ints(int32_t x) { QONNX_LANES(Ints, x); }
static inline Ints operator+(const Ints& a, const Ints& b) { QONNX_LANES(Ints, a.v[i] + b.v[i]); }
static inline Ints times_256(const Ints& x) {
  QONNX_LANES(Ints, static_cast<int32_t>(static_cast<uint32_t>(x.v[i]) << 8));
}
static inline Floats to_float(const Ints& x) { QONNX_LANES(Floats, static_cast<float>(x.v[i])); }
static inline Ints rounded(const Floats& x) { QONNX_LANES(Ints, static_cast<int32_t>(__builtin_rintf(x.v[i]))); }
static inline Ints magnitude_bits(const Floats& x) {
  QONNX_LANES(Ints, static_cast<int32_t>(float_bits(x.v[i]) & 0x7fffffff));
}
static inline Ints max_of(const Ints& a, const Ints& b) { QONNX_LANES(Ints, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
static inline Floats floats(float x) { QONNX_LANES(Floats, x); }
static inline Floats load_floats(const float* p) { QONNX_LANES(Floats, p[i]); }
static inline Floats load_halves(const uint16_t* p) { QONNX_LANES(Floats, decode_float16(p[i])); }
static inline Floats operator*(const Floats& a, const Floats& b) { QONNX_LANES(Floats, a.v[i] * b.v[i]); }
static inline Floats operator+(const Floats& a, const Floats& b) { QONNX_LANES(Floats, a.v[i] + b.v[i]); }
static inline Floats operator-(const Floats& a, const Floats& b) { QONNX_LANES(Floats, a.v[i] - b.v[i]); }
static inline Floats fma(const Floats& a, const Floats& b, const Floats& c) {
  QONNX_LANES(Floats, a.v[i] * b.v[i] + c.v[i]);
}
template <int n>
static inline Floats byte_float(const Bytes& x) {
  QONNX_LANES(Floats, static_cast<float>(x.v[4 * i + n]));
}
struct FloatTable {
  float v[16];
};
static inline FloatTable load_table(const float* p) {
  FloatTable t;
  memcpy(t.v, p, 64);
  return t;
}
constexpr bool kLooksUpFourBits = false;  // but whole bytes
template <int n, int bit>
static inline Floats look_up(const FloatTable& t, const Bytes& x) {
  static_assert(bit == 0);
  QONNX_LANES(Floats, t.v[x.v[4 * i + n] & 15]);
}
#undef QONNX_LANES

static inline void store_floats(float* p, const Floats& x) { memcpy(p, x.v, 64); }
static inline int32_t sum_of(const Ints& x) {
  int32_t s = 0;
  for (int i = 0; i < 16; ++i) s += x.v[i];
  return s;
}
static inline void store_int8(int8_t* p, const Ints& x) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(x.v[i]);
}
static inline int32_t largest_of(const Ints& x) {
  int32_t m = x.v[0];
  for (int i = 1; i < 16; ++i) m = x.v[i] > m ? x.v[i] : m;
  return m;
}
template <int bits>
static inline Ints dot(Ints sum, const Bytes& w, int32_t a) {
  int8_t x[4];
  memcpy(x, &a, 4);
  for (int i = 0; i < 16; ++i)
    sum.v[i] += w.v[4 * i] * x[0] + w.v[4 * i + 1] * x[1] + w.v[4 * i + 2] * x[2] + w.v[4 * i + 3] * x[3];
  return sum;
}
