// Y = dequantized X · Wᵀ + bias with static quantization of X, W of 1 to 8 bits a number. Three operators:
//
//   QuantizedMatMulLowBit        X is codes, Y is float
//   QLinearMatMulLowBit          X is codes, Y is codes, by y_scale and y_zero_point
//   StaticQuantizeMatMulLowBit   X is float and becomes codes here, by the scale and zero point given; Y is float
//
// Inputs: X [..., K]; x_scale and x_zero_point, one number each; codes, scale, zero_point, table of the weight as in
// matmul_lowbit.cc; bias [N] or [1]; y_scale and y_zero_point. Codes are uint8, int8, uint4 or int4. Attributes K, N,
// block_size, levels, codes_per_word, bytes_per_word of the weight; x_minimum and x_maximum, y_minimum and y_maximum:
// the range of the codes that are made here. A NaN in X spoils its row.
//
// Rows of X are laid out in parallel, then panels of 32 outputs are computed in parallel, at most 264 rows at a time.
#include "static_product.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <optional>

#include "../static_signature.h"
#include "lowbit_attributes.h"
#include "numbers.h"
#include "operators.h"
#include "tier.h"

namespace qonnx::cpu {

QONNX_BY_TIER(NumberKernels, number_kernels)
QONNX_BY_DOT_TIER(StaticProduct, static_product)

namespace {

constexpr size_t kTaskWork = size_t{1} << 21;  // multiply-adds worth a task of their own: some 20 µs
constexpr size_t kTaskNumbers = 1 << 14;       // numbers of X worth a task of their own

bool four_bits(Type type) { return type == Type::uint4 || type == Type::int4; }
bool is_signed(Type type) { return type == Type::int8 || type == Type::int4; }

// Code `index` of a tensor of codes, in the low byte as the 8-bit type of the same sign has it.
uint8_t code_at(const Tensor& tensor, size_t index) {
  if (!four_bits(tensor.type)) return tensor.as<uint8_t>()[index];
  const uint8_t nibble = (tensor.as<uint8_t>()[index / 2] >> (4 * (index % 2))) & 15;
  return static_cast<uint8_t>(is_signed(tensor.type) && nibble > 7 ? nibble | 0xf0 : nibble);
}

// The packed weight, and Σ v for the corrections.
struct StaticWeight {
  StaticWeight(const LowBitShape& shape, const LowBitInputs& inputs, const std::string& who)
      : packed(shape, inputs, true, who) {
    const LowBitWeight& weight = packed.weight();
    const size_t chains = chain_count(weight), row_bytes = shape.layout.row_bytes(shape.columns);
    value_sums.assign(weight.panels * chains * kPanel, 0);
    std::vector<uint8_t> codes(shape.columns);
    for (size_t row = 0; row < shape.rows; ++row) {
      decode_codes(shape.layout, inputs.codes.as<uint8_t>() + row * row_bytes, shape.columns, codes.data());
      for (size_t g = 0; g < weight.groups; ++g) {
        int32_t sum = 0;
        for (size_t k = weight.group_begin(g); k < weight.group_begin(g) + weight.group_columns(g); ++k)
          sum += weight.table ? weight.bytes[codes[k]] : codes[k];
        value_sums[(row / kPanel * chains + chain_of(weight, g)) * kPanel + row % kPanel] += sum;
      }
    }
  }
  PackedLowBit packed;
  std::vector<int32_t> value_sums;  // [panel][chain][32]
};

template <StaticForm form, Type type>
class StaticMatMul : public StaticSignature<form, type> {
  using Signature = StaticSignature<form, type>;
  using Signature::kCodesIn, Signature::kCodesOut;
  static constexpr size_t kSize = type == Type::float32 ? 4 : kCodesOut ? 1 : 2;

 public:
  using Signature::name;

  explicit StaticMatMul(const NodeInfo& info)
      : who_(std::string(name) + " '" + info.node_name() + "': "),
        numbers_(*number_kernels_table[static_cast<int>(active_tier())]),
        kernels_(*static_product_table[static_cast<int>(active_tier())]) {
    shape_ = low_bit_shape(info, 256, who_);
    if constexpr (!kCodesIn) set_range(info, "x_minimum", "x_maximum", who_, x_grid_);
    if constexpr (kCodesOut) set_range(info, "y_minimum", "y_maximum", who_, y_grid_);
    std::array<Tensor, 4> arrays;
    bool constant = true;
    for (size_t i = 0; i < 4; ++i) constant = (arrays[i] = info.constant(kCodes + i)).present && constant;
    if (constant) weight_.emplace(shape_, LowBitInputs{arrays[0], arrays[1], arrays[2], arrays[3]}, who_);
    if (const Tensor bias = info.constant(kBias)) constant_bias_ = bias_of(bias);
    const Tensor x_zero = info.constant(kXZero);
    if (!weight_ || !x_zero.present || !is_single(x_zero)) return;
    StaticGrid grid = x_grid_;
    set_zero_point(x_zero, "x", grid);
    constant_correction_ = correction_of(*weight_, with_form(x_zero.type, *weight_, grid));
  }

