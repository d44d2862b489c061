// Around the tiles of a product: the choice of the regime, x as operands, partial sums into y.
#include "product.h"

#include <algorithm>

#include "lowbit_pack.h"
#include "numbers.cuh"

namespace qonnx::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

struct Operands {
  const void* x;
  char* operands;        // [planes · rows, padded columns]
  float *scales, *sums;  // [groups, stride], [units · slots, stride], or null
  int rows, stride, planes, columns, units, groups, group, padded_group, slots;
};

// The next of three bfloat16 numbers that add up to x exactly: its upper half, cut off.
QONNX_DEVICE float next_plane(float& rest) {
  const bool finite = (float_as_bits(rest) & kMagnitude) < kInfinity;
  const float plane = finite ? bits_as_float(float_as_bits(rest) & 0xffff0000) : rest;
  rest = finite ? rest - plane : 0.0f;
  return plane;
}

QONNX_DEVICE float sum_of_warp(float value) {
#pragma unroll
  for (int distance = 16; distance; distance /= 2)
    value += bits_as_float(shuffle_xor(float_as_bits(value), distance));
  return value;
}

// The largest magnitude of each group of a row decides its grid; a warp takes a group, all warps a long one.
template <Element element>
QONNX_DEVICE void find_grids(const Operands& job, const char* row, int m, float* inverse, uint32_t* of_warps) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const bool together = job.groups < kWarps;
  const int first = together ? threadIdx.x : lane, step = together ? kThreads : 32;
  for (int g = together ? 0 : warp; g < job.groups; g += together ? 1 : kWarps) {
    const int begin = g * job.group, end = begin + job.group < job.columns ? begin + job.group : job.columns;
    uint32_t largest = 0;
    for (int k = begin + first; k < end; k += step) {
      const uint32_t magnitude = float_as_bits(load_number<element>(row, k)) & kMagnitude;
      largest = magnitude > largest ? magnitude : largest;
    }
    largest = largest_of_warp(largest);
    if (together) {
      if (lane == 0) of_warps[warp] = largest;
      __syncthreads();
      for (int w = 0; w < kWarps; ++w) largest = of_warps[w] > largest ? of_warps[w] : largest;
      __syncthreads();
    }
    if (first == 0) {
      const Grid grid = grid_of(largest);
      inverse[g] = grid.inverse;
      job.scales[static_cast<size_t>(g) * job.stride + m] = grid.step;
    }
  }
#if !FAULT(product_grid_barrier)
  __syncthreads();
#endif
}

// One row of x by a block of threads, a unit of it by a warp at a time, two columns a thread.
template <Element element, Math math>
__global__ void __launch_bounds__(kThreads) prepare_kernel(const Operands job) {
  QONNX_SHARED(shared);
  auto* of_warps = reinterpret_cast<uint32_t*>(shared);
  auto* inverse = reinterpret_cast<float*>(of_warps + kWarps);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, m = blockIdx.x;
  constexpr size_t kSize = element == Element::float32 ? 4 : 2;
  const char* row = static_cast<const char*>(job.x) + static_cast<size_t>(m) * job.columns * kSize;
  if constexpr (math == Math::int8) find_grids<element>(job, row, m, inverse, of_warps);

  for (int unit = warp; unit < job.units; unit += kWarps) {
    float x[2];
    int group[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int place = unit * kUnit + 2 * lane + i, in_group = place % job.padded_group;
      group[i] = place / job.padded_group;
      const int k = group[i] * job.group + in_group;
      const bool real = group[i] < job.groups && in_group < job.group && k < job.columns;
      x[i] = real ? load_number<element>(row, k) : 0.0f;
      if constexpr (math == Math::int8)
        x[i] = real ? static_cast<float>(code_of(x[i], {inverse[group[i]], 0.0f})) : 0.0f;
    }
    for (int plane = 0; plane < job.planes; ++plane) {
      const int r = plane * job.rows + m;
      float value[2] = {x[0], x[1]};
      if (math == Math::bfloat16 && element == Element::float32)
        for (int i = 0; i < 2; ++i) value[i] = next_plane(x[i]);
      const size_t at = static_cast<size_t>(r) * job.units * kUnit + unit * kUnit + 2 * lane;
      if constexpr (math == Math::int8) {
        const uint32_t low = static_cast<uint8_t>(static_cast<int>(value[0])), high = static_cast<uint8_t>(static_cast<int>(value[1]));
        reinterpret_cast<uint16_t*>(job.operands)[at / 2] = static_cast<uint16_t>(low | high << 8);
      } else {
        const uint32_t low = math == Math::float16 ? half_of_float(value[0]) : bfloat16_of_float(value[0]);
        const uint32_t high = math == Math::float16 ? half_of_float(value[1]) : bfloat16_of_float(value[1]);
        reinterpret_cast<uint32_t*>(job.operands)[at / 2] = low | high << 16;
      }
      if (!job.sums) continue;
      const int first_group = unit * kUnit / job.padded_group;
      for (int slot = 0; slot < job.slots; ++slot) {
        const float sum = sum_of_warp((group[0] == first_group + slot ? value[0] : 0.0f) +
                                      (group[1] == first_group + slot ? value[1] : 0.0f));
        if (lane == 0) job.sums[(static_cast<size_t>(unit) * job.slots + slot) * job.stride + r] = sum;
      }
    }
  }
}

