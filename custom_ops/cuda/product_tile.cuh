// The tile kernel of all products with packed weights (product.h): asynchronous copies in stages, codes to numbers in
// registers, tensor cores, sums of a group scaled in float32.
//
// A block of threads computes 16 · tiles · warps_rows outputs for 8 · token_tiles rows of x. Its warps lie in a grid:
// warps_rows of them side by side over the outputs, warps_units deep over the columns, each taking one of the
// warps_units units of a stage (product_stage.cuh). So few rows of x are a product that reads the weight once, in 16-byte
// pieces, with many columns in flight; many rows one in which each number made from a code is used 8 · token_tiles times.
// Sums of warps at the same outputs are added in the order of their units, so results never depend on the schedule.
#pragma once

#include <type_traits>

#include "epilogue.cuh"
#include "product_stage.cuh"

namespace qonnx::cuda {

template <class T>
using Sum = std::conditional_t<T::integer, int32_t, float>;

// B operands of a step for all rows of x; with one tile of rows, of this step and the next.
template <class T>
QONNX_DEVICE void load_x(const char* x, int unit, int step, uint32_t (&b)[T::token_tiles][2], uint32_t (&next)[2]) {
  const int lane = threadIdx.x % 32, matrix = lane / 8, row = lane % 8;
  const int piece = unit * T::unit_pieces + 2 * step;
  uint32_t r[4];
  if constexpr (T::token_tiles == 1) {
    if (step % 2) {
      b[0][0] = next[0], b[0][1] = next[1];
      return;
    }
    load_matrices(r, x + (row * T::row_pieces + exchanged<T>(row, piece + matrix)) * 16);
    b[0][0] = r[0], b[0][1] = r[1], next[0] = r[2], next[1] = r[3];
  } else {
#pragma unroll
    for (int t = 0; t < T::token_tiles; t += 2) {
      const int token = 8 * (t + matrix / 2) + row;
      load_matrices(r, x + (token * T::row_pieces + exchanged<T>(token, piece + matrix % 2)) * 16);
      b[t][0] = r[0], b[t][1] = r[1], b[t + 1][0] = r[2], b[t + 1][1] = r[3];
    }
  }
#if FAULT(product_swapped_x)
  const uint32_t first = b[0][0];
  b[0][0] = b[0][1], b[0][1] = first;
#endif
}

// Where int8 sums begin: their bits are then those of the float32 number 1.5 + sum / kSumUnit, exactly up to 2^22 (256
// products of 128 · 128, those of four units), and no conversion is needed, which is eight times slower than an addition.
constexpr int32_t kSumBits = 0x3fc00000;
constexpr float kSumNumber = 1.5f, kSumUnit = 8388608.0f;
constexpr int kExactUnits = 4;

template <class T>
QONNX_DEVICE Sum<T> no_sum() {
  if constexpr (T::integer) return kSumBits;
  else return 0.0f;
}

// The pair of numbers of each tile that belongs to this thread's rows.
template <class T>
QONNX_DEVICE void load_pairs(const Job& job, const char* parameters, int kind, float (&pair)[T::tiles][2]) {
  const int tile_bytes = T::warps_units * static_cast<int>(job.slots.divisor) * T::parameter_bytes(job);
  const int at = kind * 8 + threadIdx.x % 32 / 4;
  if (job.halves) {
#pragma unroll
    for (int tile = 0; tile < T::tiles; ++tile) {
      const uint32_t both = reinterpret_cast<const uint32_t*>(parameters + tile * tile_bytes)[at];
      pair[tile][0] = float_of_half(static_cast<uint16_t>(both));
      pair[tile][1] = float_of_half(static_cast<uint16_t>(both >> 16));
    }
  } else {
#pragma unroll
    for (int tile = 0; tile < T::tiles; ++tile) {
      const float2 both = reinterpret_cast<const float2*>(parameters + tile * tile_bytes)[at];
      pair[tile][0] = both.x, pair[tile][1] = both.y;
    }
  }
}

// total += scale · (sum − zero · Σ x) at the end of a group's part of a unit, and sum = 0 unless the next product begins
// anew. Scales of x have 22 significant bits (product_x.cu): kSumNumber times one is exact, so that one fused operation
// takes it off an int8 sum and multiplies by x's scale.
template <class T, bool anew>
QONNX_DEVICE void add_group(const Job& job, const char* parameters, const char* of_rows,
                            Sum<T> (&sum)[T::tiles][T::token_tiles][4], float (&total)[T::tiles][T::token_tiles][4]) {
  const auto* numbers = reinterpret_cast<const float*>(of_rows) + 2 * (threadIdx.x % 4);
  float scale[T::tiles][2], zero[T::tiles][2];
  load_pairs<T>(job, parameters, 0, scale);
  if (job.zeros) load_pairs<T>(job, parameters, 1, zero);
  if (T::integer && !job.sums) {
#pragma unroll
    for (int tile = 0; tile < T::tiles; ++tile) scale[tile][0] *= kSumUnit, scale[tile][1] *= kSumUnit;
  }
#pragma unroll
  for (int tokens = 0; tokens < T::token_tiles; ++tokens) {
    float value[T::tiles][4];
    float2 step{1.0f, 1.0f}, x{0.0f, 0.0f};
    if constexpr (T::integer) step = *reinterpret_cast<const float2*>(numbers + 8 * tokens);
    if (job.sums) x = *reinterpret_cast<const float2*>(numbers + 8 * tokens + (T::integer ? T::tokens : 0));
    const float by[2] = {job.sums ? kSumUnit : step.x, job.sums ? kSumUnit : step.y};
    const float off[2] = {-kSumNumber * by[0], -kSumNumber * by[1]};
#pragma unroll
    for (int tile = 0; tile < T::tiles; ++tile)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if constexpr (T::integer)
          value[tile][i] = fmaf(bits_as_float(static_cast<uint32_t>(sum[tile][tokens][i])), by[i % 2], off[i % 2]);
        else value[tile][i] = sum[tile][tokens][i];
        if constexpr (!anew) sum[tile][tokens][i] = no_sum<T>();
      }
    if (job.sums) {
#pragma unroll
      for (int tile = 0; tile < T::tiles; ++tile)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          value[tile][i] = fmaf(job.zeros ? -zero[tile][i / 2] : -job.zero, i % 2 ? x.y : x.x, value[tile][i]);
          if constexpr (T::integer) value[tile][i] *= i % 2 ? step.y : step.x;
        }
    }
#pragma unroll
    for (int tile = 0; tile < T::tiles; ++tile)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        total[tile][tokens][i] = fmaf(scale[tile][i / 2], value[tile][i], total[tile][tokens][i]);
  }
}