  void run(Context& context) {
    const Tensor x = context.input(kX);
    if (x.shape.empty() || x.shape.back() != static_cast<int64_t>(shape_.columns))
      throw Error(who_ + "X has shape " + shape_text(x.shape) + ", but K=" + std::to_string(shape_.columns) +
                  " must be its last dimension");
    Call call;
    call.grid = x_grid_;
    const Tensor x_zero = context.input(kXZero);
    set_grid(context.input(kXScale), x_zero, "x", call.grid);
    if constexpr (kCodesIn) {
      if (x.type != x_zero.type)
        throw Error(who_ + "X is " + type_text(x.type) + " and x_zero_point " + type_text(x_zero.type) +
                    "; both must have one type");
    }
    if constexpr (kCodesOut) {
      call.y_grid = y_grid_;
      set_grid(context.input(kYScale), context.input(kYZero), "y", call.y_grid);
    }
    std::optional<StaticWeight> fresh;
    if (!weight_)
      fresh.emplace(
          shape_,
          LowBitInputs{context.input(kCodes), context.input(kScale), context.input(kZero), context.input(kTable)},
          who_);
    call.weight = weight_ ? &*weight_ : &*fresh;
    call.grid = with_form(x_zero.type, *call.weight, call.grid);
    const std::vector<float> fresh_bias = constant_bias_.empty() ? bias_of(context.input(kBias)) : std::vector<float>();
    call.bias = constant_bias_.empty() ? fresh_bias.data() : constant_bias_.data();

    std::vector<int64_t> shape = x.shape;
    shape.back() = static_cast<int64_t>(shape_.rows);
    auto* y = static_cast<char*>(context.output(0, shape));
    const size_t rows = x.count / shape_.columns;
    if (!rows) return;
    const std::vector<int32_t> fresh_correction =
        constant_correction_.empty() ? correction_of(*call.weight, call.grid) : std::vector<int32_t>();
    call.correction = constant_correction_.empty() ? fresh_correction.data() : constant_correction_.data();
    for (size_t first = 0; first < rows; first += kMaxTokens)
      run_rows(context, call, x, first, std::min(kMaxTokens, rows - first), y + first * shape_.rows * kSize);
  }

 private:
  struct Call {
    const StaticWeight* weight;
    StaticGrid grid, y_grid;
    const float* bias;          // [panels · 32]
    const int32_t* correction;  // [panel][chain][32]
  };

  void set_grid(const Tensor& scale, const Tensor& zero_point, const std::string& of, StaticGrid& grid) const {
    const std::string scale_name = of + "_scale";
    expect_single(scale, scale_name);
    grid.scale = numbers_of(scale, who_, scale_name.c_str())[0];
    if (!(grid.scale > 0) || !std::isfinite(grid.scale))
      throw Error(who_ + "input " + scale_name + " is " + std::to_string(grid.scale) + ", not a positive number");
    set_zero_point(zero_point, of, grid);
  }

  void set_zero_point(const Tensor& zero_point, const std::string& of, StaticGrid& grid) const {
    const std::string name = of + "_zero_point";
    expect_single(zero_point, name);
    if (zero_point.type != Type::uint8 && zero_point.type != Type::int8 && !four_bits(zero_point.type))
      throw Error(who_ + "input " + name + " is " + type_text(zero_point.type) + "; use uint8, int8, uint4 or int4");
    const uint8_t byte = code_at(zero_point, 0);
    grid.zero_point = is_signed(zero_point.type) ? static_cast<int8_t>(byte) : byte;
  }

  void expect_single(const Tensor& tensor, const std::string& name) const {
    if (!is_single(tensor))
      throw Error(who_ + "input " + name + " has shape " + shape_text(tensor.shape) + ", but one number is wanted");
  }

