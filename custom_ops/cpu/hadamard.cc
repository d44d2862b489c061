// Hadamard, HadamardDynamicQuantize and DynamicQuantizeRows: rotations of rows, and rows as int8.
//
// Hadamard: x [..., C] and base float32 [k, k] to y [..., C]; each run of n = k · outer · inner numbers of a row is
// multiplied by factor · (base ⊗ Sylvester matrix of order outer · inner). C is a multiple of n.
// DynamicQuantizeRows: x [..., C] to codes int8 [..., C] and scale float32 [..., ceil(C / block_size)], a scale for each
// block of a row. HadamardDynamicQuantize does one after the other while a row is in the cache.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../operands.h"
#include "../row_signature.h"
#include "float_product.h"
#include "hadamard.h"
#include "memory.h"
#include "numbers.h"
#include "operators.h"
#include "tier.h"

namespace qonnx::cpu {

QONNX_BY_TIER(NumberKernels, number_kernels)
QONNX_BY_TIER(FloatProduct, float_product)
QONNX_BY_TIER(HadamardKernels, hadamard_kernels)

namespace {

constexpr size_t kTasks = 32;
constexpr size_t kTaskNumbers = 1 << 14;  // numbers worth a task of their own

template <Type type, bool rotates, bool quantizes>
class Rows : public RowSignature<type, rotates, quantizes> {
 public:
  using RowSignature<type, rotates, quantizes>::name;

  explicit Rows(const NodeInfo& info)
      : who_(std::string(name) + " '" + info.node_name() + "': "),
        numbers_(*number_kernels_table[static_cast<int>(active_tier())]),
        product_(*float_product_table[static_cast<int>(active_tier())]),
        kernels_(*hadamard_kernels_table[static_cast<int>(active_tier())]) {
    if constexpr (quantizes) block_ = positive_attribute(info, "block_size", who_);
    if constexpr (rotates) {
      const size_t outer = positive_attribute(info, "outer", who_), inner = positive_attribute(info, "inner", who_);
      if ((outer & (outer - 1)) || (inner & (inner - 1)))
        throw Error(who_ + "outer=" + std::to_string(outer) + " and inner=" + std::to_string(inner) +
                    " must be powers of two");
      power_ = outer * inner;
      factor_ = info.number("factor", NAN);
      if (!std::isfinite(factor_)) throw Error(who_ + "attribute factor is missing or not finite; 1/√n keeps lengths");
    }
  }

  void run(Context& context) {
    const Tensor x = context.input(0);
    if (x.shape.empty()) throw Error(who_ + "x is a scalar, but rows are wanted");
    Job job{static_cast<const char*>(x.data), static_cast<size_t>(x.shape.back()), 0, nullptr, 1, nullptr, nullptr, 1};
    job.rows = job.columns ? x.count / job.columns : 0;
    if constexpr (rotates) {
      const Tensor base = context.input(1);
      if (base.shape.size() != 2 || base.shape[0] != base.shape[1] || base.shape[0] < 1)
        throw Error(who_ + "base has shape " + shape_text(base.shape) + ", but a square matrix is wanted");
      job.base = base.as<float>();
      job.k = static_cast<size_t>(base.shape[0]);
      if (job.columns % (job.k * power_))
        throw Error(who_ + "x has shape " + shape_text(x.shape) + ", but its last dimension must be a multiple of n=" +
                    std::to_string(job.k * power_));
    }
    job.y = static_cast<char*>(context.output(0, x.shape));
    if constexpr (quantizes) {
      job.blocks = (job.columns + block_ - 1) / block_;
      std::vector<int64_t> shape = x.shape;
      shape.back() = static_cast<int64_t>(job.blocks);
      job.scale = static_cast<float*>(context.output(1, shape));
    }
    if (!job.rows) return;
    const size_t tasks = std::min({kTasks, job.rows, job.rows * job.columns / kTaskNumbers + 1});
    Scratch::Loan loan(scratch_, Scratch::size_of<float>(2 * tasks * job.columns));
    float* space = loan.next<float>(2 * tasks * job.columns);
    context.parallel(tasks, [&](size_t task) {
      for (size_t row = task * job.rows / tasks; row < (task + 1) * job.rows / tasks; ++row)
        one(job, row, space + 2 * task * job.columns);
    });
  }

