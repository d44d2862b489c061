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
void tile(const float* a, size_t a_stride, const float* b, size_t b_stride, size_t count, bool add, float* y, size_t y_stride) {
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

void multiply(const float* a, size_t a_stride, const float* b, size_t b_stride, size_t count, size_t rows,
              size_t columns, bool add, float* y, size_t y_stride) {
  while (rows) {
    size_t taken = kRows;
    if (rows >= kRows) {
      strip<kRows>(a, a_stride, b, b_stride, count, columns, add, y, y_stride);
    } else if (kRows > 2 && rows >= 3) {
      taken = 3;
      strip<3>(a, a_stride, b, b_stride, count, columns, add, y, y_stride);
    } else {
      taken = 1;
      strip<1>(a, a_stride, b, b_stride, count, columns, add, y, y_stride);
    }
    rows -= taken;
    a += taken * a_stride;
    y += taken * y_stride;
  }
}

}  // namespace

extern const FloatProduct float_product;
const FloatProduct float_product = {multiply};

}  // namespace qonnx::cpu::QONNX_TIER
