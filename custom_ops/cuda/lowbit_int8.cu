// Low-bit products with int8 operands: one kernel per format and regime.
#include "lowbit_run.cuh"

namespace qonnx::cuda {

template Failure run_lowbit_tiles<Math::int8>(const LowBitPack&, const Plan&, const Job&, Stream);

}  // namespace qonnx::cuda
