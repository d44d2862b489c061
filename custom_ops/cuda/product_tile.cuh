// The tile kernel of all products with packed weights (product.h): asynchronous copies in stages, codes to numbers in
// registers, tensor cores, sums of a group scaled in float32.
//
// A block of threads computes 16 · tiles · warps_rows outputs for 8 · token_tiles rows of x. Its warps lie in a grid:
// warps_rows of them side by side over the outputs, warps_units deep over the columns, each taking one of the
// warps_units units of a stage. So few rows of x are a product that reads the weight once, in 16-byte pieces, with many
// columns in flight; many rows one in which each number made from a code is used 8 · token_tiles times.
//
// A stage in shared memory:
//   codes        [tile][unit][bytes of a unit]
//   parameters   [tile][unit][slot][scale, zero][16]      slot: the groups that a unit touches
//   x            [row][unit · 64 columns], its 16-byte pieces exchanged so that ldmatrix meets no bank twice
//   of rows      [unit][slot][scale, sum][row]
// Before the stages lies what the weight wants there (Codes::shared_bytes): code books.
// Sums of warps at the same outputs are added in the order of their units, so results never depend on the schedule.
#pragma once

#include <type_traits>

#include "epilogue.cuh"
#include "launch.cuh"

namespace qonnx::cuda {

template <class Codes, int warps_rows_, int warps_units_, int tiles_, int token_tiles_, int stages_>
struct Tile {
  static constexpr int warps_rows = warps_rows_, warps_units = warps_units_, tiles = tiles_, token_tiles = token_tiles_,
                       stages = stages_;
  static constexpr Math math = Codes::math;
  static constexpr bool integer = math == Math::int8;
  static constexpr int threads = 32 * warps_rows * warps_units;
  static constexpr int block_tiles = warps_rows * tiles, outputs = kTile * block_tiles, tokens = 8 * token_tiles;
  static constexpr int steps = kUnit / step_of(math);
  static constexpr int unit_bytes = kUnit * bytes_of(math);            // of a row of x
  static constexpr int unit_pieces = unit_bytes / 16, row_pieces = warps_units * unit_pieces;
  static constexpr int x_bytes = tokens * row_pieces * 16;
  static constexpr int pitch = outputs + 4;  // of the sums at the end: lanes meet different banks
  static constexpr size_t end_bytes = sizeof(float) * warps_units * tokens * pitch;

