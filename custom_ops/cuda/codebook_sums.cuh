// Code-book products of one or two rows of x by sums: for every vector of columns, what x times each entry of a book is,
// in shared memory; then an index of a weight costs one read of four bytes a row of x, in the place of a vector.
//
// A slab is what 16 rows of a weight hold of one book in 64 neighbouring bytes (codebook_pack.h): indices of four vectors
// of columns. A block of threads takes a run of slabs for many outputs. For each slab its threads make 4 · levels sums,
// then each reads 16 indices at once: four rows, four vectors. Sums of an entry stand side by side as often as there are
// lanes that could meet in a bank; an entry's row of 256 bytes makes its address one permutation of bytes.
#pragma once

#include "codebook_pack.h"
#include "columns.cuh"
#include "epilogue.cuh"

namespace qonnx::cuda {

struct SumsJob {
  Job product;
  CodebookValues values;
  int tiles_of_block, slabs, slabs_of_block;
  Divisor segments, group_units;  // slabs of a unit, units of a group
  int rows, pitch;  // of x; of the partial sums
};

// `slice_bytes`: of an entry's sums for one vector of columns, 128 or 64; only the first never meets a bank twice.
template <int vector_, Math math_, int tokens_, int slice_bytes_>
struct SumsShape {
  static constexpr Math math = math_;
  static constexpr bool integer = math == Math::int8;
  static constexpr int vector = vector_, tokens = tokens_, slice_bytes = slice_bytes_, size = bytes_of(math);
  static constexpr int threads = kSumsThreads, passes = kSumsPasses / tokens;
  static constexpr int blocks = 16 / vector;  // slabs of a book in a unit
  static constexpr int slices = 4, of_row = 256 / slice_bytes, plane_bytes = 256 * 256;
  static constexpr int table_bytes = slices / of_row * plane_bytes, x_bytes = 4 * tokens * slices * vector;
  static constexpr int piece_bytes = vector * size < 16 ? vector * size : 16, words = piece_bytes / 4;
  static constexpr int pieces = vector * size / piece_bytes, piece_numbers = piece_bytes / size;
  using Sum = std::conditional_t<integer, int32_t, float>;
};

// x of a slab as [row of x][vector of columns][number].
template <class S>
QONNX_DEVICE void fetch_x(const SumsJob& job, int unit, int block, typename S::Sum* x) {
  const int i = threadIdx.x;
  if (i >= S::tokens * S::slices * S::vector) return;
  const int m = i / (S::slices * S::vector), place = i / S::vector % S::slices * 16 + block * S::vector + i % S::vector;
  typename S::Sum sum = 0;
  if (m < job.rows) {
    const int padded = job.product.units * kUnit, at = unit * kUnit + order_of<S::math>(true, place);
#pragma unroll 1
    for (int plane = m; plane < job.product.rows; plane += job.rows) {
      const size_t number = static_cast<size_t>(plane) * padded + at;
      if constexpr (S::integer) sum += reinterpret_cast<const int8_t*>(job.product.x)[number];
      else sum += load_number<S::math == Math::float16 ? Element::float16 : Element::bfloat16>(job.product.x, number);
    }
  }
  x[i] = sum;
}

// sum[m] += x · entry for the vector of columns `slice`.
template <class S>
QONNX_DEVICE void multiply_entry(const SumsJob& job, int book, int level, int slice, const typename S::Sum* x,
                                 typename S::Sum (&sum)[S::tokens]) {
#pragma unroll 1
  for (int plane = 0; plane < job.values.planes; ++plane)
#pragma unroll
    for (int piece = 0; piece < S::pieces; ++piece) {
      const size_t at = ((static_cast<size_t>(book) * job.values.planes + plane) * S::pieces + piece) * job.values.levels;
      const char* entry = job.values.tables + (at + level) * S::piece_bytes;
      uint32_t word[S::words];
      if constexpr (S::words == 4) {
        const uint4 four = *reinterpret_cast<const uint4*>(entry);
        word[0] = four.x, word[1] = four.y, word[2] = four.z, word[3] = four.w;
      } else {
        const uint2 two = *reinterpret_cast<const uint2*>(entry);
        word[0] = two.x, word[1] = two.y;
      }
#pragma unroll
      for (int i = 0; i < S::piece_numbers; ++i) {
        const uint32_t bits = word[i * S::size / 4] >> 8 * (i * S::size % 4);
        typename S::Sum number;
        if constexpr (S::integer) number = static_cast<int8_t>(bits);
        else if constexpr (S::math == Math::float16) number = float_of_half(static_cast<uint16_t>(bits));
        else number = bits_as_float(bits << 16);
#pragma unroll
        for (int m = 0; m < S::tokens; ++m)
          sum[m] += x[(m * S::slices + slice) * S::vector + piece * S::piece_numbers + i] * number;
      }
    }
}

// The sums of a slab: thread 4 · level + slice makes those of a level, at all their places.
template <class S>
QONNX_DEVICE void make_sums(const SumsJob& job, int book, const typename S::Sum* x, char* table) {
  for (int i = threadIdx.x; i < S::slices * job.values.levels; i += S::threads) {
    const int slice = i % S::slices, level = i / S::slices;
    typename S::Sum sum[S::tokens] = {};
    multiply_entry<S>(job, book, level, slice, x, sum);
    const auto bits = [&](int m) {
      if constexpr (S::integer) return static_cast<uint32_t>(sum[m]);
      else return float_as_bits(sum[m]);
    };
    const uint4 piece{bits(0), bits(1 % S::tokens), bits(0), bits(1 % S::tokens)};
    char* row = table + slice / S::of_row * S::plane_bytes + level * 256 + slice % S::of_row * S::slice_bytes;
    constexpr int kPieces = S::slice_bytes / 16;  // eight lanes write to different banks
    const int first = (kPieces == 8 ? i : 2 * level + slice / 2) % kPieces * 16;
#pragma unroll
    for (int q = 0; q < kPieces; ++q) *reinterpret_cast<uint4*>(row + (first ^ 16 * q)) = piece;
  }
}

// Sums of the four rows of a tile that this thread holds: 2c, 2c + 8, 2c + 1, 2c + 9 of c = lane % 4.
template <class S>
QONNX_DEVICE void look_up_sums(const char* table, const uint4& indices, typename S::Sum (&sum)[S::tokens][4]) {
  constexpr int kCopies = S::slice_bytes / 4 / S::tokens;
  const uint32_t copy = threadIdx.x % kCopies * 4 * S::tokens;
  const uint32_t words[4] = {indices.x, indices.y, indices.z, indices.w};
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const int slice = i / 2 % S::slices, row = i / 8 * 2 + i % 2;
    const uint32_t offset = permute_bytes(words[i / 4], copy, 0x5504 | i % 4 << 4);  // copy + 256 · index
    const char* from = table + slice / S::of_row * S::plane_bytes + slice % S::of_row * S::slice_bytes + offset;
    if constexpr (S::tokens == 1) {
      sum[0][row] += *reinterpret_cast<const typename S::Sum*>(from);
    } else {
      const uint2 two = *reinterpret_cast<const uint2*>(from);
      if constexpr (S::integer) {
        sum[0][row] += static_cast<int32_t>(two.x), sum[1][row] += static_cast<int32_t>(two.y);
      } else {
        sum[0][row] += bits_as_float(two.x), sum[1][row] += bits_as_float(two.y);
      }
    }
  }
}

