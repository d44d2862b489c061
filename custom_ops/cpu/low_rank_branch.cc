// Packs the factors of a low-rank branch, and chooses a kernel by the number of rows.
#include "low_rank_branch.h"

#include <algorithm>
#include <vector>

#include "../operands.h"
#include "lowbit.h"
#include "tier.h"

namespace qonnx::cpu {

QONNX_BY_TIER(LowRankKernels, low_rank_kernels)
QONNX_BY_TIER(FloatProduct, float_product)

namespace {

constexpr size_t kFewRows = 4;  // below, a row at a time is faster than tiles of rows

std::vector<float> factor_of(const Tensor& tensor, const std::string& who, const char* input) {
  if (tensor.type == Type::uint8) throw Error(who + "input " + input + " is uint8; use float32, float16 or bfloat16");
  return numbers_of(tensor, who, input);
}

}  // namespace

LowRankBranch::LowRankBranch(const Tensor& a, const Tensor& b, size_t columns, size_t rows, const std::string& who)
    : kernels_(*low_rank_kernels_table[static_cast<int>(active_tier())]),
      products_(*float_product_table[static_cast<int>(active_tier())]),
      columns_(columns) {
  if (!a || !b)
    throw Error(who + "input " + (a ? "low_rank_b" : "low_rank_a") +
                " is missing; a low-rank branch needs both factors, or neither");
  const auto rank_text = [&](const char* rank) {
    return std::string(rank) + " numbers for K=" + std::to_string(columns) + " and N=" + std::to_string(rows);
  };
  expect_shape(a.shape.size() == 2 && a.shape[0] == static_cast<int64_t>(columns), who, "low_rank_a", a,
               rank_text("[K, rank]"));
  expect_shape(b.shape.size() == 2 && b.shape[0] == a.shape[1] && b.shape[1] == static_cast<int64_t>(rows), who,
               "low_rank_b", b, rank_text(("[" + std::to_string(a.shape[1]) + ", N]").c_str()));
  rank_ = static_cast<size_t>(a.shape[1]);
  width_ = (rank_ + kColumnPad - 1) / kColumnPad * kColumnPad;
  const std::vector<float> down = factor_of(a, who, "low_rank_a"), up = factor_of(b, who, "low_rank_b");
  const size_t panels = (rows + kPanel - 1) / kPanel;
  a_ = Buffer(columns * width_ * sizeof(float));
  b_ = Buffer(panels * rank_ * kPanel * sizeof(float));
  for (size_t k = 0; k < columns; ++k) {
    float* to = a_.as<float>() + k * width_;
    std::copy_n(down.data() + k * rank_, rank_, to);
    std::fill(to + rank_, to + width_, 0.0f);
  }
  for (size_t panel = 0; panel < panels; ++panel)
    for (size_t r = 0; r < rank_; ++r) {
      const size_t begin = panel * kPanel, count = std::min(kPanel, rows - begin);
      float* to = b_.as<float>() + (panel * rank_ + r) * kPanel;
      std::copy_n(up.data() + r * rows + begin, count, to);
      std::fill(to + count, to + kPanel, 0.0f);
    }
}

void LowRankBranch::down(const float* x, size_t rows, float* y) const {
  if (!rank_) return;
  if (rows >= kFewRows)
    return products_.multiply(x, columns_, a_.as<float>(), width_, columns_, rows, width_, false, y, width_);
  for (size_t row = 0; row < rows; ++row)
    kernels_.down(x + row * columns_, columns_, a_.as<float>(), width_, y + row * width_);
}

void LowRankBranch::up(size_t panel, const float* x_down, size_t rows, float* y) const {
  if (!rank_) return;
  products_.multiply(x_down, width_, b_.as<float>() + panel * rank_ * kPanel, kPanel, rank_, rows, kPanel, true, y,
                     kPanel);
}

}  // namespace qonnx::cpu
