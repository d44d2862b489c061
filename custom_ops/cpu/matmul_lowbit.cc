// Y = X · Wᵀ + bias with a weight of 1 to 8 bits a number (MatMulLowBit) or in code books (MatMulCodebook), in float32
// or, as DynamicQuantize…, with X rounded to 8 or 16 bits by row and block first.
//
// Inputs: X [..., K]; codes uint8 [N, row bytes]; then either scale [N, ceil(K / block_size)], zero_point, the same
// shape or one number, and table float32 [levels]: w = scale · (table[code] − zero_point); or codebooks [books, levels,
// length] and scale: w = scale · Σ codebooks[book, code[K / length, book]]; then bias, [N] or [1]; then, if wanted,
// low_rank_a [K, rank] and low_rank_b [rank, N]: Y += (X · A) · B in float32, X as it came. Attributes K, N, block_size,
// levels, codes_per_word, bytes_per_word (the layout of formats/codes.h); of DynamicQuantize…, activation_bits, 8 or 16.
//
// Constant weights are packed once, when the kernel is created. Rows of X are prepared in parallel (spread over padded
// blocks, or quantized), then panels of 32 outputs are computed in parallel, at most 256 rows of X at a time. A few
// rows of X and code books go by tables of partial sums instead (codebook_tables.h).
#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <optional>

#include "../formats/float16.h"
#include "../shapes.h"
#include "codebook_pack.h"
#include "codebook_tables.h"
#include "low_rank_branch.h"
#include "lowbit_attributes.h"
#include "numbers.h"
#include "operators.h"
#include "tier.h"

namespace qonnx::cpu {

QONNX_BY_TIER(NumberKernels, number_kernels)
QONNX_BY_DOT_TIER(LowBitInt8, lowbit_int8)
QONNX_BY_TIER(LowBitExact, lowbit_exact)
QONNX_BY_TIER(CodebookTables, codebook_tables)

namespace {

constexpr size_t kRowsAtOnce = 1024;           // of X: bounds the scratch memory
constexpr size_t kTaskWork = size_t{1} << 21;  // multiply-adds worth a task of their own: some 20 µs
constexpr size_t kTaskNumbers = 1 << 14;       // numbers of X worth a task of their own
constexpr size_t kTaskTables = 1 << 17;        // bytes of tables worth a task of their own

// What differs between the two kinds of weight: inputs between X and the bias, names, packing.
struct LowBit {
  static constexpr const char *exact = "MatMulLowBit", *dynamic = "DynamicQuantizeMatMulLowBit";
  static constexpr size_t kInputs = 4, kMostLevels = 256;
  using Packed = PackedLowBit;
  static constexpr Port inputs[] = {{Type::uint8}, {Type::any}, {Type::any}, {Type::float32}};
  static LowBitInputs gather(const std::vector<Tensor>& t) { return {t[0], t[1], t[2], t[3]}; }
};

struct InCodebooks {
  static constexpr const char *exact = "MatMulCodebook", *dynamic = "DynamicQuantizeMatMulCodebook";
  static constexpr size_t kInputs = 3, kMostLevels = 65536;
  using Packed = PackedCodebook;
  static constexpr Port inputs[] = {{Type::uint8}, {Type::any}, {Type::any}};
  static CodebookInputs gather(const std::vector<Tensor>& t) { return {t[0], t[1], t[2]}; }
};

template <class Form, Type type>
constexpr std::array<Port, Form::kInputs + 4> ports() {
  std::array<Port, Form::kInputs + 4> all{};
  all.front() = all[Form::kInputs + 1] = {type};
  for (size_t i = 0; i < Form::kInputs; ++i) all[i + 1] = Form::inputs[i];
  all[Form::kInputs + 2] = all[Form::kInputs + 3] = {Type::any, Arity::optional};
  return all;
}

template <class Form, Type type, bool quantized>
class Product {
 public:
  static constexpr const char* name = quantized ? Form::dynamic : Form::exact;
  static constexpr auto inputs = ports<Form, type>();
  static constexpr Port outputs[] = {{type}};