// Whether the sums of this warp's next unit belong to the same group, so that those of `held` units so far may wait;
// never where sums of x go with them.
template <class T>
QONNX_DEVICE bool goes_on(const Job& job, int unit, int end, int held) {
  const int next = unit + T::warps_units;
  if (next >= end || job.sums || job.slots.divisor != 1 || (T::integer && held >= kExactUnits)) return false;
  return quotient(unit * T::steps, job.group_steps) == quotient(next * T::steps, job.group_steps);
}

// Where products of many rows begin with constants, a group needs no instructions that set its sums to zero; the loop is
// there twice then.
template <class T, class Codes>
constexpr bool kBeginsAnew = Codes::multiplied_once && T::token_tiles >= 8;

// One unit of this warp: `stage` holds it as the `depth`-th of its units, `books` what the weight has put there. Sums of a
// group stay in `sum` until the warp has its last unit of the group. `anew`: it is the first one, what `sum` holds is old.
template <class T, class Codes, bool anew>
QONNX_DEVICE void multiply_unit(const Job& job, const typename Codes::Values& values, const char* books,
                                const char* stage, int unit, bool more, int warp_row, int depth,
                                Sum<T> (&sum)[T::tiles][T::token_tiles][4],
                                float (&total)[T::tiles][T::token_tiles][4]) {
  const int first_tile = warp_row * T::tiles, unit_bytes = T::unit_code_bytes(job);
  Codes codes[T::tiles];
#pragma unroll
  for (int tile = 0; tile < T::tiles; ++tile)
    codes[tile].load(stage + ((first_tile + tile) * T::warps_units + depth) * unit_bytes);
  const int parameter_bytes = T::parameter_bytes(job), token_bytes = T::token_bytes(job);
  const int slots = static_cast<int>(job.slots.divisor), group_steps = static_cast<int>(job.group_steps.divisor);
  const char* parameters = stage + T::parameters_at(job) + (first_tile * T::warps_units + depth) * slots * parameter_bytes;
  const char* of_rows = stage + T::tokens_at(job) + depth * slots * token_bytes;
  const char* x = stage + T::x_at(job);

  const Sum<T> none[4] = {no_sum<T>(), no_sum<T>(), no_sum<T>(), no_sum<T>()};
  constexpr int kAtOnce = Codes::steps_at_once;
  uint32_t b[kAtOnce][T::token_tiles][2], next[2] = {};
  int left = T::steps;  // of the group; where it is all of the unit, nobody asks before the end
  if (slots > 1) left = group_steps - (unit * T::steps - quotient(unit * T::steps, job.group_steps) * group_steps);
#pragma unroll
  for (int step = 0; step < T::steps; step += kAtOnce) {
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) load_x<T>(x, depth, step + i, b[i], next);
    Codes::fragments(codes, step, values, books, [&](int tile, int i, const uint32_t(&a)[4]) {
#pragma unroll
      for (int tokens = 0; tokens < T::token_tiles; ++tokens) {
        auto& d = sum[tile][tokens];
        const Sum<T>(&so_far)[4] = sum[tile][tokens];
        const Sum<T>(&c)[4] = anew && step + i == 0 ? none : so_far;
        if constexpr (T::integer) multiply_int8(d, a, b[i][tokens][0], b[i][tokens][1], c);
        else if constexpr (T::math == Math::float16) multiply_float16(d, a, b[i][tokens][0], b[i][tokens][1], c);
        else multiply_bfloat16(d, a, b[i][tokens][0], b[i][tokens][1], c);
      }
    });
    left -= kAtOnce;
    if (step + kAtOnce < T::steps && left == 0) {
      add_group<T, false>(job, parameters, of_rows, sum, total);
      parameters += parameter_bytes;
      of_rows += token_bytes;
      left = group_steps;
    }
  }
  if (!more) add_group<T, kBeginsAnew<T, Codes>>(job, parameters, of_rows, sum, total);
}

