// GatherCodebook: a thread decodes a number, so that rows are written in whole lines; the threads of a vector read one
// index. Sums are float32 in the order of the books, as on the CPU: the same bits.
#include "gather.h"

#include "numbers.cuh"

namespace qonnx::cuda {

namespace {

constexpr int kThreads = 256;

// Code `index` of a row in the portable layout (formats/codes.h).
QONNX_DEVICE uint32_t code_at(const CodeLayout& layout, const uint8_t* row, uint32_t index) {
  const uint8_t* from = row + static_cast<size_t>(index / layout.codes_per_word) * layout.bytes_per_word;
  uint64_t word = 0;
  for (uint32_t b = 0; b < layout.bytes_per_word; ++b) word |= static_cast<uint64_t>(from[b]) << (8 * b);
  const uint32_t place = index % layout.codes_per_word;
  if ((layout.levels & (layout.levels - 1)) == 0) {
    int bits = 0;
    while (layout.levels >> bits > 1) ++bits;
    return static_cast<uint32_t>(word >> (bits * place)) & (layout.levels - 1);
  }
  for (uint32_t j = 0; j < place; ++j) word /= layout.levels;
  return static_cast<uint32_t>(word % layout.levels);
}

QONNX_DEVICE float scale_at(const Gather& job, size_t at) {
  switch (job.scale_element) {
    case Element::float32: return load_number<Element::float32>(job.scale, at);
    case Element::float16: return load_number<Element::float16>(job.scale, at);
    default: return load_number<Element::bfloat16>(job.scale, at);
  }
}

template <Element element>
__global__ void __launch_bounds__(kThreads) gather_kernel(const Gather job, size_t row_bytes, int blocks) {
  const int64_t place = blockIdx.x;
  const int column = blockIdx.y * kThreads + threadIdx.x;
#if !FAULT(gather_guard)
  if (column >= job.columns) return;
#endif
  const size_t i = place * job.columns + column;
  int64_t row = job.rows[place];
  row = row < 0 ? row + job.weight_rows : row;
  if (row < 0 || row >= job.weight_rows) return store_number<element>(job.y, i, bits_as_float(0x7fc00000));
  const uint32_t vector = column / job.length, e = column % job.length;
  float sum = 0;
  for (int b = 0; b < job.books; ++b) {
    const size_t index = code_at(job.layout, job.codes + row * row_bytes, vector * job.books + b);
    const float part = load_number<element>(job.codebooks, (b * size_t{job.layout.levels} + index) * job.length + e);
    sum = b ? sum + part : part;
  }
  const float scale = scale_at(job, static_cast<size_t>(row) * blocks + column / job.block);
  store_number<element>(job.y, i, multiply_rounded(sum, scale));
}

}  // namespace

Failure run_gather(const Gather& job, Stream stream) {
  if (!job.count) return {};
  const dim3 blocks{static_cast<unsigned>(job.count), static_cast<unsigned>((job.columns + kThreads - 1) / kThreads)};
  const size_t row_bytes = job.layout.row_bytes(static_cast<size_t>(job.columns / job.length) * job.books);
  return by_element(job.element, [&]<Element element>() {
    return launch("GatherCodebook", gather_kernel<element>, blocks, dim3{kThreads}, size_t{0}, stream, job, row_bytes,
                  (job.columns + job.block - 1) / job.block);
  });
}

}  // namespace qonnx::cuda
