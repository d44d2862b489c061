// Rows of X as codes in the columns of a packed weight: codes that are there already, and floats that become codes.
#pragma once

#include "lowbit_decode.h"
#include "sixteen.h"
#include "static_product.h"

namespace qonnx::cpu::QONNX_TIER {

// Where the codes of a row begin, and the way from four columns to the next four.
static inline int8_t* codes_of_row(const LowBitWeight& weight, const StaticRows& q, size_t row) {
  return q.codes + row / q.together * q.together * weight.width() + 4 * (row % q.together);
}

// Bytes [padded], whole units, each four `together` fours behind the last; returns where the next ones go. Bytes go
// through memory on purpose: taking fours out of vector registers keeps the ports busy that the arithmetic needs.
static inline int8_t* interleave(const void* bytes, size_t padded, size_t together, int8_t* to) {
  const auto* from = static_cast<const uint8_t*>(bytes);
  for (size_t k = 0; k < padded; k += 16, to += 16 * together)
    for (size_t i = 0; i < 4; ++i) memcpy(to + 4 * together * i, from + k + 4 * i, 4);
  return to;
}

// Σ (c − a) of a row's groups, added up by chain where somebody wants it.
class RowSums {
 public:
  RowSums(const LowBitWeight& weight, const StaticRows& q, size_t row) : weight_(weight), together_(q.together) {
    if (!q.sum) return;
    const size_t chains = chain_count(weight);
    sum_ = q.sum + row / together_ * together_ * chains + row % together_;
    for (size_t chain = 0; chain < chains; ++chain) sum_[chain * together_] = 0;
  }
  bool wanted() const { return sum_ != nullptr; }
  void add(size_t group, int32_t sum) { sum_[chain_of(weight_, group) * together_] += sum; }

 private:
  const LowBitWeight& weight_;
  size_t together_;
  int32_t* sum_ = nullptr;
};

// Calls body(group, first column, columns) for every group of a row.
template <class Body>
static inline void for_groups(const LowBitWeight& weight, Body&& body) {
  size_t g = 0;
  for (size_t block = 0; g < weight.groups; block += weight.block)
    for (size_t part = 0; part < weight.parts; ++part, ++g) {
      const size_t begin = block + part * weight.group, end = block + weight.block, last = begin + weight.group;
      const size_t stop = end < weight.columns ? end : weight.columns, own = last < stop ? last : stop;
      body(g, begin, own > begin ? own - begin : 0);
    }
}

static void place(const LowBitWeight& weight, const uint8_t* x, const StaticGrid& grid, size_t row,
                  const StaticRows& q) {
  const size_t padded = weight.units * kUnit;
  const uint8_t flip = grid.shift ? 0x80 : 0;
  int8_t* to = codes_of_row(weight, q, row);
  RowSums sums(weight, q, row);
  for_groups(weight, [&](size_t g, size_t begin, size_t columns) {
    alignas(64) uint8_t bytes[kLargestGroup];
    const uint8_t* from = x ? x + begin : nullptr;
    const size_t known = x ? columns : 0;
    for (size_t k = 0; k < known; ++k) bytes[k] = from[k] ^ flip;
    if (known < padded) memset(bytes + known, 0, padded - known);
    to = interleave(bytes, padded, q.together, to);
    if (!x || !sums.wanted()) return;
    int32_t total = 0;
    if (grid.negative)
      for (size_t i = 0; i < columns; ++i) total += static_cast<int8_t>(from[i]);
    else
      for (size_t i = 0; i < columns; ++i) total += from[i];
    sums.add(g, total - grid.zero_point * static_cast<int32_t>(columns));
  });
}

static inline Floats lanes_of(Numbers x) {
  Floats v;
  memcpy(&v, &x, sizeof v);
  return v;
}
static inline Numbers numbers_of(Floats x) {
  Numbers v;
  memcpy(&v, &x, sizeof v);
  return v;
}

// Codes less their zero point, as QuantizeLinear makes them.
class Rounding {
 public:
  explicit Rounding(const StaticGrid& grid)
      : scale_(all(grid.scale)),
        inverse_(all(1.0f / grid.scale)),
        reach_(all(1024.0f * grid.scale)),
        low_(all(static_cast<float>(grid.minimum - grid.zero_point))),
        high_(all(static_cast<float>(grid.maximum - grid.zero_point))),
        // Products stay normal numbers: none is lost in the correction below.
        divides_(kStreamed == 0 || !(grid.scale > 0x1p-60f && grid.scale < 0x1p60f)) {}