 private:
  static constexpr size_t kSize = type == Type::float32 ? 4 : 2;

  struct Job {
    const char* x;
    size_t columns, rows;
    const float* base;
    size_t k;
    char* y;
    float* scale;
    size_t blocks;
  };

  // Row `row`, from x to the outputs; `space` holds two rows.
  void one(const Job& job, size_t row, float* space) const {
    const char* from = job.x + row * job.columns * kSize;
    const float* result = space;
    if constexpr (type == Type::float32) {
      if constexpr (rotates) std::memcpy(space, from, job.columns * sizeof(float));
      else result = reinterpret_cast<const float*>(from);
    } else {
      (type == Type::float16 ? numbers_.from_float16 : numbers_.from_bfloat16)(reinterpret_cast<const uint16_t*>(from),
                                                                               space, job.columns);
    }
    if constexpr (rotates) result = rotate(job, space);
    if constexpr (quantizes) {
      auto* codes = reinterpret_cast<int8_t*>(job.y) + row * job.columns;
      for (size_t b = 0; b < job.blocks; ++b) {
        const size_t begin = b * block_, count = std::min(block_, job.columns - begin);
        job.scale[row * job.blocks + b] = kernels_.quantize(result + begin, count, codes + begin);
      }
    } else {
      char* to = job.y + row * job.columns * kSize;
      if constexpr (type == Type::float32) std::memcpy(to, result, job.columns * sizeof(float));
      else
        (type == Type::float16 ? numbers_.to_float16 : numbers_.to_bfloat16)(result, reinterpret_cast<uint16_t*>(to),
                                                                             job.columns);
    }
  }

  const float* rotate(const Job& job, float* x) const {
    float* mixed = x + job.columns;
    for (size_t begin = 0; begin < job.columns; begin += power_) kernels_.transform(x + begin, power_);
    if (job.k > 1) {
      const size_t n = job.k * power_;
      for (size_t begin = 0; begin < job.columns; begin += n)
        if (power_ % kColumnPad) kernels_.mix(job.base, job.k, x + begin, power_, mixed + begin);
        else
          product_.multiply(job.base, job.k, x + begin, power_, job.k, job.k, power_, false, mixed + begin, power_);
      x = mixed;
    }
    kernels_.scale(x, job.k == 1 ? factor_ * job.base[0] : factor_, job.columns);
    return x;
  }

  std::string who_;
  const NumberKernels& numbers_;
  const FloatProduct& product_;
  const HadamardKernels& kernels_;
  size_t block_ = 1, power_ = 1;
  float factor_ = 1;
  Scratch scratch_;
};

}  // namespace

const abi::CustomOp* hadamard_float32() { return operation<Rows<Type::float32, true, false>>(); }
const abi::CustomOp* hadamard_float16() { return operation<Rows<Type::float16, true, false>>(); }
const abi::CustomOp* hadamard_bfloat16() { return operation<Rows<Type::bfloat16, true, false>>(); }
const abi::CustomOp* hadamard_quantize_float32() { return operation<Rows<Type::float32, true, true>>(); }
const abi::CustomOp* hadamard_quantize_float16() { return operation<Rows<Type::float16, true, true>>(); }
const abi::CustomOp* hadamard_quantize_bfloat16() { return operation<Rows<Type::bfloat16, true, true>>(); }
const abi::CustomOp* quantize_rows_float32() { return operation<Rows<Type::float32, false, true>>(); }
const abi::CustomOp* quantize_rows_float16() { return operation<Rows<Type::float16, false, true>>(); }
const abi::CustomOp* quantize_rows_bfloat16() { return operation<Rows<Type::bfloat16, false, true>>(); }

}  // namespace qonnx::cpu
