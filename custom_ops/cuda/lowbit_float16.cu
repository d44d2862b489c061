// Low-bit products with float16 operands: one kernel per format and regime.
#include "lowbit_run.cuh"

namespace qonnx::cuda {

template Failure run_lowbit_tiles<Math::float16>(const LowBitPack&, const Plan&, const Job&, Stream);

}  // namespace qonnx::cuda
