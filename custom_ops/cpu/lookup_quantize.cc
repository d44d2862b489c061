// LookupQuantize: codes of numbers on a grid of chosen levels.
//
// Inputs: x of any shape; scale and zero_point (uint8), one number each; table uint8 [256].
// code = table[clip(round(x / scale) + zero_point, 0, 255)]. Pieces of 16384 numbers run in parallel.
#include "lookup_quantize.h"

#include <algorithm>

#include "../quantizer_operands.h"
#include "../shapes.h"
#include "numbers.h"
#include "operators.h"
#include "tier.h"

namespace qonnx::cpu {

QONNX_BY_TIER(NumberKernels, number_kernels)
QONNX_BY_TIER(LookupQuantizeKernels, lookup_quantize_kernels)

namespace {

constexpr size_t kPiece = 1 << 14;
constexpr size_t kWide = 1 << 10;  // numbers of other types that are widened at a time

template <Type type>
class LookupQuantize {
 public:
  static constexpr const char* name = "LookupQuantize";
  static constexpr Port inputs[] = {{type}, {Type::any}, {Type::uint8}, {Type::uint8}};
  static constexpr Port outputs[] = {{Type::uint8}};

  static void infer(ShapeInference& shapes) { infer_codes(shapes); }

  explicit LookupQuantize(const NodeInfo& info)
      : who_(std::string(name) + " '" + info.node_name() + "': "),
        numbers_(*number_kernels_table[static_cast<int>(active_tier())]),
        kernels_(*lookup_quantize_kernels_table[static_cast<int>(active_tier())]) {}

  void run(Context& context) {
    const Tensor x = context.input(0), given = context.input(1), zero = context.input(2), table = context.input(3);
    const LookupGrid grid = lookup_grid(given, zero, table, who_);
    auto* codes = static_cast<uint8_t*>(context.output(0, x.shape));
    if (!x.count) return;
    context.parallel((x.count + kPiece - 1) / kPiece, [&](size_t piece) {
      const size_t end = std::min(x.count, (piece + 1) * kPiece);
      if constexpr (type == Type::float32) {
        const size_t i = piece * kPiece;
        kernels_.encode(x.as<float>() + i, end - i, grid.scale, grid.zero_point, grid.table, codes + i);
      } else {
        float wide[kWide];
        for (size_t i = piece * kPiece; i < end; i += kWide) {
          const size_t n = std::min(kWide, end - i);
          (type == Type::float16 ? numbers_.from_float16 : numbers_.from_bfloat16)(x.as<uint16_t>() + i, wide, n);
          kernels_.encode(wide, n, grid.scale, grid.zero_point, grid.table, codes + i);
        }
      }
    });
  }

 private:
  std::string who_;
  const NumberKernels& numbers_;
  const LookupQuantizeKernels& kernels_;
};

}  // namespace

const abi::CustomOp* lookup_quantize_float32() { return operation<LookupQuantize<Type::float32>>(); }
const abi::CustomOp* lookup_quantize_float16() { return operation<LookupQuantize<Type::float16>>(); }
const abi::CustomOp* lookup_quantize_bfloat16() { return operation<LookupQuantize<Type::bfloat16>>(); }

}  // namespace qonnx::cpu
