// Matrix products with packed weights on the GPU: what launchers take, and where the regime is chosen.
//
//   y[m, n] = factor · Σ_g scale[n, g] · Σ_k x[m, k] · (value[n, k] − zero[n, g]) + bias[n]
//
// Weights lie in tiles of 16 rows by units of 64 columns; how a unit's codes lie is the weight's matter (lowbit_pack.h,
// codebook_pack.h). A unit is the A operand of tensor-core steps of 16 columns (float16, bfloat16) or 32 (int8), the rows
// of x are the B operand: so 8 rows of x cost what one costs, and codes become numbers in registers.
#pragma once

#include <vector>

#include "divisor.h"
#include "types.h"

namespace qonnx::cuda {

constexpr int kTile = 16, kUnit = 64;  // rows and columns of a unit

// The numbers that the tensor cores multiply.
enum class Math : int { float16, bfloat16, int8 };
constexpr int step_of(Math math) { return math == Math::int8 ? 32 : 16; }  // columns of an mma.sync
constexpr int bytes_of(Math math) { return math == Math::int8 ? 1 : 2; }

// Where columns go among the padded ones. Group g holds the vectors that touch columns g · group …; a vector is
// `vector` columns (code books; else 1) in padded_vector places. What lies between, and columns of a neighbouring group
// in a vector that both touch, meets zeros of x. In an interleaved unit thread t of four owns places 16t … 16t + 15, and
// x is written in the order in which the tensor-core steps take them.
struct Columns {
  int columns, group, padded_group, vector, padded_vector;
  bool interleaved;
};

// A weight in device memory.
struct Weight {
  Math math;
  const char* codes;       // [tiles, units, unit_bytes]
  // [tiles, groups, 1 or 2, 8, 2]: scale, then zero where `zeros`, of rows 0 and 8, 1 and 9, … 7 and 15 of a tile, the
  // pair that a thread holds; float16 where `halves`
  const char* parameters;
  bool halves, zeros;
  float zero;  // of all groups, where not `zeros`
  int rows, tiles, units, unit_bytes, groups;
  Columns columns;
  bool codebooks;
  int segments;  // slabs of a unit (codebook_sums.cuh); 0: none
  float factor;

