// Code-book products with float16 operands: one kernel per length of vectors and regime.
#include "codebook_run.cuh"

namespace qonnx::cuda {

template Failure run_codebook_tiles<Math::float16>(const CodebookPack&, const char*, const Plan&, const Job&,
                                              const Device&, Stream);

}  // namespace qonnx::cuda
