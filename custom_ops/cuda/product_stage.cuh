// The stages of a product's tile: what lies in shared memory, and how it comes there.
//
// A stage:
//   codes        [tile][unit][bytes of a unit]
//   parameters   [tile][unit][slot][scale, zero][8][2]    slot: the groups that a unit touches
//   x            [row][unit · 64 columns], its 16-byte pieces exchanged so that ldmatrix meets no bank twice
//   of rows      [unit][slot][scale, sum][row]
// Before the stages lies what the weight wants there (Codes::shared_bytes): code books.
#pragma once

#include "numbers.cuh"
#include "product.h"

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
    const int parameters = block_tiles * warps_units * static_cast<int>(job.slots.divisor) * parameter_bytes(job);
    return (parameters_at(job) + parameters + 127) / 128 * 128;
  }
  QONNX_BOTH static int tokens_at(const Job& job) { return x_at(job) + x_bytes; }
  QONNX_BOTH static int stage_bytes(const Job& job) {
    return (tokens_at(job) + warps_units * static_cast<int>(job.slots.divisor) * token_bytes(job) + 127) / 128 * 128;
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

// use(i) for the numbers i below `total`, shared among the threads of a block; no loop is left of it.
template <int total, int threads, class Use>
QONNX_DEVICE void share(Use use) {
#pragma unroll
  for (int turn = 0; turn < (total + threads - 1) / threads; ++turn) {
    const int i = turn * threads + static_cast<int>(threadIdx.x);
    if ((turn + 1) * threads <= total || i < total) use(i);
  }
}

// What follows copies the units unit … of a stage, as far as they lie before `end`; zeros for the others.
template <class T, class Codes>
QONNX_DEVICE void copy_codes(const Job& job, char* stage, int tile, int unit, int end) {
  const int unit_bytes = T::unit_code_bytes(job), valid_bytes = (end - unit) * unit_bytes;
  const char* from = job.codes + (static_cast<size_t>(tile) * job.units + unit) * unit_bytes;
  const auto copy = [&](int i, int t, int byte) {  // the units of a tile follow each other
    const size_t of_tile = static_cast<size_t>(t) * (job.units * unit_bytes);
    copy_async(stage + i * 16, from + of_tile + byte, tile + t < job.tiles && byte < valid_bytes);
  };
  if constexpr (Codes::bytes != 0) {
    constexpr int kPieces = T::warps_units * Codes::bytes / 16;
    share<T::block_tiles * kPieces, T::threads>([&](int i) { copy(i, i / kPieces, i % kPieces * 16); });
  } else {
    const int pieces = static_cast<int>(job.code_pieces.divisor);
#pragma unroll 1
    for (int i = threadIdx.x; i < T::block_tiles * pieces; i += T::threads) {
      const int t = quotient(i, job.code_pieces);
      copy(i, t, (i - t * pieces) * 16);
    }
  }
}

template <class T>
QONNX_DEVICE void copy_parameters(const Job& job, char* to, int tile, int unit, int end) {
  const int row_bytes = T::parameter_bytes(job), pieces = static_cast<int>(job.parameter_pieces.divisor);
#pragma unroll 1  // it seldom turns twice
  for (int i = threadIdx.x; i < T::block_tiles * T::warps_units * pieces; i += T::threads) {
    const int place = quotient(i, job.parameter_pieces), byte = (i - place * pieces) * 16;
    const int t = tile + place / T::warps_units, u = unit + place % T::warps_units;
    const int group = quotient(u * T::steps, job.group_steps);
    const size_t from = (static_cast<size_t>(t) * job.groups + group) * row_bytes + byte;
    copy_async(to + i * 16, job.parameters + from,
               t < job.tiles && u < end && byte < (job.groups - group) * row_bytes);
  }
}

template <class T>
QONNX_DEVICE void copy_x(const Job& job, char* to, int token, int unit, int end) {
  const char* from = job.x + (static_cast<size_t>(token) * job.units + unit) * T::unit_bytes;
  share<T::tokens * T::row_pieces, T::threads>([&](int i) {
    const int row = i / T::row_pieces, piece = i % T::row_pieces;
#if FAULT(product_token_guard)
    const bool valid = unit + piece / T::unit_pieces < end;
#else
    const bool valid = token + row < job.rows && unit + piece / T::unit_pieces < end;
#endif
    copy_async(to + (row * T::row_pieces + exchanged<T>(row, piece)) * 16,
               from + static_cast<size_t>(row) * (job.units * T::unit_bytes) + piece * 16, valid);
  });
}

// Scales and sums of the rows of x.
template <class T>
QONNX_DEVICE void copy_of_rows(const Job& job, char* to, int token, int unit, int end) {
  constexpr int kPieces = T::tokens / 4;
  const int slot_bytes = T::token_bytes(job), slots = static_cast<int>(job.slots.divisor);
#pragma unroll 1  // it seldom turns twice
  for (int i = threadIdx.x; i < T::warps_units * slots * kPieces; i += T::threads) {
    const int place = i / kPieces, row = i % kPieces * 4, of_stage = quotient(place, job.slots);
    const int u = unit + of_stage, slot = place - of_stage * slots;
    char* at = to + place * slot_bytes + row * 4;
    const bool valid = u < end && token + row < job.rows;
    if constexpr (T::integer) {
      const int group = quotient(u * T::steps, job.group_steps) + slot;
      copy_async(at, job.scales + static_cast<size_t>(group) * job.stride + token + row, valid && group < job.groups);
      at += T::tokens * 4;
    }
    if (job.sums)
      copy_async(at, job.sums + (static_cast<size_t>(u) * slots + slot) * job.stride + token + row, valid);
  }
}

template <class T, class Codes>
QONNX_DEVICE void copy_stage(const Job& job, char* stage, int tile, int token, int unit, int end) {
  copy_codes<T, Codes>(job, stage, tile, unit, end);
  copy_parameters<T>(job, stage + T::parameters_at(job), tile, unit, end);
  copy_x<T>(job, stage + T::x_at(job), token, unit, end);
  if (T::integer || job.sums) copy_of_rows<T>(job, stage + T::tokens_at(job), token, unit, end);
}

}  // namespace qonnx::cuda
