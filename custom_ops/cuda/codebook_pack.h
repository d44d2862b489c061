// Weights in code books from their portable layout into units of the GPU kernels, and books into tables.
//
// Vectors are padded to 2, 4, 8 or 16 numbers (int8: 4, 8 or 16). A unit is 16 rows by 64 places; thread t of the four
// that share a row owns places 16t … 16t + 15 of it, 16 / padded vectors, of rows g and g + 8. Its indices lie
//   [book][vectors / per][lane 32][per][row g, row g + 8]       bytes, or 16-bit words where `wide`
// with per = 2 where two vectors make one tensor-core step of a thread (4 numbers, int8: 8), else 1.
//
// Tables: [book][plane][piece][level][piece bytes]: pieces of at most 16 bytes of a vector, planes numbers of the
// operand's type that add up to the book's own (as in lowbit_pack.h). Books whose numbers are added up first are
// multiplied once:
//   float16, one plane: the sum is rounded to float16, as weights of a float16 model are. Books are scaled below 2^14, so
//   that four of them do not overflow.
//   int8, where no sum of entries leaves a signed byte: the tables are there a second time, for this, each number of
//   book b larger by a bias of the book and the place in a vector. The biases of all books add up to 128, all bytes and
//   their partial sums lie in 0 ... 255 and never carry, and what is 128 too much is a flipped bit.
// Else every plane of every book is multiplied by itself: float32 sums in the tensor core lose nothing.
#pragma once

#include "../formats/codes.h"
#include "product.h"

namespace qonnx::cuda {

// The arrays of a node, numbers as float32.
struct CodebookSource {
  int rows, columns, block;
  CodeLayout layout;
  int books, length;
  const uint8_t* codes;    // [rows, row bytes]: indices [columns / length][book]
  const float* codebooks;  // [books, levels, length]
  const float* scale;      // [rows, blocks]
};

struct CodebookValues {
  const char* tables;  // in global memory
  int books, planes, levels;
  int together;  // books that are added up before they are multiplied: all, or one
  bool wide;
  // In shared memory, when there: every piece so many times side by side (a power of two), so that the threads of a
  // warp read different banks.
  int shared_bytes, copies_log2;
  uint32_t stride, table_bytes;  // where they are read: from a piece to that of the next level, to the next table
};

struct CodebookPack : Pack {
  CodebookValues values;
  std::vector<char> tables;
  size_t biased;  // where those begin that are added up
  int padded_vector;
};

// Throws std::invalid_argument with a sentence when a book holds a number that is not finite.
CodebookPack pack_codebook(const CodebookSource& source, Math math);

Failure run_codebook(const CodebookPack& pack, const char* tables, const Weight& weight, const Plan& plan,
                     const Product& product, const Device& device, Stream stream);

}  // namespace qonnx::cuda
