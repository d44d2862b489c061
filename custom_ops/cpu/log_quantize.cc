// LogQuantize: codes of numbers on a logarithmic grid; LogQuantizeDequantize: the values of those codes.
//
// Inputs: x of any shape; scale, one number; table float32 [levels], 2 to 256 entries. Attribute codes_per_octave.
// code = clip(round(−log2(x / scale) · codes_per_octave), 0, levels − 1), the last code for numbers that are not
// positive; the value is scale · table[code]. Pieces of 16384 numbers run in parallel.
#include "log_quantize.h"

#include <algorithm>
#include <cstring>

#include "../quantizer_operands.h"
#include "../shapes.h"
#include "numbers.h"
#include "operators.h"
#include "tier.h"

namespace qonnx::cpu {

QONNX_BY_TIER(NumberKernels, number_kernels)
QONNX_BY_TIER(LogQuantizeKernels, log_quantize_kernels)

namespace {

constexpr size_t kPiece = 1 << 14;
constexpr size_t kWide = 1 << 10;  // numbers of other types that are widened at a time

template <Type type, bool values>
class LogQuantize {
 public:
  static constexpr const char* name = values ? "LogQuantizeDequantize" : "LogQuantize";
  static constexpr Port inputs[] = {{type}, {Type::any}, {Type::float32}};
  static constexpr Port outputs[] = {{values ? type : Type::uint8}};

  static void infer(ShapeInference& shapes) {
    if constexpr (values) shapes.output(0, shapes.input(0));
    else infer_codes(shapes);
  }

  explicit LogQuantize(const NodeInfo& info)
      : who_(std::string(name) + " '" + info.node_name() + "': "),
        numbers_(*number_kernels_table[static_cast<int>(active_tier())]),
        kernels_(*log_quantize_kernels_table[static_cast<int>(active_tier())]),
        per_octave_(codes_per_octave(info, who_)) {}

  void run(Context& context) {
    const Tensor x = context.input(0), scale = context.input(1), table = context.input(2);
    const LogGrid grid{one_scale(scale, who_), per_octave_, levels_of(table, who_)};
    float entries[256] = {};
    std::copy_n(table.as<float>(), table.count, entries);
    auto* y = static_cast<char*>(context.output(0, x.shape));
    if (!x.count) return;
    context.parallel((x.count + kPiece - 1) / kPiece, [&](size_t piece) {
      const size_t end = std::min(x.count, (piece + 1) * kPiece);
      for (size_t i = piece * kPiece; i < end;) {
        const size_t n = type == Type::float32 ? end - i : std::min(kWide, end - i);
        convert(grid, entries, static_cast<const char*>(x.data) + i * kSize, n, y + i * (values ? kSize : 1));
        i += n;
      }
    });
  }

 private:
  static constexpr size_t kSize = type == Type::float32 ? 4 : 2;

  void convert(const LogGrid& grid, const float* table, const char* x, size_t n, char* y) const {
    float wide[type == Type::float32 ? 1 : kWide];
    const float* from = reinterpret_cast<const float*>(x);
    if constexpr (type != Type::float32) {
      (type == Type::float16 ? numbers_.from_float16 : numbers_.from_bfloat16)(reinterpret_cast<const uint16_t*>(x),
                                                                               wide, n);
      from = wide;
    }
    if constexpr (!values) {
      kernels_.encode(grid, from, n, reinterpret_cast<uint8_t*>(y));
    } else if constexpr (type == Type::float32) {
      kernels_.round_trip(grid, table, from, n, reinterpret_cast<float*>(y));
    } else {
      kernels_.round_trip(grid, table, from, n, wide);
      (type == Type::float16 ? numbers_.to_float16 : numbers_.to_bfloat16)(wide, reinterpret_cast<uint16_t*>(y), n);
    }
  }

  std::string who_;
  const NumberKernels& numbers_;
  const LogQuantizeKernels& kernels_;
  float per_octave_;
};

}  // namespace

const abi::CustomOp* log_quantize_float32() { return operation<LogQuantize<Type::float32, false>>(); }
const abi::CustomOp* log_quantize_float16() { return operation<LogQuantize<Type::float16, false>>(); }
const abi::CustomOp* log_quantize_bfloat16() { return operation<LogQuantize<Type::bfloat16, false>>(); }
const abi::CustomOp* log_round_trip_float32() { return operation<LogQuantize<Type::float32, true>>(); }
const abi::CustomOp* log_round_trip_float16() { return operation<LogQuantize<Type::float16, true>>(); }
const abi::CustomOp* log_round_trip_bfloat16() { return operation<LogQuantize<Type::bfloat16, true>>(); }

}  // namespace qonnx::cpu
