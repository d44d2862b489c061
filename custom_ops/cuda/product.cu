// Around the tiles of a product: the choice of the regime, partial sums into y.
#include "product.h"

#include <algorithm>

#include "codebook_pack.h"
#include "epilogue.cuh"
#include "lowbit_pack.h"

namespace qonnx::cuda {

namespace {

constexpr int kThreads = 256;

struct Sums {
  const float* partials;  // [parts, rows, outputs]
  int parts;
  int64_t rows;
  Epilogue epilogue;
};

__global__ void __launch_bounds__(kThreads) finish_kernel(const Sums job) {
  const int n = blockIdx.y * kThreads + threadIdx.x;
#if !FAULT(product_finish_guard)
  if (n >= job.epilogue.outputs) return;
#endif
  const size_t m = blockIdx.x, at = m * job.epilogue.outputs + n, step = job.rows * job.epilogue.outputs;
  float sum = 0;
  for (int part = 0; part < job.parts; ++part) sum += job.partials[part * step + at];
  write_output(job.epilogue, m, n, sum);
}

// The same of many parts for few rows: 32 outputs by a block, of which each warp adds up some of the parts.
struct ManySums {
  const float* partials;  // [parts, rows, pitch]
  int parts, rows, pitch;
  Epilogue epilogue;
};

__global__ void __launch_bounds__(kThreads) finish_many_kernel(const ManySums job) {
  QONNX_SHARED(shared);
  auto* sums = reinterpret_cast<float*>(shared);
  const int lane = threadIdx.x % 32, n = blockIdx.y * 32 + lane;
  const size_t m = blockIdx.x, step = static_cast<size_t>(job.rows) * job.pitch, at = m * job.pitch + n;
  float sum = 0;
  if (n < job.pitch)
    for (int part = threadIdx.x / 32; part < job.parts; part += kThreads / 32) sum += job.partials[part * step + at];
  sums[threadIdx.x] = sum;
#if !FAULT(sums_finish_barrier)
  __syncthreads();
#endif
  if (threadIdx.x >= 32 || n >= job.epilogue.outputs) return;
  for (int warp = 1; warp < kThreads / 32; ++warp) sum += sums[32 * warp + lane];
  write_output(job.epilogue, m, n, sum);
}

constexpr size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

int divided_up(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

int units_per_split(int units, int splits, int depth) { return divided_up(divided_up(units, splits), depth) * depth; }

// Splits of the columns for `blocks` blocks of `shape`. Few rows are bound by reading: enough blocks keep all processors
// at it. Many, and vectors of code books, are bound by what a processor does: the one with most blocks decides. What a
// block costs beside its units is
// one more (its stages fill first), and three for partial sums: 32 KB each way through the L2 cache, in the time in which
// tensor cores multiply three units of a tile.
int splits_of(const TileShape& shape, bool by_time, int blocks, int units, int processors) {
  const int useful = std::max(1, units / (2 * shape.depth));  // fewer rounds of its warps are not worth the sums
  if (!by_time) return std::clamp(divided_up(int64_t{shape.blocks} * processors, blocks), 1, useful);
  int best = 1;
  int64_t least = 0;
  for (int splits = 1; splits <= std::min(useful, 16); ++splits) {
    const int64_t turns = divided_up(int64_t{blocks} * splits, processors);
    const int64_t time = turns * (units_per_split(units, splits, shape.depth) + (splits > 1 ? 4 : 1));
    if (splits == 1 || time < least) best = splits, least = time;
  }
  return best;
}

void set_splits(Plan& plan, const Weight& weight, const Device& device) {
  const TileShape& shape = shape_of(weight.codebooks, plan.regime);
  const int blocks = divided_up(weight.rows, shape.outputs) * divided_up(plan.rows, shape.tokens);
  const bool by_time = plan.regime == Regime::many || (weight.codebooks && plan.regime != Regime::lean);
  const int splits = splits_of(shape, by_time, blocks, weight.units, device.processors);
  plan.units_per_split = units_per_split(weight.units, splits, shape.depth);
  plan.splits = divided_up(weight.units, plan.units_per_split);
}

}  // namespace

Plan plan_of(const Weight& weight, Element element, int64_t rows, const Device& device, int rank) {
  Plan plan{};
  plan.planes = weight.math == Math::bfloat16 && element == Element::float32 ? 3 : 1;
  plan.rows = static_cast<int>(rows) * plan.planes;
  plan.stride = divided_up(plan.rows, 4) * 4;
  plan.regime = plan.rows <= 8 ? Regime::few : plan.rows <= 16 ? Regime::some : Regime::many;
  if (weight.codebooks && weight.unit_bytes > kLeanUnit) plan.regime = Regime::lean;
  const bool sums = weight.segments && rows <= kSumsRows && weight.tiles >= kSumsTiles && device.shared_bytes >= kSumsShared;
  if (sums) {
    plan.regime = Regime::sums;
    const int slabs = weight.units * weight.segments, runs = runs_of_tiles(weight.tiles, static_cast<int>(rows));
    plan.units_per_split = divided_up(slabs, std::clamp(device.processors / runs, 1, slabs));
    plan.splits = divided_up(slabs, plan.units_per_split);
  } else {
    set_splits(plan, weight, device);
  }

  const size_t row_bytes = static_cast<size_t>(weight.units) * kUnit * bytes_of(weight.math);
  plan.scales = plan.x + aligned(plan.rows * row_bytes);
  plan.sums = plan.scales + (weight.math == Math::int8 ? aligned(size_t{4} * weight.groups * plan.stride) : 0);
  plan.partials = plan.sums + (weight.sums() ? aligned(size_t{4} * weight.units * weight.slots() * plan.stride) : 0);
  const size_t parts = sums ? size_t{4} * plan.splits * rows * weight.tiles * kTile
                            : size_t{4} * plan.splits * plan.rows * weight.rows;
  plan.down = plan.partials + (plan.partial() ? aligned(parts) : 0);
  plan.bytes = plan.down + sizeof(float) * rows * rank;
  return plan;
}

namespace {

// Whether x lies as the kernels read it already: numbers of the operands' type, no padding, no sums.
bool is_ready(const Weight& weight, const Product& product) {
  const Columns& to = weight.columns;
  const bool type = (weight.math == Math::float16 && product.element == Element::float16) ||
                    (weight.math == Math::bfloat16 && product.element == Element::bfloat16);
  const bool order = !to.interleaved && to.columns == weight.units * kUnit &&
                     (weight.groups == 1 || to.group == to.padded_group);
  return type && order && !weight.sums() && reinterpret_cast<uintptr_t>(product.x) % 16 == 0;
}

}  // namespace

Job job_of(const Weight& weight, const Plan& plan, const Product& product) {
  const auto floats = [&](bool there, size_t at) {
    return there ? reinterpret_cast<float*>(product.workspace + at) : nullptr;
  };
  Job job{};
  job.codes = weight.codes;
  job.parameters = weight.parameters;
  job.tiles = weight.tiles;
  job.units = weight.units;
  job.unit_bytes = weight.unit_bytes;
  job.groups = weight.groups;
  job.group_steps = divisor_of(weight.group_steps());
  job.slots = divisor_of(weight.slots());
  job.halves = weight.halves;
  job.zeros = weight.zeros;
  job.zero = weight.zero;
  job.x = is_ready(weight, product) ? static_cast<const char*>(product.x) : product.workspace + plan.x;
  job.rows = plan.rows;
  job.stride = plan.stride;
  job.scales = floats(weight.math == Math::int8, plan.scales);
  job.sums = floats(weight.sums(), plan.sums);
  job.units_per_split = plan.units_per_split;
  job.partials = floats(plan.partial(), plan.partials);
  Epilogue& to = job.epilogue;
  to.y = product.y;
  to.element = product.y_element;
  to.bias = product.bias;
  to.factor = weight.factor;
  if (product.fixed) {
    to.offset = static_cast<float>(shift_of(product.element, product.grid) - product.grid.zero_point);
    to.offsets = to.offset != 0 ? product.offsets : nullptr;
    to.factor *= product.grid.scale;
  }
  to.rank = product.branch.rank;
  to.down = floats(to.rank > 0, plan.down);
  to.up = product.branch.b;
  to.grid = product.y_grid;
  to.outputs = weight.rows;
  return job;
}

Failure finish(const Weight& weight, const Plan& plan, const Product& product, Stream stream) {
  if (!plan.partial()) return {};
  const Job job = job_of(weight, plan, product);
  if (plan.regime == Regime::sums) {
    const int pitch = weight.tiles * kTile;
    const ManySums sums{job.partials, plan.splits, static_cast<int>(product.rows), pitch, job.epilogue};
    const dim3 blocks{static_cast<unsigned>(product.rows), static_cast<unsigned>(divided_up(pitch, 32))};
    return launch("sums of a matrix product", finish_many_kernel, blocks, dim3{kThreads}, sizeof(float) * kThreads,
                  stream, sums);
  }
  const Sums sums{job.partials, plan.splits * plan.planes, product.rows, job.epilogue};
  const dim3 blocks{static_cast<unsigned>(product.rows), static_cast<unsigned>(divided_up(weight.rows, kThreads))};
  return launch("sums of a matrix product", finish_kernel, blocks, dim3{kThreads}, size_t{0}, stream, sums);
}

template <Math math>
Failure run_lowbit_tiles(const LowBitPack& pack, const Plan& plan, const Job& job, Stream stream);
template <Math math>
Failure run_codebook_tiles(const CodebookPack& pack, const char* tables, const Plan& plan, const Job& job,
                           const Device& device, Stream stream);

namespace {

// x into the workspace, tiles, sums.
template <class Tiles>
Failure run_product(const Weight& weight, const Plan& plan, const Product& product, Stream stream, Tiles&& tiles) {
  if (!product.rows) return {};
  if (Failure failure = prepare(weight, plan, product, stream); !failure.empty()) return failure;
  const Job job = job_of(weight, plan, product);
  const auto run = [&] {
    switch (weight.math) {
      case Math::float16: return tiles.template operator()<Math::float16>(job);
      case Math::bfloat16: return tiles.template operator()<Math::bfloat16>(job);
      default: return tiles.template operator()<Math::int8>(job);
    }
  };
  if (Failure failure = run(); !failure.empty()) return failure;
  return finish(weight, plan, product, stream);
}

}  // namespace

Failure run_lowbit(const LowBitPack& pack, const Weight& weight, const Plan& plan, const Product& product,
                   Stream stream) {
  return run_product(weight, plan, product, stream, [&]<Math math>(const Job& job) {
    return run_lowbit_tiles<math>(pack, plan, job, stream);
  });
}

Failure run_codebook(const CodebookPack& pack, const char* tables, const Weight& weight, const Plan& plan,
                     const Product& product, const Device& device, Stream stream) {
  return run_product(weight, plan, product, stream, [&]<Math math>(const Job& job) {
    return run_codebook_tiles<math>(pack, tables, plan, job, device, stream);
  });
}

}  // namespace qonnx::cuda