  static void infer(ShapeInference& shapes) { infer_product(shapes, 1); }

  explicit Product(const NodeInfo& info)
      : who_(std::string(name) + " '" + info.node_name() + "': "),
        numbers_(*number_kernels_table[static_cast<int>(active_tier())]),
        int8_(*lowbit_int8_table[static_cast<int>(active_tier())]),
        exact_(*lowbit_exact_table[static_cast<int>(active_tier())]),
        tables_(*codebook_tables_table[static_cast<int>(active_tier())]) {
    shape_ = low_bit_shape(info, Form::kMostLevels, who_);
    const int64_t bits = quantized ? info.integer("activation_bits", 8) : 8;
    if (bits != 8 && bits != 16)
      throw Error(who_ + "activation_bits=" + std::to_string(bits) + " has no kernel; use 8 or 16");
    shape_.triples = true;
    shape_.pairs = bits == 16;
    std::vector<Tensor> arrays;
    for (size_t i = 1; i <= Form::kInputs; ++i)
      if (Tensor array = info.constant(i)) arrays.push_back(std::move(array));
    if (arrays.size() == Form::kInputs) packed_.emplace(shape_, Form::gather(arrays), quantized, who_);
    if (const Tensor bias = info.constant(kBias)) constant_bias_ = bias_of(bias);
    const Tensor a = info.constant(kLowRankA), b = info.constant(kLowRankB);
    if (a && b) constant_branch_.emplace(a, b, shape_.columns, shape_.rows, who_);
  }

  void run(Context& context) {
    const Tensor x = context.input(0);
    if (x.shape.empty() || x.shape.back() != static_cast<int64_t>(shape_.columns))
      throw Error(who_ + "X has shape " + shape_text(x.shape) + ", but K=" + std::to_string(shape_.columns) +
                  " must be its last dimension");
    std::optional<typename Form::Packed> fresh;
    if (!packed_) {
      std::vector<Tensor> arrays;
      for (size_t i = 1; i <= Form::kInputs; ++i) arrays.push_back(context.input(i));
      fresh.emplace(shape_, Form::gather(arrays), quantized, who_);
    }
    const LowBitWeight& weight = (packed_ ? *packed_ : *fresh).weight();
    std::vector<float> own_bias;
    if (constant_bias_.empty())
      if (const Tensor bias = context.input(kBias)) own_bias = bias_of(bias);
    const std::vector<float>& bias = constant_bias_.empty() ? own_bias : constant_bias_;
    std::optional<LowRankBranch> own_branch;
    if (!constant_branch_) {
      const Tensor a = context.input(kLowRankA), b = context.input(kLowRankB);
      if (a || b) own_branch.emplace(a, b, shape_.columns, shape_.rows, who_);
    }
    const LowRankBranch* branch = constant_branch_ ? &*constant_branch_ : own_branch ? &*own_branch : nullptr;
    Terms terms{bias.empty() ? nullptr : bias.data(), branch && branch->rank() ? branch : nullptr, nullptr};

    std::vector<int64_t> shape = x.shape;
    shape.back() = static_cast<int64_t>(shape_.rows);
    auto* y = static_cast<char*>(context.output(0, shape));
    const size_t rows = x.count / shape_.columns;
    for (size_t first = 0; first < rows; first += kRowsAtOnce)
      run_rows(context, weight, static_cast<const char*>(x.data) + first * shape_.columns * kSize,
               std::min(kRowsAtOnce, rows - first), terms, y + first * shape_.rows * kSize);
  }

 private:
  static constexpr size_t kSize = type == Type::float32 ? 4 : 2;
  static constexpr size_t kBias = Form::kInputs + 1, kLowRankA = kBias + 1, kLowRankB = kBias + 2;

  // What is added to the product.
  struct Terms {
    const float* bias;            // [N], or null
    const LowRankBranch* branch;  // or null
    const float* x_down;          // X · A of the rows at hand, [row][width]
  };

