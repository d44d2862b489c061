// From the format of a low-bit weight to its kernel; each Math is instantiated in a file of its own.
#pragma once

#include "lowbit_decode.cuh"
#include "product_tile.cuh"

namespace qonnx::cuda {

template <Math math>
Failure run_lowbit_tiles(const LowBitPack& pack, const Plan& plan, const Job& job, Stream stream) {
  const auto run = [&]<int bits, bool table>() {
    return run_tiles<LowBitCodes<bits, table, math>>("low-bit matrix product", plan, job, pack.values, stream);
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