// scale · sum at the end of a group into this block's partial sums, and sum = 0.
template <class S>
QONNX_DEVICE void add_slabs(const SumsJob& job, int tile, int group, bool first, typename S::Sum (&sum)[S::tokens][4]) {
  const int c = threadIdx.x % 4;
  const size_t pairs = (static_cast<size_t>(tile) * job.product.groups + group) * 4 + c;
  float scale[4];
  if (job.product.halves) {
    const uint2 four = reinterpret_cast<const uint2*>(job.product.parameters)[pairs];
    scale[0] = float_of_half(static_cast<uint16_t>(four.x)), scale[1] = float_of_half(static_cast<uint16_t>(four.x >> 16));
    scale[2] = float_of_half(static_cast<uint16_t>(four.y)), scale[3] = float_of_half(static_cast<uint16_t>(four.y >> 16));
  } else {
    const float4 four = reinterpret_cast<const float4*>(job.product.parameters)[pairs];
    scale[0] = four.x, scale[1] = four.y, scale[2] = four.z, scale[3] = four.w;
  }
#pragma unroll
  for (int m = 0; m < S::tokens; ++m) {
    if (m >= job.rows) break;
    const float step = S::integer ? job.product.scales[static_cast<size_t>(group) * job.product.stride + m] : 1.0f;
    float* to = job.product.partials + (static_cast<size_t>(blockIdx.x) * job.rows + m) * job.pitch + tile * kTile + 2 * c;
    auto* upper = reinterpret_cast<float2*>(to);
    auto* lower = reinterpret_cast<float2*>(to + 8);
    const float2 none{0.0f, 0.0f}, above = first ? none : *upper, below = first ? none : *lower;
    const auto scaled = [&](int i) { return S::integer ? step * static_cast<float>(sum[m][i]) : sum[m][i]; };
    *upper = {fmaf(scale[0], scaled(0), above.x), fmaf(scale[2], scaled(2), above.y)};
    *lower = {fmaf(scale[1], scaled(1), below.x), fmaf(scale[3], scaled(3), below.y)};
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[m][i] = 0;
  }
}

