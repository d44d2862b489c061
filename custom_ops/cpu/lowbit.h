// Low-bit matrix product: the packed weight, the quantized activations, and the table of kernels of a tier.
//
// A weight w[n, k] = scale[n, b] · (value(code[n, k]) − zero[n, b]), b = k / block. value is the code itself, or one of
// at most 16 table entries.
//
// Layout of the packed codes. Output rows go in panels of 32 (two tiles of 16, short ones padded). A block is cut into
// `parts` groups of at most 512 columns, so that a decoded group of a panel fits the L1 cache; each group is padded to
// whole units of 32:
//   codes  [panel][group][unit][bit lines][tile 2][row 16][4]      bytes; a unit of b-bit codes takes b lines of 2 × 64
//   scale  [panel][group][32]       float16 or float32;            zero the same, only when it differs between rows
// A line holds bits of eight steps of four k (step j: k = 4j … 4j+3), so that each step is a shift and a mask away:
//   four low bits   line j/2,  bits 4·(j mod 2) …    (where b has a 4 in it: 4, 5, 6, 7)
//   two next bits   line j/4,  bits 2·(j mod 4) …    (a 2 in it: 2, 3, 6, 7)
//   one top bit     bit j                            (a 1 in it: 1, 3, 5, 7)
//   eight bits      line j
// Ternary codes may go three to five bits, c = d0 + 3·d1 + 9·d2 of three successive steps. Units go by threes then: 24
// steps are 8 fives, whose low four bits take lines 0 to 3 (five i: line i/2, bits 4·(i mod 2) …) and whose top bits
// take line 4 (bit i): 1.67 bits a code. Of the units left over at the end of a group, two have 16 steps: 6 fives, their
// top bits in line 3; one has 8 steps: 3 fives in two lines, the low four bits of the last in bits 4 … of line 1.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace qonnx::cpu {

constexpr size_t kPanel = 32;       // output rows in a panel
constexpr size_t kTile = 16;        // output rows in a tile
constexpr size_t kUnit = 32;        // k in a unit
constexpr size_t kLargestGroup = 512;  // columns in a group: decoded, a panel's group takes 16 KB
constexpr size_t kLargestGroupOfPairs = 256;  // a sum of 16-bit codes by bytes of a weight stays inside int32
constexpr size_t kMaxTokens = 264;  // rows of X that one call of a panel kernel takes: a multiple of 6 and 8
constexpr size_t kPair = 64;        // output rows in a pair of panels

enum class Zero : int {
  integer,  // one whole number for all: goes into the start value of the integer sums
  number,   // one number for all
  rows,     // one for each row and group
};

// A weight in code books: w[n, j·length … (j+1)·length] = scale[n, b] · Σ_book vectors[book, index[n, j, book]].
//
// Rows of indices go in two panels at a time, 64 of them, so that one byte permutation looks all of them up. Row
// 16·u + 4·l + r lies at place 16·l + 4·u + r: interleaving the results of four look-ups within 128-bit lanes then
// leaves the rows in order.
struct Codebook {
  size_t length, books, levels;  // numbers in a vector; books that add up; vectors in a book
  bool wide;                     // indices are uint16, else uint8
  const void* index;             // [panel pair][j][book][place 64]
  const int8_t* bytes;           // [book][level][length], rounded to `factor` of the weight; 128 added to the first
  const float* values;           // the same in float32, nothing added
  // Of books of at most 256 vectors, for kernels that permute bytes; levels filled up to 256 with zeros:
  const uint8_t* by_element;  // `bytes` as [book][length][256]
  const int8_t* fours;        // rounded, nothing added, [book][level / 16][divided_up(length, 4)][16][4]
  const int32_t* offsets;     // −128 · Σ of a vector of `fours`, [book][256]
  const float* by_sixteen;    // values as [book][level / 16][length][16]

  size_t quads() const { return (length + 3) / 4; }
  static constexpr size_t place(size_t row) { return row / 4 % 4 * 16 + row / 16 * 4 + row % 4; }
};