struct Sums {
  const float* partials;  // [splits, planes · rows, outputs]
  void* y;
  const float* bias;
  float factor;
  int splits, planes, outputs;
  int64_t rows;
};

template <Element element>
__global__ void __launch_bounds__(kThreads) finish_kernel(const Sums job) {
  const int64_t count = job.rows * job.outputs;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
#if !FAULT(product_finish_guard)
  if (i >= count) return;
#endif
  float sum = 0;
  for (int64_t part = 0; part < job.splits * job.planes; ++part) sum += job.partials[part * count + i];
  store_number<element>(job.y, i, fmaf(job.factor, sum, job.bias ? job.bias[i % job.outputs] : 0.0f));
}

constexpr size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

int divided_up(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

template <Element element>
Failure prepare_as(const Operands& job, Math math, Stream stream) {
  const size_t shared = 4 * kWarps + (math == Math::int8 ? 4 * static_cast<size_t>(job.groups) : 0);
  const dim3 blocks{static_cast<unsigned>(job.rows)}, threads{kThreads};
  const char* what = "preparing x for a matrix product";
  if (math == Math::int8)
    return launch(what, prepare_kernel<element, Math::int8>, blocks, threads, shared, stream, job);
  if constexpr (element == Element::float16)
    return launch(what, prepare_kernel<element, Math::float16>, blocks, threads, shared, stream, job);
  else return launch(what, prepare_kernel<element, Math::bfloat16>, blocks, threads, shared, stream, job);
}

}  // namespace

Plan plan_of(const Weight& weight, Element element, int64_t rows, const Device& device) {
  Plan plan{};
  plan.planes = weight.math == Math::bfloat16 && element == Element::float32 ? 3 : 1;
  plan.rows = static_cast<int>(rows) * plan.planes;
  plan.stride = divided_up(plan.rows, 4) * 4;
  plan.regime = plan.rows <= 8 ? Plan::Regime::few : plan.rows <= 16 ? Plan::Regime::some : Plan::Regime::many;
  const bool many = plan.regime == Plan::Regime::many;
  const int outputs = many ? 128 : 64, tokens = many ? 64 : plan.regime == Plan::Regime::few ? 8 : 16;
  const int depth = many ? 1 : 4;
  // Two blocks for each processor keep all of them reading; a split below two rounds of its warps is not worth the sums.
  const int blocks = divided_up(weight.rows, outputs) * divided_up(plan.rows, tokens);
  const int useful = std::max(1, weight.units / (2 * depth));
  const int wanted = std::clamp(divided_up(2 * int64_t{device.processors}, blocks), 1, useful);
  plan.units_per_split = divided_up(divided_up(weight.units, wanted), depth) * depth;
  plan.splits = divided_up(weight.units, plan.units_per_split);

  const size_t row_bytes = static_cast<size_t>(weight.units) * kUnit * bytes_of(weight.math);
  plan.scales = plan.x + aligned(plan.rows * row_bytes);
  plan.sums = plan.scales + (weight.math == Math::int8 ? aligned(size_t{4} * weight.groups * plan.stride) : 0);
  plan.partials = plan.sums + (weight.sums() ? aligned(size_t{4} * weight.units * weight.slots() * plan.stride) : 0);
  plan.bytes = plan.partials + (plan.partial() ? size_t{4} * plan.splits * plan.rows * weight.rows : 0);
  return plan;
}