  // Bytes of one group's parameters of a tile, and of one slot of the rows of x.
  QONNX_BOTH static int parameter_bytes(const Job& job) { return kTile * (job.halves ? 2 : 4) * (job.zeros ? 2 : 1); }
  QONNX_BOTH static int token_bytes(const Job& job) { return 4 * tokens * ((integer ? 1 : 0) + (job.sums ? 1 : 0)); }
  QONNX_BOTH static int unit_code_bytes(const Job& job) { return Codes::bytes ? Codes::bytes : job.unit_bytes; }
  QONNX_BOTH static int parameters_at(const Job& job) { return block_tiles * warps_units * unit_code_bytes(job); }
  QONNX_BOTH static int x_at(const Job& job) {
    return (parameters_at(job) + block_tiles * warps_units * job.slots * parameter_bytes(job) + 127) / 128 * 128;
  }
  QONNX_BOTH static int tokens_at(const Job& job) { return x_at(job) + x_bytes; }
  QONNX_BOTH static int stage_bytes(const Job& job) {
    return (tokens_at(job) + warps_units * job.slots * token_bytes(job) + 127) / 128 * 128;
  }
  static size_t shared_bytes(const Job& job) {
    const size_t staged = static_cast<size_t>(stages) * stage_bytes(job);
    return staged > end_bytes ? staged : end_bytes;
  }
};

// Where piece `piece` of a row of x lies: eight rows at one piece cover all banks.
template <class T>
QONNX_DEVICE int exchanged(int token, int piece) {
  return T::row_pieces >= 8 ? piece ^ (token & 7) : piece ^ (token >> 1 & 3);
}

// The units unit … of a stage, as far as they lie before `end`; zeros for the others and for rows that are not there.
template <class T, class Codes>
QONNX_DEVICE void copy_stage(const Job& job, char* stage, int tile, int token, int unit, int end) {
  const int unit_bytes = T::unit_code_bytes(job);
  const int code_pieces = T::warps_units * unit_bytes / 16;  // of a tile: its units follow each other
  for (int i = threadIdx.x; i < T::block_tiles * code_pieces; i += T::threads) {
    const int t = tile + i / code_pieces, piece = i % code_pieces;
    const size_t from = (static_cast<size_t>(t) * job.units + unit) * unit_bytes + piece * 16;
    copy_async(stage + i * 16, job.codes + from, t < job.tiles && unit + piece * 16 / unit_bytes < end);
  }
  const int row_bytes = T::parameter_bytes(job), pieces = job.slots * row_bytes / 16;
  char* to = stage + T::parameters_at(job);
  for (int i = threadIdx.x; i < T::block_tiles * T::warps_units * pieces; i += T::threads) {
    const int t = tile + i / pieces / T::warps_units, u = unit + i / pieces % T::warps_units, byte = i % pieces * 16;
    const int group = u * T::steps / job.group_steps;
    const size_t from = (static_cast<size_t>(t) * job.groups + group) * row_bytes + byte;
    copy_async(to + i * 16, job.parameters + from, t < job.tiles && u < end && group + byte / row_bytes < job.groups);
  }
  to = stage + T::x_at(job);
  for (int i = threadIdx.x; i < T::tokens * T::row_pieces; i += T::threads) {
    const int row = i / T::row_pieces, piece = i % T::row_pieces;
    const size_t from = (static_cast<size_t>(token + row) * job.units + unit) * T::unit_bytes + piece * 16;
#if FAULT(product_token_guard)
    const bool valid = unit + piece / T::unit_pieces < end;
#else
    const bool valid = token + row < job.rows && unit + piece / T::unit_pieces < end;
#endif
    copy_async(to + (row * T::row_pieces + exchanged<T>(row, piece)) * 16, job.x + from, valid);
  }
  constexpr int kTokenPieces = T::tokens / 4;
  to = stage + T::tokens_at(job);
  const int slot_bytes = T::token_bytes(job);
  for (int i = threadIdx.x; i < T::warps_units * job.slots * kTokenPieces; i += T::threads) {
    const int u = unit + i / kTokenPieces / job.slots, slot = i / kTokenPieces % job.slots, row = i % kTokenPieces * 4;
    const int group = u * T::steps / job.group_steps + slot;
    char* place = to + i / kTokenPieces * slot_bytes + row * 4;
    const bool valid = u < end && token + row < job.rows;
    if constexpr (T::integer) {
      copy_async(place, job.scales + static_cast<size_t>(group) * job.stride + token + row,
                 valid && group < job.groups);
      place += T::tokens * 4;
    }
    if (job.sums)
      copy_async(place, job.sums + (static_cast<size_t>(u) * job.slots + slot) * job.stride + token + row, valid);
  }
}

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

QONNX_DEVICE float parameter(const char* row, int index, bool halves) {
  return halves ? float_of_half(reinterpret_cast<const uint16_t*>(row)[index])
                : reinterpret_cast<const float*>(row)[index];
}

// total += scale · (sum − zero · Σ x), and sum = 0, at the end of a group's part of a unit.
template <class T>
QONNX_DEVICE void add_group(const Job& job, const char* parameters, const char* of_rows,
                            Sum<T> (&sum)[T::tiles][T::token_tiles][4], float (&total)[T::tiles][T::token_tiles][4]) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int tile_bytes = T::warps_units * job.slots * T::parameter_bytes(job);
  const auto* numbers = reinterpret_cast<const float*>(of_rows) + 2 * t;
#pragma unroll
  for (int tile = 0; tile < T::tiles; ++tile) {
    const char* row = parameters + tile * tile_bytes;
    float scale[2], zero[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      scale[half] = parameter(row, g + 8 * half, job.halves);
      zero[half] = job.zeros ? parameter(row, kTile + g + 8 * half, job.halves) : job.zero;
    }
#pragma unroll
    for (int tokens = 0; tokens < T::token_tiles; ++tokens) {
      float2 step{1.0f, 1.0f}, x_sum{0.0f, 0.0f};
      if constexpr (T::integer) step = *reinterpret_cast<const float2*>(numbers + 8 * tokens);
      if (job.sums) x_sum = *reinterpret_cast<const float2*>(numbers + 8 * tokens + (T::integer ? T::tokens : 0));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float value = static_cast<float>(sum[tile][tokens][i]);
        if (job.sums) value = fmaf(-zero[i / 2], i % 2 ? x_sum.y : x_sum.x, value);
        if constexpr (T::integer) value *= i % 2 ? step.y : step.x;
        total[tile][tokens][i] = fmaf(scale[i / 2], value, total[tile][tokens][i]);
        sum[tile][tokens][i] = 0;
      }
    }
  }
}

