// The beam search over code books as a C function of the library: qonnx.codebooks.search calls it.
#include "codebook_search.h"

#include "operators.h"
#include "tier.h"

namespace qonnx::cpu {
QONNX_BY_TIER(SearchKernels, search)
}  // namespace qonnx::cpu

// Arrays as in codebook_search.h; 0, or 1 if QONNX_CPU names no tier.
extern "C" QONNX_EXPORT int32_t qonnx_beam_search(const float* z, int64_t n, int64_t length, const float* books,
                                                  int64_t count, int64_t levels, int64_t width, int64_t descents,
                                                  int64_t* codes) {
  try {
    const auto* kernels = qonnx::cpu::search_table[static_cast<int>(qonnx::cpu::active_tier())];
    kernels->beam(z, n, length, books, count, levels, width, descents, codes);
    return 0;
  } catch (const qonnx::Error&) {
    return 1;
  }
}