  std::vector<float> bias_of(const Tensor& tensor) const {
    if (!has_shape(tensor, {shape_.rows}) && !is_single(tensor))
      throw Error(who_ + "bias has shape " + shape_text(tensor.shape) +
                  ", but one number or N=" + std::to_string(shape_.rows) + " of them are wanted");
    std::vector<float> bias = numbers_of(tensor, who_, "bias");
    bias.resize(shape_.rows, bias[0]);
    bias.resize((shape_.rows + kPanel - 1) / kPanel * kPanel, 0.0f);
    return bias;
  }

  // Which bytes are signed, those of the weight or those of X (static_product.h).
  StaticGrid with_form(Type x_zero, const StaticWeight& weight, StaticGrid grid) const {
    grid.negative = !kCodesIn ? grid.minimum < 0 : is_signed(x_zero);
    grid.shift = kernels_.signs(weight.packed.weight()) ? (grid.negative ? -128 : 0) : (grid.negative ? 0 : 128);
    return grid;
  }

  std::vector<int32_t> correction_of(const StaticWeight& of, const StaticGrid& grid) const {
    const LowBitWeight& weight = of.packed.weight();
    const size_t chains = chain_count(weight);
    std::vector<int32_t> correction = of.value_sums;
    const int32_t x_zero = grid.zero_point - grid.shift;
    const int32_t zero = kernels_.signs(weight) ? static_cast<int32_t>(weight.zero) : 0;
    for (size_t panel = 0; panel < weight.panels; ++panel)
      for (size_t g = 0; g < weight.groups; ++g) {
        const int32_t zeros = zero * static_cast<int32_t>(weight.group_columns(g));
        int32_t* sums = &correction[(panel * chains + chain_of(weight, g)) * kPanel];
        for (size_t row = 0; row < kPanel; ++row) sums[row] -= zeros;
      }
    for (int32_t& sum : correction) sum *= -x_zero;
    return correction;
  }

  // Row `row` of X as codes (`bytes` takes those that are unpacked) or as float32 (`wide`).
  const uint8_t* codes_of(const Tensor& x, size_t row, uint8_t* bytes) const {
    const size_t begin = row * shape_.columns;
    if (!four_bits(x.type)) return x.as<uint8_t>() + begin;
    for (size_t k = 0; k < shape_.columns; ++k) bytes[k] = code_at(x, begin + k);
    return bytes;
  }
  const float* floats_of(const Tensor& x, size_t row, float* wide) const {
    const size_t begin = row * shape_.columns;
    if constexpr (type == Type::float32) return x.as<float>() + begin;
    else
      (type == Type::float16 ? numbers_.from_float16 : numbers_.from_bfloat16)(x.as<uint16_t>() + begin, wide,
                                                                               shape_.columns);
    return wide;
  }

  void run_rows(Context& context, const Call& call, const Tensor& x, size_t first, size_t rows, char* y) {
    const LowBitWeight& weight = call.weight->packed.weight();
    const size_t width = weight.width(), chains = chain_count(weight), together = kernels_.together(rows);
    const size_t filled = (rows + together - 1) / together * together;
    const bool signs = kernels_.signs(weight);
    const size_t sums = signs ? 0 : filled * chains;
    const size_t tasks = std::min(filled, rows * width / kTaskNumbers + 1);
    const size_t own = Scratch::size_of<float>(shape_.columns);  // of a task
    Scratch::Loan loan(scratch_, tasks * own + Scratch::size_of<int8_t>(filled * width) +
                                     Scratch::size_of<int32_t>(sums) + Scratch::size_of<uint8_t>(filled));
    float* wide = loan.next<float>(tasks * own / sizeof(float));
    StaticRows q{loan.next<int8_t>(filled * width), loan.next<int32_t>(sums), together};
    if (signs) q.sum = nullptr;
    uint8_t* spoiled = loan.next<uint8_t>(filled);
    context.parallel(tasks, [&](size_t task) {
      float* row_space = wide + task * own / sizeof(float);
      for (size_t row = task * filled / tasks; row < (task + 1) * filled / tasks; ++row) {
        spoiled[row] = 0;
        if (row >= rows)
          kernels_.place(weight, nullptr, call.grid, row, q);
        else if constexpr (!kCodesIn)
          spoiled[row] = !kernels_.quantize(weight, floats_of(x, first + row, row_space), call.grid, row, q);
        else
          kernels_.place(weight, codes_of(x, first + row, reinterpret_cast<uint8_t*>(row_space)), call.grid, row, q);
      }
    });

    const size_t per_task = std::max<size_t>(1, kTaskWork / (rows * width * kPanel)),
                 panel_tasks = (weight.panels + per_task - 1) / per_task;
    const float factor = call.grid.scale * weight.factor;
    context.parallel(panel_tasks, [&](size_t task) {
      alignas(64) float block[kMaxTokens * kPanel];
      for (size_t panel = task * per_task; panel < std::min((task + 1) * per_task, weight.panels); ++panel) {
        const size_t begin = panel * kPanel, count = std::min(kPanel, shape_.rows - begin);
        const bool direct = type == Type::float32 && count == kPanel;
        float* to = direct ? reinterpret_cast<float*>(y) + begin : block;
        kernels_.multiply(weight, panel, q, rows, call.correction + panel * chains * kPanel,
                          call.bias + begin, factor, to, direct ? shape_.rows : kPanel);
        if (!direct) store(call, block, rows, begin, count, y);
      }
    });
    if constexpr (!kCodesIn) spoil(spoiled, rows, y);
  }

