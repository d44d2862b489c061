// From the format of a low-bit weight to its kernel; each Math is instantiated in a file of its own.
#pragma once

#include "lowbit_decode.cuh"
#include "product_tile.cuh"

namespace qonnx::cuda {

template <class Codes>
using LowBitFew = Tile<Codes, 1, 4, 4, 1, 4>;
template <class Codes>
using LowBitSome = Tile<Codes, 1, 4, 4, 2, 4>;
template <class Codes>
using LowBitMany = Tile<Codes, 4, 1, 2, 8, 3>;

template <Math math>
Failure run_lowbit_tiles(const LowBitPack& pack, const Plan& plan, const Job& job, Stream stream) {
  const auto run = [&]<int bits, bool table>() {
    using Codes = LowBitCodes<bits, table, math>;
    static_assert(has_shape<LowBitFew<Codes>>(kLowBitTiles[0]) && has_shape<LowBitSome<Codes>>(kLowBitTiles[1]) &&
                  has_shape<LowBitMany<Codes>>(kLowBitTiles[2]));
    const auto launched = [&]<class T>() {
      return launch_tile<T, Codes>("low-bit matrix product", job, pack.values, plan.splits, stream);
    };
    switch (plan.regime) {
      case Regime::few: return launched.template operator()<LowBitFew<Codes>>();
      case Regime::some: return launched.template operator()<LowBitSome<Codes>>();
      default: return launched.template operator()<LowBitMany<Codes>>();
    }
  };
#if defined(QONNX_FOUR_BITS)  // tests that build the kernels many times look at one format
  return run.template operator()<4, false>();
#else
  if (pack.table) return run.template operator()<4, true>();
  switch (pack.bits) {
    case 1: return run.template operator()<1, false>();
    case 2: return run.template operator()<2, false>();
    case 3: return run.template operator()<3, false>();
    case 4: return run.template operator()<4, false>();
    case 5: return run.template operator()<5, false>();
    case 6: return run.template operator()<6, false>();
    case 7: return run.template operator()<7, false>();
    default: return run.template operator()<8, false>();
  }
#endif
}

}  // namespace qonnx::cuda
