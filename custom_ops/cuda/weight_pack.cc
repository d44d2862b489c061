// Geometry and parameters of packed weights (weight_pack.h).
#include "weight_pack.h"

#include <algorithm>
#include <cstring>

#include "../formats/float16.h"

namespace qonnx::cuda {

void set_geometry(Weight& weight, int rows, const Columns& columns) {
  weight.rows = rows;
  weight.columns = columns;
  weight.groups = divided_up(columns.columns, columns.group);
  weight.tiles = divided_up(rows, kTile);
  weight.units = divided_up(int64_t{weight.groups} * columns.padded_group, kUnit);
}

void set_parameters(Pack& pack, const float* scale, const std::vector<float>& zero) {
  Weight& weight = pack.weight;
  const size_t count = static_cast<size_t>(weight.rows) * weight.groups;
  const auto exact = [](float v) { return decode_float16(encode_float16(v)) == v; };
  weight.zeros = std::any_of(zero.begin(), zero.end(), [&](float z) { return z != zero[0]; });
  weight.zero = weight.zeros ? 0 : zero[0];
  weight.halves = std::all_of(scale, scale + count, exact) &&
                  (!weight.zeros || std::all_of(zero.begin(), zero.end(), exact));
  const size_t kinds = weight.zeros ? 2 : 1, size = weight.halves ? 2 : 4;
  pack.parameters.assign(static_cast<size_t>(weight.tiles) * weight.groups * kinds * kTile * size, 0);
  const auto put = [&](int row, int group, size_t kind, float value) {
    const size_t in_tile = row % 8 * 2 + row % kTile / 8;
    const size_t at = ((static_cast<size_t>(row / kTile) * weight.groups + group) * kinds + kind) * kTile + in_tile;
    const uint16_t half = encode_float16(value);
    if (weight.halves) std::memcpy(&pack.parameters[at * 2], &half, 2);
    else std::memcpy(&pack.parameters[at * 4], &value, 4);
  };
  for (int row = 0; row < weight.rows; ++row)
    for (int group = 0; group < weight.groups; ++group) {
      const size_t at = static_cast<size_t>(row) * weight.groups + group;
      put(row, group, 0, scale[at]);
      if (weight.zeros) put(row, group, 1, zero[at]);
    }
}

}  // namespace qonnx::cuda