struct LowBitWeight {
  size_t rows, columns, block;  // N, K; columns that share a scale
  size_t parts, group;          // groups in a block; columns of a group
  size_t groups, units;         // groups in a row; units of 32 in a group
  size_t panels;
  int bits;      // bits of the packed codes, 1 to 8
  bool triples;  // ternary codes go three to five bits (bits is 2 then)
  bool table;    // codes are indices of `values` / `bytes` (bits is 4 then)
  bool halves;   // scale and zero are float16
  Zero zero_kind;
  float zero;         // of Zero::integer and Zero::number, in the units of `value`
  float factor;       // of every scale (the step of a table rounded to bytes), else 1
  float values[16];   // of a table, or the codes themselves
  uint8_t bytes[16];  // of a table rounded to bytes, offset included in `zero`
  const uint8_t* codes;
  const void* scales;
  const void* zeros;
  const Codebook* codebook;  // null unless the weight is in code books; `codes` is not used then

  // Where a group begins in a row, and its columns without the padding.
  size_t group_begin(size_t g) const { return g / parts * block + g % parts * group; }
  size_t group_columns(size_t g) const {
    const size_t begin = group_begin(g), end = (g / parts + 1) * block < columns ? (g / parts + 1) * block : columns;
    return begin >= end ? 0 : end - begin < group ? end - begin : group;
  }

  // Where a column lies among the padded ones.
  size_t padded_place(size_t column) const {
    const size_t within = column % block;
    return (column / block * parts + within / group) * units * kUnit + within % group;
  }
  // The same for float kernels of many tokens, which decode groups one over the other's padding: all but a few of
  // the columns are real ones, where a block of 16 fills half of its unit.
  size_t dense_group() const { return codebook ? units * kUnit : (group + 7) / 8 * 8; }
  size_t dense_place(size_t column) const {
    const size_t within = column % block;
    return (column / block * parts + within / group) * dense_group() + within % group;
  }
  // Whether the second half of every unit is padding, which kernels skip.
  bool half_units() const { return group <= kUnit / 2; }
  size_t padded_block() const { return parts * units * kUnit; }
  size_t width() const { return groups * units * kUnit; }  // padded columns
  bool padded() const { return width() != columns; }
  size_t group_lines() const {
    return triples ? units / 3 * 5 + units % 3 * 2 : units * static_cast<size_t>(bits);
  }
  size_t panel_bytes() const { return groups * group_lines() * 128; }
};

// Rows of X as int8: x ≈ scale · code by row and group. Rows that are multiplied together lie together, `together` of
// them (1, 2, 4 or 8), so that a kernel reads one stream:
//   codes  [row / together][k / 4][row mod together][4]
//   the others  [row / together][group][row mod together]
struct QuantizedRows {
  int8_t* codes;
  float* scale;    // NaN where the block holds a number that is not finite
  int32_t* start;  // −zero · Σ codes for Zero::integer, else 0
  float* sum;      // Σ codes, times zero for Zero::number
  size_t together;
  bool pairs = false;  // a row of X is two rows here: 16-bit codes are 256 · the first + the second
};

// `sums` is [token][32] of one panel, for tokens of X from `first` on; at most kMaxTokens, whole `together`s. Of pairs,
// `first` and `tokens` count rows of codes, and `sums` has one row for two.
struct LowBitInt8 {
  // How many rows of codes the kernels want together when there are so many.
  size_t (*together)(const LowBitWeight&, size_t rows, bool pairs);
  // One padded row of X, [width], into row `row` of `q`, or into its pair. Rows that fill up the last `together` are
  // null: zeros.
  void (*quantize)(const LowBitWeight&, const float* x, size_t row, const QuantizedRows& q);
  void (*multiply)(const LowBitWeight&, size_t panel, const QuantizedRows& q, size_t first, size_t tokens, float* sums);
};

// Rows of X as float32, [row / together][k][row mod together], width() numbers a row.
struct LowBitExact {
  size_t (*together)(const LowBitWeight&, size_t rows);
  // Whether columns lie at dense_place, else at padded_place.
  bool (*dense)(const LowBitWeight&, size_t together);
  // One row of X, [columns] (null for zeros), into row `row` of `all`, padding included.
  void (*place)(const LowBitWeight&, const float* x, size_t row, size_t together, float* all);
  void (*multiply)(const LowBitWeight&, size_t panel, const float* all, size_t together, size_t first, size_t tokens,
                   float* sums);
};

}  // namespace qonnx::cpu
