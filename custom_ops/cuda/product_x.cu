// Rows of x as operands of the tensor cores: into padded columns, as integers or in three planes, with their sums.
#include "columns.cuh"
#include "epilogue.cuh"
#include "launch.cuh"

namespace qonnx::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

struct Operands {
  const void* x;
  char* operands;        // [planes · rows, padded columns]
  float *scales, *sums;  // [groups, stride], [units · slots, stride], or null
  int rows, stride, planes, units, groups, slots;
  Columns columns;
  Divisor padded_group, padded_vector, vector;
  StaticGrid grid;  // of static quantization, and what is taken off its codes
  int shift;
};

// The column at a place among the padded ones and its group; -1 where there is none.
QONNX_DEVICE int column_at(const Operands& job, int place, int& group) {
  const Columns& to = job.columns;
  group = quotient(place, job.padded_group);
  const int within = place - group * to.padded_group, begin = group * to.group;
  int column = begin + within, end = begin + to.group;
  if (to.padded_vector > 1) {
    const int vector = quotient(within, job.padded_vector), element = within - vector * to.padded_vector;
    column = (quotient(begin, job.vector) + vector) * to.vector + element;
    if (element >= to.vector) return -1;
  }
  if (end > to.columns) end = to.columns;
#if FAULT(product_shared_vector)
  return column < end ? column : -1;
#else
  return group < job.groups && column >= begin && column < end ? column : -1;
#endif
}

QONNX_DEVICE float sum_of_warp(float value) {
#pragma unroll
  for (int distance = 16; distance; distance /= 2)
    value += bits_as_float(shuffle_xor(float_as_bits(value), distance));
  return value;
}

// To 22 significant bits: 1.5 times that is a float32 number, which spares the tiles an operation (product_tile.cuh).
QONNX_DEVICE float shortened(float step) { return bits_as_float((float_as_bits(step) + 2) & ~3u); }

// The largest magnitude of each group of a row decides its grid; a warp takes a group, all warps a long one.
template <Element element>
QONNX_DEVICE void find_grids(const Operands& job, size_t row, int m, float* inverse, uint32_t* of_warps) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const bool together = job.groups < kWarps;
  const int first = together ? threadIdx.x : lane, step = together ? kThreads : 32;
  for (int g = together ? 0 : warp; g < job.groups; g += together ? 1 : kWarps) {
    const int begin = g * job.columns.group, columns = job.columns.columns;
    const int end = begin + job.columns.group < columns ? begin + job.columns.group : columns;
    uint32_t largest = 0;
    for (int k = begin + first; k < end; k += step) {
      const uint32_t magnitude = float_as_bits(load_number<element>(job.x, row + k)) & kMagnitude;
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
      job.scales[static_cast<size_t>(g) * job.stride + m] = shortened(grid.step);
    }
  }
#if !FAULT(product_grid_barrier)
  __syncthreads();
#endif
}

// Static quantization: rows have no scales of their own, but NaN where they hold a NaN.
template <Element element>
QONNX_DEVICE void set_scales(const Operands& job, size_t row, int m, uint32_t* of_warps) {
  uint32_t largest = 0;
  if constexpr (!kIsCode<element>) {
    for (int k = threadIdx.x; k < job.columns.columns; k += kThreads) {
      const uint32_t magnitude = float_as_bits(load_number<element>(job.x, row + k)) & kMagnitude;
      largest = magnitude > largest ? magnitude : largest;
    }
    largest = largest_of_warp(largest);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = largest;
#if !FAULT(product_spoiled_barrier)
    __syncthreads();
#endif
    for (int w = 0; w < kWarps; ++w) largest = of_warps[w] > largest ? of_warps[w] : largest;
  }
  const float scale = largest > kInfinity ? bits_as_float(0x7fc00000) : 1.0f;  // the grid's is in the epilogue
  for (int g = threadIdx.x; g < job.groups; g += kThreads) job.scales[static_cast<size_t>(g) * job.stride + m] = scale;
}

enum class Rounding { none, dynamic, fixed };