Job job_of(const Weight& weight, const Plan& plan, const Product& product) {
  const auto floats = [&](bool there, size_t at) {
    return there ? reinterpret_cast<float*>(product.workspace + at) : nullptr;
  };
  Job job{};
  job.codes = weight.codes;
  job.parameters = weight.parameters;
  job.tiles = weight.tiles;
  job.units = weight.units;
  job.groups = weight.groups;
  job.group_steps = weight.group_steps();
  job.slots = weight.slots();
  job.halves = weight.halves;
  job.zeros = weight.zeros;
  job.zero = weight.zero;
  job.x = product.workspace + plan.x;
  job.rows = plan.rows;
  job.stride = plan.stride;
  job.scales = floats(weight.math == Math::int8, plan.scales);
  job.sums = floats(weight.sums(), plan.sums);
  job.units_per_split = plan.units_per_split;
  job.partials = floats(plan.partial(), plan.partials);
  job.y = product.y;
  job.element = product.element;
  job.bias = product.bias;
  job.factor = weight.factor;
  job.outputs = weight.rows;
  return job;
}

Failure prepare(const Weight& weight, const Plan& plan, const Product& product, Stream stream) {
  const Job job = job_of(weight, plan, product);
  const Operands operands{product.x, product.workspace + plan.x, const_cast<float*>(job.scales),
                          const_cast<float*>(job.sums), static_cast<int>(product.rows), plan.stride, plan.planes,
                          weight.columns, weight.units, weight.groups, weight.group, weight.padded_group,
                          weight.slots()};
  return by_element(product.element,
                    [&]<Element element>() { return prepare_as<element>(operands, weight.math, stream); });
}

Failure finish(const Weight& weight, const Plan& plan, const Product& product, Stream stream) {
  if (!plan.partial()) return {};
  const Sums sums{reinterpret_cast<const float*>(product.workspace + plan.partials), product.y, product.bias,
                  weight.factor, plan.splits, plan.planes, weight.rows, product.rows};
  const dim3 blocks{static_cast<unsigned>(divided_up(product.rows * weight.rows, kThreads))}, threads{kThreads};
  return by_element(product.element, [&]<Element element>() {
    return launch("sums of a matrix product", finish_kernel<element>, blocks, threads, size_t{0}, stream, sums);
  });
}

template <Math math>
Failure run_lowbit_tiles(const LowBitPack& pack, const Plan& plan, const Job& job, Stream stream);

Failure run_lowbit(const LowBitPack& pack, const Weight& weight, const Plan& plan, const Product& product,
                   Stream stream) {
  if (!product.rows) return {};
  if (Failure failure = prepare(weight, plan, product, stream); !failure.empty()) return failure;
  const Job job = job_of(weight, plan, product);
  const auto tiles = [&] {
    switch (weight.math) {
      case Math::float16: return run_lowbit_tiles<Math::float16>(pack, plan, job, stream);
      case Math::bfloat16: return run_lowbit_tiles<Math::bfloat16>(pack, plan, job, stream);
      default: return run_lowbit_tiles<Math::int8>(pack, plan, job, stream);
    }
  };
  if (Failure failure = tiles(); !failure.empty()) return failure;
  return finish(weight, plan, product, stream);
}

}  // namespace qonnx::cuda