// One unit of this warp: `stage` holds it as the `depth`-th of its units, `books` what the weight has put there.
template <class T, class Codes>
QONNX_DEVICE void multiply_unit(const Job& job, const typename Codes::Values& values, const char* books,
                                const char* stage, int unit, int warp_row, int depth,
                                float (&total)[T::tiles][T::token_tiles][4]) {
  const int first_tile = warp_row * T::tiles, unit_bytes = T::unit_code_bytes(job);
  Codes codes[T::tiles];
#pragma unroll
  for (int tile = 0; tile < T::tiles; ++tile)
    codes[tile].load(stage + ((first_tile + tile) * T::warps_units + depth) * unit_bytes);
  const int parameter_bytes = T::parameter_bytes(job), token_bytes = T::token_bytes(job);
  const char* parameters =
      stage + T::parameters_at(job) + (first_tile * T::warps_units + depth) * job.slots * parameter_bytes;
  const char* of_rows = stage + T::tokens_at(job) + depth * job.slots * token_bytes;
  const char* x = stage + T::x_at(job);

  constexpr int kAtOnce = Codes::steps_at_once;
  Sum<T> sum[T::tiles][T::token_tiles][4] = {};
  uint32_t b[kAtOnce][T::token_tiles][2], next[2] = {};
  int left = job.group_steps - unit * T::steps % job.group_steps;
#pragma unroll
  for (int step = 0; step < T::steps; step += kAtOnce) {
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) load_x<T>(x, depth, step + i, b[i], next);
    Codes::fragments(codes, step, values, books, [&](int tile, int i, const uint32_t(&a)[4]) {
#pragma unroll
      for (int tokens = 0; tokens < T::token_tiles; ++tokens) {
        auto& d = sum[tile][tokens];
        if constexpr (T::integer) multiply_int8(d, a, b[i][tokens][0], b[i][tokens][1]);
        else if constexpr (T::math == Math::float16) multiply_float16(d, a, b[i][tokens][0], b[i][tokens][1]);
        else multiply_bfloat16(d, a, b[i][tokens][0], b[i][tokens][1]);
      }
    });
    left -= kAtOnce;
    if (left == 0 || step + kAtOnce == T::steps) {
      add_group<T>(job, parameters, of_rows, sum, total);
      parameters += parameter_bytes;
      of_rows += token_bytes;
      left = job.group_steps;
    }
  }
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
__global__ void __launch_bounds__(T::threads, 1) product_kernel(const Job job, const typename Codes::Values values) {
  QONNX_SHARED(books);
  Codes::set_up(values, books, T::threads);  // the barrier of the first round stands before its use
  char* shared = books + Codes::shared_bytes(values);
  const int warp = threadIdx.x / 32, warp_row = warp % T::warps_rows, depth = warp / T::warps_rows;
  const int token = blockIdx.x * T::tokens, tile = blockIdx.y * T::block_tiles;
  const int first = blockIdx.z * job.units_per_split;
  const int end = first + job.units_per_split < job.units ? first + job.units_per_split : job.units;
  const int rounds = (end - first + T::warps_units - 1) / T::warps_units, stage_bytes = T::stage_bytes(job);
  float total[T::tiles][T::token_tiles][4] = {};

#pragma unroll
  for (int s = 0; s < T::stages - 1; ++s) {
    if (s < rounds) copy_stage<T, Codes>(job, shared + s * stage_bytes, tile, token, first + s * T::warps_units, end);
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
      copy_stage<T, Codes>(job, shared + ahead % T::stages * stage_bytes, tile, token, first + ahead * T::warps_units,
                           end);
    copy_commit();
    const int unit = first + round * T::warps_units + depth;
    if (unit < end)
      multiply_unit<T, Codes>(job, values, books, shared + round % T::stages * stage_bytes, unit, warp_row, depth,
                              total);
  }
  copy_wait<0>();
#if !FAULT(product_last_barrier)
  __syncthreads();  // before sums take the place of the stages
#endif
  store<T>(job, shared, token, total);
}

template <class T, class Codes>
Failure launch_tile(const char* what, const Job& job, const typename Codes::Values& values, int splits,
                    Stream stream) {
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