  std::vector<float> bias_of(const Tensor& tensor) const {
    if (!has_shape(tensor, {shape_.rows}) && !is_single(tensor))
      throw Error(who_ + "bias has shape " + shape_text(tensor.shape) +
                  ", but one number or N=" + std::to_string(shape_.rows) + " of them are wanted");
    std::vector<float> bias(tensor.count);
    widen(tensor.data, bias.data(), tensor.count);
    bias.resize(shape_.rows, bias[0]);
    return bias;
  }

  void widen(const void* x, float* y, size_t n) const {
    if constexpr (type == Type::float32) std::memcpy(y, x, n * sizeof(float));
    else
      (type == Type::float16 ? numbers_.from_float16 : numbers_.from_bfloat16)(static_cast<const uint16_t*>(x), y, n);
  }

  // Rows of X that a task multiplies with the first factor: whole sixes, as its tiles are, worth a task.
  size_t rows_of_branch(const LowRankBranch& branch) const {
    return (kTaskWork / (shape_.columns * branch.width()) / 6 + 1) * 6;
  }

  // Rows of X as float32, in place where that is possible.
  const float* wide_rows_of(const char* x, size_t rows, float* wide) const {
    if constexpr (type == Type::float32) return reinterpret_cast<const float*>(x);
    widen(x, wide, rows * shape_.columns);
    return wide;
  }

  // A row of them.
  const float* wide_row(const char* x, float* wide) const { return wide_rows_of(x, 1, wide); }

  // The same in the padded columns of the packed weight.
  const float* padded_row(const LowBitWeight& weight, const float* row, float* padded) const {
    if (!weight.padded()) return row;
    const size_t padded_block = weight.padded_block();
    float* to = padded;
    for (size_t k = 0; k < weight.columns; k += weight.block, to += padded_block) {
      const size_t length = std::min(weight.block, weight.columns - k);
      std::memcpy(to, row + k, length * sizeof(float));
      std::memset(to + length, 0, (padded_block - length) * sizeof(float));
    }
    return padded;
  }

  void run_rows(Context& context, const LowBitWeight& weight, const char* x, size_t rows, Terms terms, char* y) {
    const size_t width = weight.width(), groups = weight.groups;
    const bool by_tables = !shape_.pairs && tables_.suits(weight, rows, !quantized);
    const size_t of_row = shape_.pairs ? 2 : 1;  // rows of codes
    const size_t together = by_tables   ? 1
                            : quantized ? int8_.together(weight, of_row * rows, shape_.pairs)
                                        : exact_.together(weight, rows);
    // rows of zeros fill up the last `together`
    const size_t filled = (of_row * rows + together - 1) / together * together, prepared = filled / of_row;
    const size_t tasks = std::min(prepared, rows * width / kTaskNumbers + 1);
    const size_t own = Scratch::size_of<float>(width + shape_.columns);  // of a task
    const size_t numbers = filled * width, by_group = 3 * Scratch::size_of<float>(filled * groups);
    const size_t table_size = by_tables ? table_bytes(weight, !quantized) : 0;
    const size_t down_rows = terms.branch ? std::min(rows, rows_of_branch(*terms.branch)) : 1;
    const size_t down_tasks = terms.branch ? (rows + down_rows - 1) / down_rows : 0;
    const size_t down_own = type == Type::float32 ? 0 : Scratch::size_of<float>(down_rows * shape_.columns);
    const size_t down_size = terms.branch ? Scratch::size_of<float>(rows * terms.branch->width()) : 0;
    Scratch::Loan loan(scratch_, tasks * own + table_size + down_tasks * down_own + down_size +
                                     (quantized ? Scratch::size_of<int8_t>(numbers) + by_group
                                                : Scratch::size_of<float>(numbers)));
    float* rows_of_tasks = loan.next<float>(tasks * own / sizeof(float));
    QuantizedRows q{};
    float* floats = nullptr;
    if constexpr (quantized) {
      q = {loan.next<int8_t>(numbers), loan.next<float>(filled * groups), loan.next<int32_t>(filled * groups),
           loan.next<float>(filled * groups), together, shape_.pairs};
    } else {
      floats = loan.next<float>(numbers);
    }
    float* wide_rows = loan.next<float>(down_tasks * down_own / sizeof(float));
    float* x_down = loan.next<float>(down_size / sizeof(float));
    terms.x_down = x_down;
    context.parallel(tasks + down_tasks, [&](size_t task) {
      if (task >= tasks) {
        const size_t part = task - tasks, row = part * down_rows, count = std::min(down_rows, rows - row);
        float* wide = wide_rows + part * down_own / sizeof(float);
        const float* from = wide_rows_of(x + row * shape_.columns * kSize, count, wide);
        return terms.branch->down(from, count, x_down + row * terms.branch->width());
      }
      float *wide = rows_of_tasks + task * own / sizeof(float), *padded = wide + shape_.columns;
      for (size_t row = task * prepared / tasks; row < (task + 1) * prepared / tasks; ++row) {
        const float* from = row < rows ? wide_row(x + row * shape_.columns * kSize, wide) : nullptr;
        if constexpr (quantized) int8_.quantize(weight, from ? padded_row(weight, from, padded) : nullptr, row, q);
        else exact_.place(weight, from, row, together, floats);
      }
    });

    if (!by_tables) return multiply_panels(context, weight, q, floats, together, 0, rows, terms, y);
    auto* tables = loan.next<uint8_t>(table_size);
    for (size_t row = 0; row < rows; ++row)
      if (!multiply_by_tables(context, weight, q, floats, row, tables, terms, y))
        multiply_panels(context, weight, q, floats, together, row, row + 1, terms, y);
  }