// One row of x by a block of threads, a unit of it by a warp at a time, two columns a thread.
template <Element element, Math math, Rounding rounding>
__global__ void __launch_bounds__(kThreads, 4) prepare_kernel(const Operands job) {
  QONNX_SHARED(shared);
  auto* of_warps = reinterpret_cast<uint32_t*>(shared);
  auto* inverse = reinterpret_cast<float*>(of_warps + kWarps);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, m = blockIdx.x;
  const size_t row = static_cast<size_t>(m) * job.columns.columns;
  if constexpr (rounding == Rounding::dynamic) find_grids<element>(job, row, m, inverse, of_warps);
  if constexpr (rounding == Rounding::fixed) set_scales<element>(job, row, m, of_warps);

  for (int unit = warp; unit < job.units; unit += kWarps) {
    float x[2];
    int group[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int k = column_at(job, unit * kUnit + 2 * lane + i, group[i]);
      x[i] = k < 0 ? 0.0f : load_number<element>(job.x, row + k);
      if constexpr (rounding == Rounding::dynamic)
        x[i] = k < 0 ? 0.0f : static_cast<float>(code_of(x[i], {inverse[group[i]], 0.0f}));
      if constexpr (rounding == Rounding::fixed) {
        const float code = kIsCode<element> ? x[i] : static_cast<float>(static_code(x[i], job.grid));
        x[i] = k < 0 ? 0.0f : code - static_cast<float>(job.shift);
      }
    }
    for (int plane = 0; plane < job.planes; ++plane) {
      const int r = plane * job.rows + m;
      float value[2] = {x[0], x[1]};
      if constexpr (math == Math::bfloat16 && element == Element::float32) {
        value[0] = next_plane(x[0]);
        value[1] = next_plane(x[1]);
      }
      const size_t at = (static_cast<size_t>(r) * job.units + unit) * kUnit + order_of<math>(job.columns.interleaved, 2 * lane);
      if constexpr (math == Math::int8) {
        const uint32_t low = static_cast<uint8_t>(static_cast<int>(value[0]));
        const uint32_t high = static_cast<uint8_t>(static_cast<int>(value[1]));
        reinterpret_cast<uint16_t*>(job.operands)[at / 2] = static_cast<uint16_t>(low | high << 8);
      } else {
        const uint32_t low = math == Math::float16 ? half_of_float(value[0]) : bfloat16_of_float(value[0]);
        const uint32_t high = math == Math::float16 ? half_of_float(value[1]) : bfloat16_of_float(value[1]);
        reinterpret_cast<uint32_t*>(job.operands)[at / 2] = low | high << 16;
      }
      if (!job.sums) continue;
      const int first_group = quotient(unit * kUnit, job.padded_group);
      for (int slot = 0; slot < job.slots; ++slot) {
        const float sum = sum_of_warp((group[0] == first_group + slot ? value[0] : 0.0f) +
                                      (group[1] == first_group + slot ? value[1] : 0.0f));
        if (lane == 0) job.sums[(static_cast<size_t>(unit) * job.slots + slot) * job.stride + r] = sum;
      }
    }
  }
}

// down[m, r] = Σ_k x[m, k] · a[k, r] by a block of threads for a row: thread r of a run of 32, warps over the columns.
template <Element element>
__global__ void __launch_bounds__(kThreads) down_kernel(const void* x, const float* a, float* down, int columns,
                                                        int rank) {
  QONNX_SHARED(shared);
  auto* sums = reinterpret_cast<float*>(shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, r = blockIdx.y * 32 + lane;
  const size_t row = static_cast<size_t>(blockIdx.x) * columns;
  float sum = 0;
  if (r < rank)
    for (int k = warp; k < columns; k += kWarps)
      sum = fmaf(load_number<element>(x, row + k), a[static_cast<size_t>(k) * rank + r], sum);
  sums[threadIdx.x] = sum;
#if !FAULT(product_down_barrier)
  __syncthreads();
#endif
  if (warp || r >= rank) return;
  for (int w = 1; w < kWarps; ++w) sum += sums[32 * w + lane];
  down[static_cast<size_t>(blockIdx.x) * rank + r] = sum;
}

template <Element element>
Failure prepare_as(const Operands& job, Math math, bool fixed, Stream stream) {
  const size_t shared = 4 * kWarps + (math == Math::int8 && !fixed ? 4 * static_cast<size_t>(job.groups) : 0);
  const dim3 blocks{static_cast<unsigned>(job.rows)}, threads{kThreads};
  const auto run = [&](void (*kernel)(const Operands)) {
    return launch("preparing x for a matrix product", kernel, blocks, threads, shared, stream, job);
  };
  if (fixed) return run(prepare_kernel<element, Math::int8, Rounding::fixed>);
  if constexpr (kIsCode<element>) return "codes of static quantization need a static grid";
  else {
    if (math == Math::int8) return run(prepare_kernel<element, Math::int8, Rounding::dynamic>);
    if constexpr (element == Element::float16) return run(prepare_kernel<element, Math::float16, Rounding::none>);
    else return run(prepare_kernel<element, Math::bfloat16, Rounding::none>);
  }
}

}  // namespace

Failure prepare(const Weight& weight, const Plan& plan, const Product& product, Stream stream) {
  const Job job = job_of(weight, plan, product);
  const Columns& columns = weight.columns;
  const Operands operands{product.x, product.workspace + plan.x, const_cast<float*>(job.scales),
                          const_cast<float*>(job.sums), static_cast<int>(product.rows), plan.stride, plan.planes,
                          weight.units, weight.groups, weight.slots(), columns, divisor_of(columns.padded_group),
                          divisor_of(columns.padded_vector), divisor_of(columns.vector), product.grid,
                          shift_of(product.element, product.grid)};
  Failure failure;
  if (job.x == operands.operands)
    failure = by_element_or_code(product.element, [&]<Element element>() {
      return prepare_as<element>(operands, weight.math, product.fixed, stream);
    });
  if (!failure.empty() || !product.branch.rank) return failure;
  const LowRank& branch = product.branch;
  const dim3 blocks{static_cast<unsigned>(product.rows), static_cast<unsigned>((branch.rank + 31) / 32)};
  return by_element(product.element, [&]<Element element>() {
    return launch("the low-rank branch of a product", down_kernel<element>, blocks, dim3{kThreads},
                  sizeof(float) * kThreads, stream, product.x, branch.a, const_cast<float*>(job.epilogue.down),
                  weight.columns.columns, branch.rank);
  });
}

}  // namespace qonnx::cuda
