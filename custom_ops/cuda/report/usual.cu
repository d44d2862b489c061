// Products as they are most often, for the report: scales in float16, groups of whole units, one zero point for all, code
// books of float16 in shared memory. With the branches for other weights gone, the main loop of a kernel holds just the
// instructions that it executes.
#include "../codebook_run.cuh"
#include "../lowbit_run.cuh"

namespace qonnx::cuda {

template <class T, class Codes>
__global__ void __launch_bounds__(T::threads, 1) usual_kernel(const Job given, const typename Codes::Values all) {
  Job job = given;
  job.halves = true;
  job.zeros = false;
  job.slots = {1, 1, 0};
  if (!T::integer || !Codes::bytes) job.sums = nullptr;
  typename Codes::Values values = all;
  values.planes = 1;
  if constexpr (requires { values.shared_bytes; })
    if (!values.shared_bytes) __builtin_unreachable();
  product_block<T, Codes>(job, values);
}

#define USUAL(Tile, Codes) template __global__ void usual_kernel<Tile<Codes>, Codes>(const Job, const Codes::Values)

using FourBits = LowBitCodes<4, false, Math::float16>;
using FourBitsInteger = LowBitCodes<4, false, Math::int8>;
USUAL(LowBitFew, FourBits);
USUAL(LowBitSome, FourBits);
USUAL(LowBitMany, FourBits);
USUAL(LowBitFew, FourBitsInteger);
USUAL(LowBitSome, FourBitsInteger);
USUAL(LowBitMany, FourBitsInteger);

using Books = CodebookCodes<8, Math::float16>;
using BooksInteger = CodebookCodes<8, Math::int8>;
USUAL(CodebookFew, Books);
USUAL(CodebookSome, Books);
USUAL(CodebookMany, Books);
USUAL(CodebookFew, BooksInteger);
USUAL(CodebookSome, BooksInteger);
USUAL(CodebookMany, BooksInteger);

}  // namespace qonnx::cuda
