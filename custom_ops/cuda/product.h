// Matrix products with packed weights on the GPU: what launchers take, and where the regime is chosen.
//
//   y[m, n] = factor · Σ_g scale[n, g] · Σ_k x[m, k] · (value[n, k] − zero[n, g]) + bias[n]
//
// Weights lie in tiles of 16 rows by units of 64 columns; how a unit's codes lie is the weight's matter (for low bits:
// lowbit_pack.h). A unit is the A operand of tensor-core steps of 16 columns (float16, bfloat16) or 32 (int8), the rows
// of x are the B operand: so 8 rows of x cost what one costs, and codes become numbers in registers.
#pragma once

#include "types.h"

namespace qonnx::cuda {

constexpr int kTile = 16, kUnit = 64;  // rows and columns of a unit

// The numbers that the tensor cores multiply.
enum class Math : int { float16, bfloat16, int8 };
constexpr int step_of(Math math) { return math == Math::int8 ? 32 : 16; }  // columns of an mma.sync
constexpr int bytes_of(Math math) { return math == Math::int8 ? 1 : 2; }

// A weight in device memory. Columns are numbered so that each group begins on a step: group g holds the columns
// g · padded_group …, of which the first `group` are real; then zeros up to whole units.
struct Weight {
  Math math;
  const char* codes;       // [tiles, units, bytes of a unit]
  const char* parameters;  // [tiles, groups, 1 or 2, 16]: scale, then zero where `zeros`; float16 where `halves`
  bool halves, zeros;
  float zero;  // of all groups, where not `zeros`
  int rows, columns, tiles, units, groups, group, padded_group;
  float factor;

  int group_steps() const { return padded_group / step_of(math); }
  // The most groups that one unit touches.
  int slots() const {
    if (padded_group % kUnit == 0) return 1;
    return kUnit % padded_group == 0 ? kUnit / padded_group : (kUnit - 2) / padded_group + 2;
  }
  bool sums() const { return zeros || zero != 0; }  // whether sums of x are needed
};

// What the GPU is, as far as the choice of a regime goes.
struct Device {
  int processors;        // streaming multiprocessors
  size_t shared_bytes;   // the most that a block may have
};

// x as the kernels read it, and the sums before they are added up. All in the workspace.
struct Plan {
  enum class Regime : int { few, some, many } regime;
  int planes;           // float32 is three bfloat16 numbers, each plane a row of its own
  int rows;             // of x times planes
  int stride;           // rows rounded up to 4
  int splits, units_per_split;
  size_t x, scales, sums, partials, bytes;  // offsets in the workspace, and its size
  bool partial() const { return splits * planes > 1; }
};

// The only place where shapes and devices decide how a product is computed.
Plan plan_of(const Weight& weight, Element element, int64_t rows, const Device& device);

struct Product {
  const void* x;  // [rows, columns] of `element`
  void* y;        // [rows, weight.rows] of `element`
  Element element;
  int64_t rows;
  const float* bias;  // [weight.rows], or null
  char* workspace;    // plan.bytes, aligned to 256 bytes
};

// One launch of the kernel of product_tile.cuh.
struct Job {
  const char *codes, *parameters;
  int tiles, units, groups, group_steps, slots;
  bool halves, zeros;
  float zero;
  const char* x;
  int rows, stride;
  const float *scales, *sums;  // [groups, stride], [units · slots, stride], or null
  int units_per_split;
  float* partials;  // [splits, rows, outputs], or null: then y is written
  void* y;
  Element element;
  const float* bias;
  float factor;
  int outputs;
};

Job job_of(const Weight& weight, const Plan& plan, const Product& product);
// Before and after the tiles: x and its sums into the workspace; partial sums into y.
Failure prepare(const Weight& weight, const Plan& plan, const Product& product, Stream stream);
Failure finish(const Weight& weight, const Plan& plan, const Product& product, Stream stream);

}  // namespace qonnx::cuda