// blockIdx: run of slabs, run of tiles.
template <class S>
QONNX_DEVICE void sums_block(const SumsJob& job) {
  QONNX_SHARED(table);
  auto* x = reinterpret_cast<typename S::Sum*>(table + S::table_bytes);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int of_block = blockIdx.y * job.tiles_of_block, all = job.product.tiles;
  const int last_tile = of_block + job.tiles_of_block < all ? of_block + job.tiles_of_block : all;
  const int first_tile = of_block + warp * 8 + lane / 4;
  const size_t tile_bytes = static_cast<size_t>(job.product.units) * job.product.unit_bytes;
  const char* codes = job.product.codes + first_tile * tile_bytes + lane % 4 * 16;
  const size_t pass_bytes = S::threads / 4 * tile_bytes;
  const int mine = (last_tile - first_tile + S::threads / 4 - 1) / (S::threads / 4);  // passes of this thread
  const int begin = blockIdx.x * job.slabs_of_block;
  const int end = begin + job.slabs_of_block < job.slabs ? begin + job.slabs_of_block : job.slabs;
  typename S::Sum sum[S::passes][S::tokens][4] = {};
  bool first = true;
#pragma unroll 1
  for (int slab = begin; slab < end; ++slab) {
    const int unit = quotient(slab, job.segments), segment = slab - unit * static_cast<int>(job.segments.divisor);
    const int book = segment / S::blocks, group = quotient(unit, job.group_units);
    const char* from = codes + (unit * job.product.unit_bytes + segment * 64);
    uint4 indices[S::passes];
#pragma unroll
    for (int pass = 0; pass < S::passes; ++pass) {
      if (pass < mine) indices[pass] = *reinterpret_cast<const uint4*>(from);
      from += pass_bytes;
    }
    fetch_x<S>(job, unit, segment % S::blocks, x);
#if !FAULT(sums_reuse_barrier)
    __syncthreads();  // x is here, and nobody reads the sums of the slab before
#endif
    make_sums<S>(job, book, x, table);
#if !FAULT(sums_table_barrier)
    __syncthreads();
#endif
    const bool more = slab + 1 < end && quotient(quotient(slab + 1, job.segments), job.group_units) == group;
#pragma unroll
    for (int pass = 0; pass < S::passes; ++pass) {
      if (pass >= mine) break;
      look_up_sums<S>(table, indices[pass], sum[pass]);
      if (!more) add_slabs<S>(job, first_tile + pass * (S::threads / 4), group, first, sum[pass]);
    }
    if (!more) first = false;
  }
}

template <class S>
__global__ void __launch_bounds__(S::threads, 1) sums_kernel(const SumsJob job) {
  sums_block<S>(job);
}

template <class S>
Failure launch_sums(const SumsJob& job, int runs_of_tiles, Stream stream) {
  const dim3 blocks{static_cast<unsigned>((job.slabs + job.slabs_of_block - 1) / job.slabs_of_block),
                    static_cast<unsigned>(runs_of_tiles)};
  return launch("code-book matrix product by sums", sums_kernel<S>, blocks, dim3{S::threads}, S::table_bytes + S::x_bytes,
                stream, job);
}

template <Math math>
Failure run_codebook_sums(const CodebookPack& pack, const char* tables, const Plan& plan, const Job& product,
                          const Device& device, Stream stream) {
  const Weight& weight = pack.weight;
  SumsJob job{product, pack.values};
  job.values.tables = tables;
  job.segments = divisor_of(weight.segments);
  job.slabs = weight.units * weight.segments;
  job.slabs_of_block = plan.units_per_split;
  job.group_units = divisor_of(weight.columns.padded_group / kUnit);
  job.rows = plan.rows / plan.planes;
  job.pitch = weight.tiles * kTile;
  const int runs = runs_of_tiles(weight.tiles, job.rows);
  job.tiles_of_block = (weight.tiles + runs - 1) / runs;
  const auto run = [&]<int vector>() -> Failure {
    const auto of = [&]<int tokens>() {
      using Whole = SumsShape<vector, math, tokens, 128>;
      if (device.shared_bytes >= Whole::table_bytes + Whole::x_bytes) return launch_sums<Whole>(job, runs, stream);
      return launch_sums<SumsShape<vector, math, tokens, 64>>(job, runs, stream);
    };
    return job.rows == 1 ? of.template operator()<1>() : of.template operator()<2>();
  };
#if defined(QONNX_FOUR_BITS)  // tests that build the kernels many times look at one format
  return run.template operator()<8>();
#else
  switch (pack.padded_vector) {
    case 4:
      if constexpr (math != Math::int8) return run.template operator()<4>();
      [[fallthrough]];
    case 8: return run.template operator()<8>();
    default: return run.template operator()<16>();
  }
#endif
}

}  // namespace qonnx::cuda
