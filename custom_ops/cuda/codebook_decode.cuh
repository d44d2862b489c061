// Indices of code books to A operands of the tensor cores: one read of a table gives a thread its numbers of one or two
// steps. The layout of indices and tables is in codebook_pack.h.
#pragma once

#include "codebook_pack.h"
#include "numbers.cuh"

namespace qonnx::cuda {

// `vector_`: numbers of a padded vector.
template <int vector_, Math math_>
struct CodebookCodes {
  static constexpr Math math = math_;
  static constexpr int vector = vector_, bytes = 0;  // of a unit: known only to the job
  static constexpr bool multiplied_once = false;
  using Values = CodebookValues;

  static constexpr int size = bytes_of(math), owned = 16, per_step = 8 / size;  // numbers of a thread in a row
  static constexpr int piece_bytes = vector * size < 16 ? vector * size : 16, piece_numbers = piece_bytes / size;
  static constexpr int pieces = vector / piece_numbers, words = piece_bytes / 4;
  static constexpr int steps_at_once = piece_bytes / 8 > 1 ? piece_bytes / 8 : 1;
  static constexpr int per = per_step / vector > 1 ? per_step / vector : 1;  // vectors of a step
  static constexpr int blocks = owned / vector / per;                        // of indices in a unit

  const char* unit;
  QONNX_DEVICE_MEMBER void load(const char* stored) { unit = stored; }

  QONNX_BOTH static int shared_bytes(const Values& values) { return values.shared_bytes; }

  // Copies of the tables into shared memory, by all threads of the block.
  QONNX_DEVICE_MEMBER static void set_up(const Values& values, char* books, int threads) {
    const int log2 = values.copies_log2, count = values.shared_bytes / piece_bytes;
    for (int i = threadIdx.x; i < count; i += threads) {
      const char* from = values.tables + static_cast<size_t>(i >> log2) * piece_bytes;
      char* to = books + static_cast<size_t>(i) * piece_bytes;
      if constexpr (words == 4) *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
      else if constexpr (words == 2) *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(from);
      else *reinterpret_cast<uint32_t*>(to) = *reinterpret_cast<const uint32_t*>(from);
    }
  }

  // Of the rows g and g + 8, for each vector of the step in turn.
  template <bool wide>
  QONNX_DEVICE_MEMBER void read_indices(int book, int block, uint32_t (&index)[2 * per]) const {
    const int at = (book * blocks + block) * 32 + threadIdx.x % 32;
    if constexpr (wide) {
      uint32_t packed[per];
      if constexpr (per == 1) {
        packed[0] = reinterpret_cast<const uint32_t*>(unit)[at];
      } else {
        const uint2 pair = reinterpret_cast<const uint2*>(unit)[at];
        packed[0] = pair.x, packed[1] = pair.y;
      }
#pragma unroll
      for (int i = 0; i < per; ++i) index[2 * i] = packed[i] & 0xffff, index[2 * i + 1] = packed[i] >> 16;
    } else if constexpr (per == 1) {
      const uint32_t two = reinterpret_cast<const uint16_t*>(unit)[at];
      index[0] = two & 0xff, index[1] = two >> 8;
    } else {
      const uint32_t four = reinterpret_cast<const uint32_t*>(unit)[at];
#pragma unroll
      for (int i = 0; i < 4; ++i) index[i] = four >> 8 * i & 0xff;
    }
#if FAULT(codebook_swapped_rows)
    const uint32_t first = index[0];
    index[0] = index[1], index[1] = first;
#endif
  }

  QONNX_DEVICE_MEMBER static void read_piece(const Values& values, const char* books, uint32_t offset,
                                             uint32_t (&word)[words]) {
    if (values.shared_bytes) {
      const char* from = books + offset;
      if constexpr (words == 4) {
        const uint4 piece = *reinterpret_cast<const uint4*>(from);
        word[0] = piece.x, word[1] = piece.y, word[2] = piece.z, word[3] = piece.w;
      } else if constexpr (words == 2) {
        const uint2 piece = *reinterpret_cast<const uint2*>(from);
        word[0] = piece.x, word[1] = piece.y;
      } else {
        word[0] = *reinterpret_cast<const uint32_t*>(from);
      }
    } else {
      load_past_l1(values.tables + offset, word);
    }
  }

  // Numbers of two books; bytes are biased so that none carries (codebook_pack.h).
  QONNX_DEVICE_MEMBER static uint32_t added(uint32_t a, uint32_t b) {
    if constexpr (math == Math::int8) return a + b;
    else if constexpr (math == Math::float16) return fma_float16x2(a, 0x3c003c00, b);
    else return b;  // they are one
  }

  // a += the pieces that begin at `first` of the vectors of rows g and g + 8 that `book` has at a place. Added to zeros,
  // pieces come into the registers that the tensor cores want by the addition, in the place of a move.
  template <int tiles, class A>
  QONNX_DEVICE_MEMBER static void add_pieces(const CodebookCodes (&codes)[tiles], int book, int block, uint32_t first,
                                             const Values& values, const char* books, A& a) {
    uint32_t index[tiles][2 * per];
    if (values.wide) {
#pragma unroll
      for (int tile = 0; tile < tiles; ++tile) codes[tile].template read_indices<true>(book, block, index[tile]);
    } else {
#pragma unroll
      for (int tile = 0; tile < tiles; ++tile) codes[tile].template read_indices<false>(book, block, index[tile]);
    }
#pragma unroll
    for (int tile = 0; tile < tiles; ++tile) {
      uint32_t word[2 * per][words];
#pragma unroll
      for (int i = 0; i < 2 * per; ++i) read_piece(values, books, first + index[tile][i] * values.stride, word[i]);
#pragma unroll
      for (int i = 0; i < steps_at_once; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          a[tile][i][j] = added(a[tile][i][j], per == 2 ? word[j][0] : word[j % 2][(2 * i + j / 2) % words]);
    }
  }

  // use(tile, i, a) for the operand of step + i of each tile, for each plane of books that are added up to one.
  template <int tiles, class Use>
  QONNX_DEVICE_MEMBER static void fragments(const CodebookCodes (&codes)[tiles], int step, const Values& values,
                                            const char* books, Use use) {
    const int block = step * per_step / (vector * per), piece = step * per_step % vector / piece_numbers;
    const uint32_t copy = (threadIdx.x & ((1u << values.copies_log2) - 1)) * piece_bytes;
    int book = 0, plane = 0;
#pragma unroll 1
    do {
      uint32_t a[tiles][steps_at_once][4] = {};
      int next = book;
#pragma unroll 1
      do {
        const int table = (next * values.planes + plane) * pieces + piece;
        add_pieces(codes, next, block, table * values.table_bytes + copy, values, books, a);
      } while (math != Math::bfloat16 && ++next < book + values.together);
#pragma unroll
      for (int tile = 0; tile < tiles; ++tile)
#pragma unroll
        for (int i = 0; i < steps_at_once; ++i) {
          if (math == Math::int8 && values.together > 1) {
#pragma unroll
            for (int j = 0; j < 4; ++j) a[tile][i][j] ^= 0x80808080;
          }
          use(tile, i, a[tile][i]);
        }
      if (++plane == values.planes) plane = 0, book += values.together;
    } while (book < values.books);
  }
};

}  // namespace qonnx::cuda