  // Rows [begin, end) of X with every panel.
  void multiply_panels(Context& context, const LowBitWeight& weight, const QuantizedRows& q, const float* floats,
                       size_t together, size_t begin, size_t end, const Terms& terms, char* y) {
    const size_t panel_work = (end - begin) * weight.width() * kPanel;
    const size_t per_task = std::max<size_t>(1, kTaskWork / panel_work),
                 panel_tasks = (weight.panels + per_task - 1) / per_task;
    const size_t of_row = shape_.pairs ? 2 : 1, most = kMaxTokens / of_row;
    const size_t filled = (of_row * end + together - 1) / together * together;
    context.parallel(panel_tasks, [&](size_t task) {
      alignas(64) float sums[kMaxTokens * kPanel];
      for (size_t panel = task * per_task; panel < std::min((task + 1) * per_task, weight.panels); ++panel)
        for (size_t first = begin; first < end; first += most) {
          const size_t tokens = std::min(most, end - first), from = of_row * first;
          const size_t with_zeros = std::min(kMaxTokens, filled - from);
          if constexpr (quantized) int8_.multiply(weight, panel, q, from, with_zeros, sums);
          else exact_.multiply(weight, panel, floats, together, from, with_zeros, sums);
          store(weight, panel, sums, first, tokens, terms, y);
        }
    });
  }

  // One row of X with every panel; false, with nothing done, when its tables do not hold the sums.
  bool multiply_by_tables(Context& context, const LowBitWeight& weight, const QuantizedRows& q, const float* floats,
                          size_t row, uint8_t* tables, const Terms& terms, char* y) {
    const size_t vectors = weight.columns / weight.codebook->length;
    const size_t table_tasks = std::min(vectors, table_bytes(weight, !quantized) / kTaskTables + 1);
    std::atomic<bool> fits{true};
    context.parallel(table_tasks, [&](size_t task) {
      const size_t first = task * vectors / table_tasks, last = (task + 1) * vectors / table_tasks;
      if constexpr (!quantized) tables_.build_exact(weight, floats + row * weight.width(), first, last, tables);
      else if (!tables_.build_int8(weight, q.codes + row * weight.width(), first, last, tables)) fits = false;
    });
    if (!fits) return false;
    const size_t pairs = (weight.panels + 1) / 2;
    context.parallel((pairs + kMostPairs - 1) / kMostPairs, [&](size_t task) {
      alignas(64) float sums[kMostPairs * kPair];
      const size_t first = task * kMostPairs, count = std::min(kMostPairs, pairs - first);
      if constexpr (quantized)
        tables_.multiply_int8(weight, tables, q.scale + row * weight.groups, first, count, sums);
      else tables_.multiply_exact(weight, tables, first, count, sums);
      for (size_t panel = 2 * first; panel < std::min(2 * (first + count), weight.panels); ++panel)
        store(weight, panel, sums + (panel - 2 * first) * kPanel, row, 1, terms, y);
    });
    return true;
  }