  int group_steps() const { return columns.padded_group / step_of(math); }
  // The most groups that one unit touches.
  int slots() const {
    const int group = columns.padded_group;
    if (group % kUnit == 0) return 1;
    return kUnit % group == 0 ? kUnit / group : (kUnit - 2) / group + 2;
  }
  bool sums() const { return zeros || zero != 0; }  // whether sums of x are needed
};

// A weight in the host's memory, packed: the caller puts both arrays into device memory.
struct Pack {
  Weight weight;
  std::vector<char> codes, parameters;
};

// What the GPU is, as far as the choice of a regime goes.
struct Device {
  int processors;        // streaming multiprocessors
  size_t shared_bytes;   // the most that a block may have
};

// What a block of threads of a regime computes, and how many blocks a processor should have at least.
struct TileShape {
  int outputs, tokens, depth, blocks;  // depth: units that its warps take side by side
};
enum class Regime : int { few, some, many, lean, sums };
// Blocks of code-book products copy the books into shared memory first, so they are larger and fewer; indices of more
// than four bits a number take a lean tile at any number of rows.
constexpr int kLeanUnit = kTile * kUnit / 2;  // bytes
// Sums of x with every entry of a book (codebook_sums.cuh): threads of a block, tiles that a thread holds at most, and
// what makes the sums worth their making: outputs that read them.
constexpr int kSumsThreads = 512, kSumsPasses = 8, kSumsRows = 2, kSumsTiles = 128;
constexpr size_t kSumsShared = 66 << 10;
constexpr int runs_of_tiles(int tiles, int rows) {
  const int most = kSumsThreads / 4 * (kSumsPasses / rows);
  return (tiles + most - 1) / most;
}
constexpr TileShape kLowBitTiles[] = {{64, 8, 4, 2}, {64, 16, 4, 2}, {128, 64, 1, 2}};
constexpr TileShape kCodebookTiles[] = {{128, 8, 4, 1}, {128, 16, 4, 1}, {128, 64, 2, 1}, {32, 16, 2, 2}};
constexpr const TileShape& shape_of(bool codebooks, Regime regime) {
  return (codebooks ? kCodebookTiles : kLowBitTiles)[static_cast<int>(regime)];
}

// x as the kernels read it, and the sums before they are added up. All in the workspace.
struct Plan {
  Regime regime;
  int planes;           // float32 is three bfloat16 numbers, each plane a row of its own
  int rows;             // of x times planes
  int stride;           // rows rounded up to 4
  int splits, units_per_split;  // of sums: slabs
  size_t x, scales, sums, partials, down, bytes;  // offsets in the workspace, and its size
  bool partial() const { return regime == Regime::sums || splits * planes > 1; }
};

// The only place where shapes and devices decide how a product is computed.
Plan plan_of(const Weight& weight, Element element, int64_t rows, const Device& device, int rank = 0);

// Static quantization: code = clip(round(x / scale) + zero_point, minimum, maximum).
struct StaticGrid {
  float scale;
  int zero_point, minimum, maximum;
};

// A low-rank branch, y += (x · a) · b in float32.
struct LowRank {
  const float* a;  // [columns, rank]
  const float* b;  // [rank, outputs]
  int rank;        // 0: none
};

// From a sum to a number of y: factor · (sum + offset · offsets[n]) + bias[n] + the branch, as codes where `codes`.
struct Epilogue {
  void* y;
  Element element;
  const float* bias;  // [outputs], or null
  float factor;
  const float* offsets;  // [outputs], or null
  float offset;
  const float *down, *up;  // [rows, rank], [rank, outputs], or null
  int rank;
  StaticGrid grid;  // of y, where its element is a code
  int outputs;
};

struct Product {
  const void* x;  // [rows, columns] of `element`
  void* y;        // [rows, weight.rows] of `y_element`
  Element element, y_element;
  int64_t rows;
  const float* bias;  // [weight.rows], or null
  char* workspace;    // plan.bytes, aligned to 256 bytes
  LowRank branch;

  // Static quantization of x, where `fixed` (the math is int8 then): x is codes, or becomes codes of this grid.
  bool fixed;
  StaticGrid grid, y_grid;
  const float* offsets;  // Σ_k scale · (value − zero) of each output, or null where x's zero point asks for none
};

// Codes of a static grid as signed bytes: minus this.
constexpr int shift_of(Element element, const StaticGrid& grid) {
  if (is_code(element)) return element == Element::uint8 ? 128 : 0;
  return grid.maximum > 127 ? 128 : 0;
}

// One launch of the kernel of product_tile.cuh.
struct Job {
  const char *codes, *parameters;
  int tiles, units, unit_bytes, groups;
  Divisor group_steps, slots;
  Divisor code_pieces, parameter_pieces;  // of 16 bytes: of a tile in a stage, of a unit
  bool halves, zeros;
  float zero;
  const char* x;  // [planes · rows, padded columns] in the workspace, or the product's own
  int rows, stride;
  const float *scales, *sums;  // [groups, stride], [units · slots, stride], or null
  int units_per_split;
  float* partials;  // [splits, rows, outputs], or null: then y is written
  Epilogue epilogue;
};

Job job_of(const Weight& weight, const Plan& plan, const Product& product);
// Before and after the tiles: x, its sums and its low-rank factor into the workspace; partial sums into y.
Failure prepare(const Weight& weight, const Plan& plan, const Product& product, Stream stream);
Failure finish(const Weight& weight, const Plan& plan, const Product& product, Stream stream);

}  // namespace qonnx::cuda
