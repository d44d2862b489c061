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

// Where the 16-byte pieces of codes and of x that this thread copies lie, from the block's first tile and row on, in unit
// 0; found once. Negative: outside.
template <class T, class Codes>
struct Pieces {
  static constexpr int turns(int pieces) { return (pieces + T::threads - 1) / T::threads; }
  static constexpr int of_tile = T::warps_units * Codes::bytes / 16;  // 0: known only to the job
  static constexpr int codes = turns(T::block_tiles * of_tile), rows = turns(T::tokens * T::row_pieces);
  int code[codes > 0 ? codes : 1], row[rows];

  QONNX_DEVICE_MEMBER Pieces(const Job& job, int tile, [[maybe_unused]] int token) {
    if constexpr (of_tile != 0) {
#pragma unroll
      for (int turn = 0; turn < codes; ++turn) {
        const int i = turn * T::threads + static_cast<int>(threadIdx.x), t = i / of_tile;
        const bool inside = t < T::block_tiles && tile + t < job.tiles;
        code[turn] = inside ? t * (job.units * Codes::bytes) + i % of_tile * 16 : -16;
      }
    }
#pragma unroll
    for (int turn = 0; turn < rows; ++turn) {
      const int i = turn * T::threads + static_cast<int>(threadIdx.x), r = i / T::row_pieces;
#if FAULT(product_token_guard)
      const bool inside = r < T::tokens;
#else
      const bool inside = r < T::tokens && token + r < job.rows;
#endif
      row[turn] = inside ? r * (job.units * T::unit_bytes) + i % T::row_pieces * 16 : -16;
    }
  }
};

// What follows copies the units unit … of a stage, as far as they lie before `end`; zeros for the others.
template <class T, class Codes>
QONNX_DEVICE void copy_codes(const Job& job, const Pieces<T, Codes>& pieces, char* stage, int tile, int unit, int end) {
  const int unit_bytes = T::unit_code_bytes(job), valid_bytes = (end - unit) * unit_bytes;
  const char* from = job.codes + (static_cast<size_t>(tile) * job.units + unit) * unit_bytes;
  if constexpr (Codes::bytes != 0) {
    constexpr int kOfTile = Pieces<T, Codes>::of_tile, kAll = T::block_tiles * kOfTile;
#pragma unroll
    for (int turn = 0; turn < Pieces<T, Codes>::codes; ++turn) {  // the units of a tile follow each other
      const int i = turn * T::threads + static_cast<int>(threadIdx.x);
      if (kAll % T::threads && i >= kAll) break;
      const bool before = T::warps_units == 1 || i % kOfTile * 16 < valid_bytes;
      copy_async(stage + i * 16, from + pieces.code[turn], pieces.code[turn] >= 0 && before);
    }
  } else {
    const int of_tile = static_cast<int>(job.code_pieces.divisor);
#pragma unroll 1
    for (int i = threadIdx.x; i < T::block_tiles * of_tile; i += T::threads) {
      const int t = quotient(i, job.code_pieces), byte = (i - t * of_tile) * 16;
      const size_t of = static_cast<size_t>(t) * (job.units * unit_bytes);
      copy_async(stage + i * 16, from + of + byte, tile + t < job.tiles && byte < valid_bytes);
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

template <class T, class Codes>
QONNX_DEVICE void copy_x(const Job& job, const Pieces<T, Codes>& pieces, char* to, int token, int unit, int end) {
  const char* from = job.x + (static_cast<size_t>(token) * job.units + unit) * T::unit_bytes;
  constexpr int kAll = T::tokens * T::row_pieces;
#pragma unroll
  for (int turn = 0; turn < Pieces<T, Codes>::rows; ++turn) {
    const int i = turn * T::threads + static_cast<int>(threadIdx.x), row = i / T::row_pieces, piece = i % T::row_pieces;
    if (kAll % T::threads && i >= kAll) break;
    const bool before = T::warps_units == 1 || unit + piece / T::unit_pieces < end;
    copy_async(to + (row * T::row_pieces + exchanged<T>(row, piece)) * 16, from + pieces.row[turn],
               pieces.row[turn] >= 0 && before);
  }
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
QONNX_DEVICE void copy_stage(const Job& job, const Pieces<T, Codes>& pieces, char* stage, int tile, int token, int unit,
                             int end) {
  copy_codes<T, Codes>(job, pieces, stage, tile, unit, end);
  copy_parameters<T>(job, stage + T::parameters_at(job), tile, unit, end);
  copy_x<T, Codes>(job, pieces, stage + T::x_at(job), token, unit, end);
  if (T::integer || job.sums) copy_of_rows<T>(job, stage + T::tokens_at(job), token, unit, end);
}

}  // namespace qonnx::cuda
