// Name, ports and shapes of Hadamard, HadamardDynamicQuantize and DynamicQuantizeRows, the same on every device.
#pragma once

#include <array>

#include "ort_op.h"

namespace qonnx {

template <Type type, bool rotates, bool quantizes>
struct RowSignature {
  static constexpr const char* name = !rotates    ? "DynamicQuantizeRows"
                                      : quantizes ? "HadamardDynamicQuantize"
                                                  : "Hadamard";
  static constexpr std::array<Port, rotates ? 2 : 1> inputs = [] {
    std::array<Port, rotates ? 2 : 1> list{};
    list[0] = {type};
    if constexpr (rotates) list[1] = {Type::float32};
    return list;
  }();
  static constexpr std::array<Port, quantizes ? 2 : 1> outputs = [] {
    std::array<Port, quantizes ? 2 : 1> list{};
    list[0] = {quantizes ? Type::int8 : type};
    if constexpr (quantizes) list[1] = {Type::float32};
    return list;
  }();

  static void infer(ShapeInference& shapes) {
    auto y = shapes.input(0);
    if (!y.known) return;
    if constexpr (quantizes) y.type = Type::int8;
    shapes.output(0, y);
    if constexpr (quantizes) {
      y.type = Type::float32;
      y.dims.back() = -1;  // the block size is an attribute, which shape inference does not see
      y.symbols.back().clear();
      shapes.output(1, y);
    }
  }
};

}  // namespace qonnx
