// From the code books of a weight to its kernel; each Math is instantiated in a file of its own.
#pragma once

#include <algorithm>

#include "codebook_decode.cuh"
#include "codebook_sums.cuh"
#include "product_tile.cuh"

namespace qonnx::cuda {

template <class Codes>
using CodebookFew = Tile<Codes, 2, 4, 4, 1, 4>;
template <class Codes>
using CodebookSome = Tile<Codes, 2, 4, 4, 2, 3>;
template <class Codes>
using CodebookMany = Tile<Codes, 4, 2, 2, 8, 3>;
template <class Codes>
using CodebookLean = Tile<Codes, 2, 2, 1, 2, 2>;

// As many copies of the tables as shared memory has room for and as a quarter of what a block reads of them is worth: they
// keep its threads from meeting in a bank. None where not even one fits: then they are read from the L2 cache.
template <class T, class Codes>
CodebookValues with_copies(CodebookValues values, const Job& job, const Device& device) {
  constexpr int kMost = 128 << 10;  // of more than one copy
  const int64_t once = int64_t{values.books} * values.planes * values.levels * Codes::vector * Codes::size;
  const int64_t room = static_cast<int64_t>(device.shared_bytes) - static_cast<int64_t>(T::shared_bytes(job));
  const int64_t read = int64_t{job.units_per_split} * T::block_tiles * kTile * kUnit * Codes::size * values.books;
  const int64_t most = std::min({room, int64_t{kMost}, read / 4});
  values.shared_bytes = values.copies_log2 = 0;
  values.stride = Codes::piece_bytes;
  values.table_bytes = values.stride * values.levels;
  if (once > room) return values;
  while (2 * Codes::piece_bytes << values.copies_log2 <= 128 && 2 * once << values.copies_log2 <= most)
    ++values.copies_log2;
  values.shared_bytes = static_cast<int>((once << values.copies_log2));
  values.stride = Codes::piece_bytes << values.copies_log2;
  values.table_bytes = values.stride * values.levels;
  return values;
}

template <Math math>
Failure run_codebook_tiles(const CodebookPack& pack, const char* tables, const Plan& plan, const Job& job,
                           const Device& device, Stream stream) {
  if (plan.regime == Regime::sums) return run_codebook_sums<math>(pack, tables, plan, job, device, stream);
  CodebookValues values = pack.values;
  values.tables = tables + pack.biased;
  const auto run = [&]<int vector>() {
    using Codes = CodebookCodes<vector, math>;
    static_assert(has_shape<CodebookFew<Codes>>(kCodebookTiles[0]) &&
                  has_shape<CodebookSome<Codes>>(kCodebookTiles[1]) &&
                  has_shape<CodebookMany<Codes>>(kCodebookTiles[2]) && has_shape<CodebookLean<Codes>>(kCodebookTiles[3]));
    const auto launched = [&]<class T>() {
      return launch_tile<T, Codes>("code-book matrix product", job, with_copies<T, Codes>(values, job, device),
                                   plan.splits, stream);
    };
    switch (plan.regime) {
      case Regime::few: return launched.template operator()<CodebookFew<Codes>>();
      case Regime::some: return launched.template operator()<CodebookSome<Codes>>();
      case Regime::many: return launched.template operator()<CodebookMany<Codes>>();
      default: return launched.template operator()<CodebookLean<Codes>>();
    }
  };
#if defined(QONNX_FOUR_BITS)  // tests that build the kernels many times look at one format
  if (pack.padded_vector == 8) return run.template operator()<8>();
  return "this build has vectors of eight only";
#else
  switch (pack.padded_vector) {
    case 2:
      if constexpr (math != Math::int8) return run.template operator()<2>();
      [[fallthrough]];
    case 4: return run.template operator()<4>();
    case 8: return run.template operator()<8>();
    default: return run.template operator()<16>();
  }
#endif
}

}  // namespace qonnx::cuda