  // Sixteen at a time; NaN gives the lowest code.
  Numbers operator()(Numbers x) const {
    Numbers ratio = divides_ ? x / scale_ : quotient(x);
    ratio = ratio > low_ ? ratio : low_;
    ratio = ratio < high_ ? ratio : high_;
    return rounded(ratio);
  }

 private:
  // x / scale correctly rounded, by the rounded inverse, the remainder and one correction (Markstein, 1990): four times
  // faster than dividing. Numbers far out are drawn in first, infinities among them; their codes stay the same.
  Numbers quotient(Numbers x) const {
    x = x > -reach_ ? x : -reach_;
    x = x < reach_ ? x : reach_;
    const Numbers first = x * inverse_;
    const Numbers rest = numbers_of(fma(lanes_of(-first), lanes_of(scale_), lanes_of(x)));
    return numbers_of(fma(lanes_of(rest), lanes_of(inverse_), lanes_of(first)));
  }

  Numbers scale_, inverse_, reach_, low_, high_;
  bool divides_;
};

static inline Numbers numbers(const float* x, size_t n) {  // at most 16, filled up with 0
  if (n >= 16) {
    Numbers v;
    memcpy(&v, x, sizeof v);
    return v;
  }
  Numbers v{};
  memcpy(&v, x, n * sizeof(float));
  return v;
}

static bool quantize(const LowBitWeight& weight, const float* x, const StaticGrid& grid, size_t row,
                     const StaticRows& q) {
  const size_t padded = weight.units * kUnit;
  const Rounding rounding(grid);
  const Integers offset = Integers{} + (grid.zero_point - grid.shift);
  Integers largest{};
  int8_t* to = codes_of_row(weight, q, row);
  RowSums sums(weight, q, row);
  for_groups(weight, [&](size_t g, size_t begin, size_t columns) {
    alignas(64) uint8_t bytes[kLargestGroup];
    Integers total{};
    for (size_t k = 0; k < columns; k += 16) {
      const Numbers from = numbers(x + begin + k, columns - k);
      Integers bits;
      memcpy(&bits, &from, sizeof bits);
      bits &= 0x7fffffff;
      largest = bits > largest ? bits : largest;
      const Integers code = __builtin_convertvector(rounding(from), Integers);
      const Sixteen sixteen = __builtin_convertvector(code + offset, Sixteen);
      memcpy(bytes + k, &sixteen, sizeof sixteen);
      if (columns - k >= 16) total += code;
      else
        for (size_t i = 0; i < columns - k; ++i) total[0] += code[i];
    }
    if (columns < padded) memset(bytes + columns, 0, padded - columns);
    to = interleave(bytes, padded, q.together, to);
    if (!sums.wanted()) return;
    int32_t all_lanes = 0;
    for (int i = 0; i < 16; ++i) all_lanes += total[i];
    sums.add(g, all_lanes);
  });
  bool clean = true;
  for (int i = 0; i < 16; ++i) clean = clean && largest[i] <= 0x7f800000;
  return clean;
}

static void requantize(const float* x, const StaticGrid& grid, size_t n, uint8_t* codes) {
  const Rounding rounding(grid);
  const Integers offset = Integers{} + grid.zero_point;
  for (size_t i = 0; i < n; i += 16) {
    const Integers code = __builtin_convertvector(rounding(numbers(x + i, n - i)), Integers) + offset;
    const Sixteen bytes = __builtin_convertvector(code, Sixteen);
    if (n - i >= 16) memcpy(codes + i, &bytes, sizeof bytes);
    else memcpy(codes + i, &bytes, n - i);
  }
}

}  // namespace qonnx::cpu::QONNX_TIER