  // `tokens` rows of Y from row `first` on, those of a panel's columns.
  void store(const LowBitWeight& weight, size_t panel, float* sums, size_t first, size_t tokens, const Terms& terms,
             char* y) const {
    const size_t begin = panel * kPanel, count = std::min(kPanel, shape_.rows - begin);
    const float* bias = terms.bias ? terms.bias + begin : nullptr;
    float factor = weight.factor;
    if (terms.branch) {
      for (size_t m = 0; m < tokens; ++m)
        numbers_.scale_add(sums + m * kPanel, factor, bias, sums + m * kPanel, count);
      terms.branch->up(panel, terms.x_down + first * terms.branch->width(), tokens, sums);
      bias = nullptr;
      factor = 1;
    }
    for (size_t m = 0; m < tokens; ++m, sums += kPanel) {
      char* to = y + ((first + m) * shape_.rows + begin) * kSize;
      float* wide = type == Type::float32 ? reinterpret_cast<float*>(to) : sums;
      numbers_.scale_add(sums, factor, bias, wide, count);
      if constexpr (type != Type::float32)
        (type == Type::float16 ? numbers_.to_float16 : numbers_.to_bfloat16)(wide, reinterpret_cast<uint16_t*>(to),
                                                                             count);
    }
  }

  std::string who_;
  const NumberKernels& numbers_;
  const LowBitInt8& int8_;
  const LowBitExact& exact_;
  const CodebookTables& tables_;
  LowBitShape shape_{};
  std::optional<typename Form::Packed> packed_;
  std::vector<float> constant_bias_;
  std::optional<LowRankBranch> constant_branch_;
  Scratch scratch_;
};

}  // namespace

const abi::CustomOp* matmul_lowbit_float32() { return operation<Product<LowBit, Type::float32, false>>(); }
const abi::CustomOp* matmul_lowbit_float16() { return operation<Product<LowBit, Type::float16, false>>(); }
const abi::CustomOp* matmul_lowbit_bfloat16() { return operation<Product<LowBit, Type::bfloat16, false>>(); }
const abi::CustomOp* dynamic_matmul_lowbit_float32() { return operation<Product<LowBit, Type::float32, true>>(); }
const abi::CustomOp* dynamic_matmul_lowbit_float16() { return operation<Product<LowBit, Type::float16, true>>(); }
const abi::CustomOp* dynamic_matmul_lowbit_bfloat16() { return operation<Product<LowBit, Type::bfloat16, true>>(); }
const abi::CustomOp* matmul_codebook_float32() { return operation<Product<InCodebooks, Type::float32, false>>(); }
const abi::CustomOp* matmul_codebook_float16() { return operation<Product<InCodebooks, Type::float16, false>>(); }
const abi::CustomOp* matmul_codebook_bfloat16() { return operation<Product<InCodebooks, Type::bfloat16, false>>(); }
const abi::CustomOp* dynamic_matmul_codebook_float32() {
  return operation<Product<InCodebooks, Type::float32, true>>();
}
const abi::CustomOp* dynamic_matmul_codebook_float16() {
  return operation<Product<InCodebooks, Type::float16, true>>();
}
const abi::CustomOp* dynamic_matmul_codebook_bfloat16() {
  return operation<Product<InCodebooks, Type::bfloat16, true>>();
}

}  // namespace qonnx::cpu