  // Columns [begin, begin + count) of Y from a panel's numbers [row][32].
  void store(const Call& call, float* block, size_t rows, size_t begin, size_t count, char* y) const {
    if constexpr (kCodesOut) {
      uint8_t codes[kMaxTokens * kPanel];
      kernels_.requantize(block, call.y_grid, rows * kPanel, codes);
      for (size_t m = 0; m < rows; ++m) {
        char* to = y + m * shape_.rows + begin;
        if (count == kPanel) std::memcpy(to, codes + m * kPanel, kPanel);  // of constant size: no call
        else std::memcpy(to, codes + m * kPanel, count);
      }
    } else {
      for (size_t m = 0; m < rows; ++m, block += kPanel) {
        char* to = y + (m * shape_.rows + begin) * kSize;
        if constexpr (type == Type::float32) std::memcpy(to, block, count * sizeof(float));
        else
          (type == Type::float16 ? numbers_.to_float16 : numbers_.to_bfloat16)(block, reinterpret_cast<uint16_t*>(to),
                                                                               count);
      }
    }
  }

  void spoil(const uint8_t* spoiled, size_t rows, char* y) const {
    for (size_t row = 0; row < rows; ++row) {
      if (!spoiled[row]) continue;
      if constexpr (type == Type::float32)
        std::fill_n(reinterpret_cast<float*>(y) + row * shape_.rows, shape_.rows, std::nanf(""));
      else
        std::fill_n(reinterpret_cast<uint16_t*>(y) + row * shape_.rows, shape_.rows,
                    static_cast<uint16_t>(type == Type::float16 ? 0x7e00 : 0x7fc0));
    }
  }

  std::string who_;
  const NumberKernels& numbers_;
  const StaticProduct& kernels_;
  LowBitShape shape_{};
  StaticGrid x_grid_{}, y_grid_{};
  std::optional<StaticWeight> weight_;
  std::vector<float> constant_bias_;
  std::vector<int32_t> constant_correction_;
  Scratch scratch_;
};

}  // namespace

const abi::CustomOp* quantized_matmul_lowbit_float32() {
  return operation<StaticMatMul<StaticForm::codes_to_float, Type::float32>>();
}
const abi::CustomOp* quantized_matmul_lowbit_float16() {
  return operation<StaticMatMul<StaticForm::codes_to_float, Type::float16>>();
}
const abi::CustomOp* quantized_matmul_lowbit_bfloat16() {
  return operation<StaticMatMul<StaticForm::codes_to_float, Type::bfloat16>>();
}
const abi::CustomOp* qlinear_matmul_lowbit_uint8() {
  return operation<StaticMatMul<StaticForm::codes_to_codes, Type::uint8>>();
}
const abi::CustomOp* qlinear_matmul_lowbit_int8() {
  return operation<StaticMatMul<StaticForm::codes_to_codes, Type::int8>>();
}
const abi::CustomOp* static_matmul_lowbit_float32() {
  return operation<StaticMatMul<StaticForm::float_to_float, Type::float32>>();
}
const abi::CustomOp* static_matmul_lowbit_float16() {
  return operation<StaticMatMul<StaticForm::float_to_float, Type::float16>>();
}
const abi::CustomOp* static_matmul_lowbit_bfloat16() {
  return operation<StaticMatMul<StaticForm::float_to_float, Type::bfloat16>>();
}

}  // namespace qonnx::cpu
