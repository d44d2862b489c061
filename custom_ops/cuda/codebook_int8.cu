// Code-book products with int8 operands: one kernel per length of vectors and regime.
#include "codebook_run.cuh"

namespace qonnx::cuda {

template Failure run_codebook_tiles<Math::int8>(const CodebookPack&, const char*, const Plan&, const Job&,
                                              const Device&, Stream);

}  // namespace qonnx::cuda
