// Products as they are most often, for the report: scales in float16, groups of whole units, one zero point for all, code
// books of float16. With the branches for other weights gone, the main loop of a kernel holds just the instructions that
// it executes; what it executes at the end of a group only is told apart in report/compiled.py.
#include "../codebook_run.cuh"
#include "../lowbit_run.cuh"

namespace qonnx::cuda {

// Indices of one byte or of two, books in shared memory or in the L2 cache.
enum class Books : int { narrow, wide, cached };

template <class T, class Codes, Books books>
__global__ void __launch_bounds__(T::threads, 1) usual_kernel(const Job given, const typename Codes::Values all) {
  Job job = given;
  job.halves = true;
  job.zeros = false;
  job.slots = {1, 1, 0};
  job.sums = nullptr;
  typename Codes::Values values = all;
  values.planes = 1;
  if constexpr (requires { values.shared_bytes; }) {
    values.together = values.books;
    values.wide = books != Books::narrow;
    if (!values.shared_bytes == (books != Books::cached)) __builtin_unreachable();
  }
  product_block<T, Codes>(job, values);
}

template <class S>
__global__ void __launch_bounds__(S::threads, 1) usual_sums_kernel(const SumsJob given) {
  SumsJob job = given;
  job.product.halves = true;
  job.values.planes = 1;
  job.values.levels = 256;
  sums_block<S>(job);
}

#define USUAL(Tile, Codes, books) \
  template __global__ void usual_kernel<Tile<Codes>, Codes, Books::books>(const Job, const Codes::Values)
#define USUAL_LOW_BIT(Codes)          \
  USUAL(LowBitFew, Codes, narrow);  \
  USUAL(LowBitSome, Codes, narrow); \
  USUAL(LowBitMany, Codes, narrow)
#define USUAL_BOOKS(Codes, books)      \
  USUAL(CodebookFew, Codes, books);  \
  USUAL(CodebookSome, Codes, books); \
  USUAL(CodebookMany, Codes, books)
#define USUAL_SUMS(vector, math)                                                                     \
  template __global__ void usual_sums_kernel<SumsShape<vector, Math::math, 1, 64>>(const SumsJob); \
  template __global__ void usual_sums_kernel<SumsShape<vector, Math::math, 1, 128>>(const SumsJob)

using FourBits = LowBitCodes<4, false, Math::float16>;
using FourBitsInteger = LowBitCodes<4, false, Math::int8>;
USUAL_LOW_BIT(FourBits);
USUAL_LOW_BIT(FourBitsInteger);

using Books4 = CodebookCodes<4, Math::float16>;
using Books8 = CodebookCodes<8, Math::float16>;
using Books16 = CodebookCodes<16, Math::float16>;
using Books8Integer = CodebookCodes<8, Math::int8>;
USUAL_BOOKS(Books4, narrow);
USUAL_BOOKS(Books8, narrow);
USUAL_BOOKS(Books8, wide);
USUAL_BOOKS(Books8, cached);
USUAL_BOOKS(Books16, narrow);
USUAL_BOOKS(Books8Integer, narrow);
USUAL_SUMS(4, float16);
USUAL_SUMS(8, float16);
USUAL_SUMS(16, float16);
USUAL_SUMS(8, int8);

}  // namespace qonnx::cuda