// Sums of all warps through shared memory, then 32 neighbouring outputs a warp into y or the partial sums.
template <class T>
QONNX_DEVICE void store(const Job& job, char* shared, int token, float (&total)[T::tiles][T::token_tiles][4]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp % T::warps_rows, depth = warp / T::warps_rows, g = lane / 4, t = lane % 4;
  auto* sums = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int tile = 0; tile < T::tiles; ++tile)
#pragma unroll
    for (int tokens = 0; tokens < T::token_tiles; ++tokens)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = 8 * tokens + 2 * t + i % 2, output = (warp_row * T::tiles + tile) * kTile + g + 8 * (i / 2);
        sums[(depth * T::tokens + row) * T::pitch + output] = total[tile][tokens][i];
      }
#if !FAULT(product_end_barrier)
  __syncthreads();
#endif
  const int first = blockIdx.y * T::outputs;
  for (int i = threadIdx.x; i < T::tokens * T::outputs; i += T::threads) {
    const int row = i / T::outputs, output = i % T::outputs, m = token + row, n = first + output;
    if (m >= job.rows) break;
#if FAULT(product_output_guard)
    if (n > job.epilogue.outputs) continue;
#else
    if (n >= job.epilogue.outputs) continue;
#endif
    float sum = 0;
#pragma unroll
    for (int d = 0; d < T::warps_units; ++d) sum += sums[(d * T::tokens + row) * T::pitch + output];
    if (job.partials) {
      const size_t at = (static_cast<size_t>(blockIdx.z) * job.rows + m) * job.epilogue.outputs + n;
      job.partials[at] = sum;
    } else {
      write_output(job.epilogue, m, n, sum);
    }
  }
}

