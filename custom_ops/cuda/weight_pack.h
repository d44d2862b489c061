// What packing a weight for the GPU has in common, whatever its codes are.
#pragma once

#include "product.h"

namespace qonnx::cuda {

constexpr int divided_up(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

// Tiles, units and the parameters of a weight whose rows, columns and groups are set: `scale` is [rows, groups], `zero`
// the same or one number for all. Numbers are stored as float16 where that is exact.
void set_geometry(Weight& weight, int rows, const Columns& columns);
void set_parameters(Pack& pack, const float* scale, const std::vector<float>& zero);

}  // namespace qonnx::cuda
