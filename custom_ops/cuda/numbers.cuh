// Numbers of tensors as float32 and back, by type; rows to int8.
#pragma once

#include "divisor.h"
#include "launch.cuh"

namespace qonnx::cuda {

// n / by.divisor of n < 2^31.
QONNX_DEVICE int quotient(int n, const Divisor& by) {
  const auto number = static_cast<uint32_t>(n);
  return static_cast<int>((static_cast<uint32_t>(uint64_t{number} * by.multiplier >> 32) + number) >> by.shift);
}

template <Element element>
QONNX_DEVICE float load_number(const void* array, size_t index) {
  if constexpr (element == Element::float32) return static_cast<const float*>(array)[index];
  if constexpr (element == Element::uint8) return static_cast<const uint8_t*>(array)[index];
  if constexpr (element == Element::int8) return static_cast<const int8_t*>(array)[index];
  if constexpr (element == Element::uint4 || element == Element::int4) {
    const int nibble = static_cast<const uint8_t*>(array)[index / 2] >> 4 * (index % 2) & 15;
    return static_cast<float>(element == Element::int4 && nibble > 7 ? nibble - 16 : nibble);
  }
  const uint16_t code = static_cast<const uint16_t*>(array)[index];
  if constexpr (element == Element::float16) return float_of_half(code);
  return bits_as_float(static_cast<uint32_t>(code) << 16);
}

// Numbers in 16 bytes.
template <Element element>
constexpr int kChunk = element == Element::float32 ? 4 : 8;

// Numbers kChunk · chunk … of an array that begins on a boundary of 16 bytes.
template <Element element>
QONNX_DEVICE void load_chunk(const void* array, int64_t chunk, float (&numbers)[kChunk<element>]) {
  const uint4 loaded = static_cast<const uint4*>(array)[chunk];
  const uint32_t words[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    if constexpr (element == Element::float32) numbers[w] = bits_as_float(words[w]);
    else if constexpr (element == Element::float16) {
      numbers[2 * w] = float_of_half(static_cast<uint16_t>(words[w]));
      numbers[2 * w + 1] = float_of_half(static_cast<uint16_t>(words[w] >> 16));
    } else {
      numbers[2 * w] = bits_as_float(words[w] << 16);
      numbers[2 * w + 1] = bits_as_float(words[w] & 0xffff0000);
    }
  }
}

template <Element element>
QONNX_DEVICE void store_number(void* array, size_t index, float value) {
  if constexpr (element == Element::float32) static_cast<float*>(array)[index] = value;
  else
    static_cast<uint16_t*>(array)[index] =
        element == Element::float16 ? half_of_float(value) : bfloat16_of_float(value);
}

// Numbers 4 · index … of such an array.
template <Element element>
QONNX_DEVICE void load_four(const void* array, size_t index, float (&numbers)[4]) {
  if constexpr (element == Element::float32) {
    load_chunk<element>(array, static_cast<int64_t>(index), numbers);
  } else {
    const uint2 loaded = static_cast<const uint2*>(array)[index];
    const uint32_t words[2] = {loaded.x, loaded.y};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t bits = i % 2 ? words[i / 2] >> 16 : words[i / 2] & 0xffff;
      numbers[i] = element == Element::float16 ? float_of_half(static_cast<uint16_t>(bits)) : bits_as_float(bits << 16);
    }
  }
}

template <Element element>
QONNX_DEVICE void store_chunk(void* array, int64_t chunk, const float (&numbers)[kChunk<element>]) {
  uint32_t words[4];
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    if constexpr (element == Element::float32) words[w] = float_as_bits(numbers[w]);
    else if constexpr (element == Element::float16)
      words[w] = half_of_float(numbers[2 * w]) | static_cast<uint32_t>(half_of_float(numbers[2 * w + 1])) << 16;
    else
      words[w] = bfloat16_of_float(numbers[2 * w]) | static_cast<uint32_t>(bfloat16_of_float(numbers[2 * w + 1])) << 16;
  }
  static_cast<uint4*>(array)[chunk] = {words[0], words[1], words[2], words[3]};
}

QONNX_DEVICE bool is_aligned(const void* array) { return reinterpret_cast<size_t>(array) % 16 == 0; }

constexpr uint32_t kInfinity = 0x7f800000, kMagnitude = 0x7fffffff;
constexpr float kSmallest = 0x1p-100f;  // steps are at least this / 127

// The next of three bfloat16 numbers that add up to x exactly: its upper half, cut off.
QONNX_DEVICE float next_plane(float& rest) {
  const bool finite = (float_as_bits(rest) & kMagnitude) < kInfinity;
  const float plane = finite ? bits_as_float(float_as_bits(rest) & 0xffff0000) : rest;
  rest = finite ? rest - plane : 0.0f;
  return plane;
}

// The scale of a block whose largest magnitude has these bits (NaN and infinity are above all numbers): its codes are
// nearest(x · inverse), its numbers codes · step. A block with a number that is not finite gets codes 0 and step NaN.
struct Grid {
  float inverse, step;
};
QONNX_DEVICE Grid grid_of(uint32_t largest_bits) {
  if (largest_bits >= kInfinity) return {0.0f, bits_as_float(0x7fc00000)};
  const float found = bits_as_float(largest_bits), largest = found > kSmallest ? found : kSmallest;
  return {divide_rounded(127.0f, largest), divide_rounded(largest, 127.0f)};
}

QONNX_DEVICE int8_t code_of(float x, const Grid& grid) {
  return grid.inverse == 0.0f ? int8_t{0} : static_cast<int8_t>(nearest_integer(multiply_rounded(x, grid.inverse)));
}

QONNX_DEVICE uint32_t largest_of_warp(uint32_t bits) {
#pragma unroll
  for (int distance = 16; distance; distance /= 2) {
    const uint32_t other = shuffle_xor(bits, distance);
    bits = other > bits ? other : bits;
  }
  return bits;
}

// Calls run<element>() of a functor for the element that is known only now.
template <class Run>
Failure by_element(Element element, Run&& run) {
  switch (element) {
    case Element::float32: return run.template operator()<Element::float32>();
    case Element::float16: return run.template operator()<Element::float16>();
    default: return run.template operator()<Element::bfloat16>();
  }
}

template <class Run>
Failure by_element_or_code(Element element, Run&& run) {
  switch (element) {
    case Element::uint8: return run.template operator()<Element::uint8>();
    case Element::int8: return run.template operator()<Element::int8>();
    case Element::uint4: return run.template operator()<Element::uint4>();
    case Element::int4: return run.template operator()<Element::int4>();
    default: return by_element(element, run);
  }
}

}  // namespace qonnx::cuda