// blockIdx: tile of rows of x (neighbours share the weight in the L2 cache), tile of outputs, split of the columns.
template <class T, class Codes>
QONNX_DEVICE void product_block(const Job& job, const typename Codes::Values& values) {
  QONNX_SHARED(books);
  Codes::set_up(values, books, T::threads);  // the barrier of the first round stands before its use
  char* shared = books + Codes::shared_bytes(values);
  const int warp = threadIdx.x / 32, warp_row = warp % T::warps_rows, depth = warp / T::warps_rows;
  const int token = blockIdx.x * T::tokens, tile = blockIdx.y * T::block_tiles;
  const int first = blockIdx.z * job.units_per_split;
  const int end = first + job.units_per_split < job.units ? first + job.units_per_split : job.units;
  const int rounds = (end - first + T::warps_units - 1) / T::warps_units, stage_bytes = T::stage_bytes(job);
  float total[T::tiles][T::token_tiles][4] = {};
  Sum<T> sum[T::tiles][T::token_tiles][4];
#pragma unroll
  for (int t = 0; t < T::tiles; ++t)
#pragma unroll
    for (int tokens = 0; tokens < T::token_tiles; ++tokens)
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[t][tokens][i] = no_sum<T>();
  const Pieces<T, Codes> pieces(job, tile, token);
  int held = 0;  // units whose sums wait

#pragma unroll
  for (int s = 0; s < T::stages - 1; ++s) {
    if (s < rounds)
      copy_stage<T, Codes>(job, pieces, shared + s * stage_bytes, tile, token, first + s * T::warps_units, end);
    copy_commit();
  }
  for (int round = 0; round < rounds; ++round) {
#if !FAULT(product_stage_wait)
    copy_wait<T::stages - 2>();
#endif
#if !FAULT(product_stage_barrier)
    __syncthreads();  // this stage is here for all warps, and all have left the one that is filled next
#endif
    const int ahead = round + T::stages - 1;
    if (ahead < rounds)
      copy_stage<T, Codes>(job, pieces, shared + ahead % T::stages * stage_bytes, tile, token,
                           first + ahead * T::warps_units, end);
    copy_commit();
    const int unit = first + round * T::warps_units + depth;
    if (unit < end) {
      const bool more = goes_on<T>(job, unit, end, ++held);
      const char* stage = shared + round % T::stages * stage_bytes;
      if (kBeginsAnew<T, Codes> && held == 1)
        multiply_unit<T, Codes, true>(job, values, books, stage, unit, more, warp_row, depth, sum, total);
      else multiply_unit<T, Codes, false>(job, values, books, stage, unit, more, warp_row, depth, sum, total);
      if (!more) held = 0;
    }
  }
  copy_wait<0>();
#if !FAULT(product_last_barrier)
  __syncthreads();  // before sums take the place of the stages
#endif
  store<T>(job, shared, token, total);
}

template <class T, class Codes>
__global__ void __launch_bounds__(T::threads, 1) product_kernel(const Job job, const typename Codes::Values values) {
  product_block<T, Codes>(job, values);
}

template <class T, class Codes>
Failure launch_tile(const char* what, Job job, const typename Codes::Values& values, int splits, Stream stream) {
  job.code_pieces = divisor_of(T::warps_units * T::unit_code_bytes(job) / 16);
  job.parameter_pieces = divisor_of(job.slots.divisor * T::parameter_bytes(job) / 16);
  const int outputs = job.epilogue.outputs;
  const dim3 blocks{static_cast<unsigned>((job.rows + T::tokens - 1) / T::tokens),
                    static_cast<unsigned>((outputs + T::outputs - 1) / T::outputs), static_cast<unsigned>(splits)};
  return launch(what, product_kernel<T, Codes>, blocks, dim3{T::threads},
                Codes::shared_bytes(values) + T::shared_bytes(job), stream, job, values);
}

template <class T>
constexpr bool has_shape(const TileShape& shape) {
  return T::outputs == shape.outputs && T::tokens == shape.tokens && T::warps_units == shape.depth;
}

}  // namespace qonnx::cuda
