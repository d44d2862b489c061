// Y = A · B in float32: tiles of a few rows by a few vectors of columns, whose sums stay in registers.
#include "float_product.h"

#include "vector.h"

namespace qonnx::cpu::QONNX_TIER {

namespace {

// rows · vectors sums, `vectors` of B and one broadcast fit in the registers of the tier.
#if defined(__AVX512F__)
constexpr int kRows = 6, kVectors = 4;
#elif defined(__AVX2__)
constexpr int kRows = 6, kVectors = 2;
#else
constexpr int kRows = 2, kVectors = 4;
#endif

template <int rows, int vectors>
void tile(const float* a, size_t a_stride, const float* b, size_t b_stride, size_t count, bool add, float* y,
          size_t y_stride) {
  Vector sum[rows][vectors];
#pragma GCC unroll 6
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sum[r][v] = broadcast(0);
  for (size_t n = 0; n < count; ++n, b += b_stride) {
    Vector column[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) column[v] = load(b + static_cast<size_t>(v) * kVectorLanes);
#pragma GCC unroll 6
    for (int r = 0; r < rows; ++r) {
      const Vector x = broadcast(a[static_cast<size_t>(r) * a_stride + n]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sum[r][v] = multiply_add(x, column[v], sum[r][v]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      float* to = y + static_cast<size_t>(r) * y_stride + static_cast<size_t>(v) * kVectorLanes;
      if (add) sum[r][v] += load(to);
      memcpy(to, &sum[r][v], sizeof(Vector));
    }
}

template <int rows>
void strip(const float* a, size_t a_stride, const float* b, size_t b_stride, size_t count, size_t columns, bool add,
           float* y, size_t y_stride) {
  size_t c = 0;
  for (; c + kVectors * kVectorLanes <= columns; c += kVectors * kVectorLanes)
    tile<rows, kVectors>(a, a_stride, b + c, b_stride, count, add, y + c, y_stride);
  for (; c < columns; c += kVectorLanes) tile<rows, 1>(a, a_stride, b + c, b_stride, count, add, y + c, y_stride);
}

// Terms of the sum that are taken at once: so much of B stays in the L1 cache while all rows pass over it.
constexpr size_t kCachedNumbers = 6144;

void multiply(const float* a, size_t a_stride, const float* b, size_t b_stride, size_t count, size_t rows,
              size_t columns, bool add, float* y, size_t y_stride) {
  const size_t most = columns < kCachedNumbers / 16 ? kCachedNumbers / columns : 16;
  for (size_t first = 0; first == 0 || first < count; first += most) {
    const size_t terms = count - first < most ? count - first : most;
    const bool more = add || first > 0;
    const float *from = a + first, *term = b + first * b_stride;
    float* to = y;
    for (size_t left = rows; left;) {
      const size_t taken = left >= kRows ? kRows : left >= 3 && kRows > 3 ? 3 : 1;
      if (taken == kRows) strip<kRows>(from, a_stride, term, b_stride, terms, columns, more, to, y_stride);
      else if (taken == 3) strip<3>(from, a_stride, term, b_stride, terms, columns, more, to, y_stride);
      else strip<1>(from, a_stride, term, b_stride, terms, columns, more, to, y_stride);
      left -= taken;
      from += taken * a_stride;
      to += taken * y_stride;
    }
  }
}

}  // namespace

extern const FloatProduct float_product;
const FloatProduct float_product = {multiply};

}  // namespace qonnx::cpu::QONNX_TIER
