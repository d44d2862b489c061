// Names, ports, shapes and ranges of the products with static quantization, the same on every device.
#pragma once

#include <array>
#include <string>

#include "ort_op.h"
#include "shapes.h"

namespace qonnx {

enum class StaticForm { codes_to_float, codes_to_codes, float_to_float };
enum StaticInput : size_t { kX, kXScale, kXZero, kCodes, kScale, kZero, kTable, kBias, kYScale, kYZero };

// type: of Y, and of X where that is float. memory: where everything but X and Y is wanted.
template <StaticForm form, Type type, Memory memory = Memory::of_provider>
struct StaticSignature {
  static constexpr bool kCodesOut = form == StaticForm::codes_to_codes, kCodesIn = form != StaticForm::float_to_float;

  static constexpr const char* name = kCodesOut  ? "QLinearMatMulLowBit"
                                      : kCodesIn ? "QuantizedMatMulLowBit"
                                                 : "StaticQuantizeMatMulLowBit";
  static constexpr auto inputs = [] {
    std::array<Port, kCodesOut ? 10 : 8> all{};
    for (Port& port : all) port = {Type::any, Arity::required, memory};
    all[kX] = {kCodesIn ? Type::any : type};
    all[kCodes].type = Type::uint8;
    all[kTable].type = Type::float32;
    all[kCodesOut ? kYZero : kBias].type = type;
    return all;
  }();
  static constexpr Port outputs[] = {{type}};

  static void infer(ShapeInference& shapes) {
    infer_product(shapes, kCodes, kCodesIn ? (kCodesOut ? kYZero : kBias) : kX);
  }
};

// The range of 8-bit codes that two attributes give; `grid` has numbers `minimum` and `maximum`.
template <class Grid>
void set_range(const NodeInfo& info, const char* minimum, const char* maximum, const std::string& who, Grid& grid) {
  const int64_t low = info.integer(minimum, 1 << 20), high = info.integer(maximum, -(1 << 20));
  if (low >= high || low < -128 || high > 255 || (low < 0 && high > 127))
    throw Error(who + "attributes " + minimum + "=" + std::to_string(low) + " and " + maximum + "=" +
                std::to_string(high) + " are no range of 8-bit codes; use for example 0 and 255, or -128 and 127");
  grid.minimum = static_cast<int>(low);
  grid.maximum = static_cast<int>(high);
}

}  // namespace qonnx
