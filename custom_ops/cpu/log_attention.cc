// LogAttention: Y = weights · V / Σ weights, weights from a logarithmic code of the distance to the row's largest
// score.
//
// Inputs: scores [..., M, N] (scaled and masked; −∞ is a masked place); value [..., N, D], of the type of the scores or
// int8; value_scale float32 [1] or [D]; table float32 [levels], the weight of each code. Attribute codes_per_octave.
// Leading dimensions broadcast. A row that is masked everywhere gives 0, one with NaN or +∞ gives NaN.
//
// Values are brought into padded columns once for each of their matrices (not at all where float32 values fit as they
// are); then blocks of rows are computed in parallel: weights of a block of rows, which stay in the L1 cache, times V.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "../formats/float16.h"
#include "../quantizer_operands.h"
#include "../shapes.h"
#include "float_product.h"
#include "log_attention.h"
#include "memory.h"
#include "numbers.h"
#include "operators.h"
#include "tier.h"

namespace qonnx::cpu {

QONNX_BY_TIER(NumberKernels, number_kernels)
QONNX_BY_TIER(FloatProduct, float_product)
QONNX_BY_TIER(LogAttentionKernels, log_attention_kernels)

namespace {

constexpr size_t kBlockRows = 24;  // rows of scores whose weights are computed together
constexpr size_t kTasks = 32;

size_t padded_to(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

// Finds out what repeats in a table: see log_attention.h.
void analyse(LogTable& table) {
  const int last = table.levels - 1;
  for (int period = 1; period <= 16 && !table.period && table.weight[last] == 0; period *= 2) {
    bool repeats = true;
    for (int k = 0; k < last && repeats; ++k) {
      const uint32_t halvings = static_cast<uint32_t>(k / period) << 23, bits = float_bits(table.weight[k % period]);
      repeats = std::isnormal(table.weight[k]) && float_bits(table.weight[k]) == bits - halvings;
    }
    if (repeats) table.period = period;
  }
  if (table.levels > 16 || table.period < 1 || table.period > 2) return;
  table.bytes = true;
  for (int k = 0; k < last; ++k) {
    if (table.period == 1) {
      (k < 8 ? table.high : table.low)[k] = static_cast<uint8_t>(k < 8 ? 128 >> k : 128 >> (k - 8));
    } else {
      (k % 2 ? table.low : table.high)[k] = static_cast<uint8_t>(128 >> (k / 2));
    }
  }
  table.high_unit = table.weight[0] / 128;
  table.low_unit = (table.period == 1 ? table.weight[0] / 256 : table.weight[1]) / 128;
}

template <Type type>
class LogAttention {
 public:
  static constexpr const char* name = "LogAttention";
  static constexpr Port inputs[] = {{type}, {Type::any}, {Type::float32}, {Type::float32}};
  static constexpr Port outputs[] = {{type}};

  static void infer(ShapeInference& shapes) { infer_attention(shapes); }

  explicit LogAttention(const NodeInfo& info)
      : who_(std::string(name) + " '" + info.node_name() + "': "),
        numbers_(*number_kernels_table[static_cast<int>(active_tier())]),
        product_(*float_product_table[static_cast<int>(active_tier())]),
        kernels_(*log_attention_kernels_table[static_cast<int>(active_tier())]),
        codes_per_octave_(codes_per_octave(info, who_)) {
    if (const Tensor table = info.constant(3)) table_ = table_of(table);
  }

  void run(Context& context) {
    const Tensor scores = context.input(0), value = context.input(1), scale = context.input(2);
    const LogTable table = table_ ? *table_ : table_of(context.input(3));
    if (value.type != type && value.type != Type::int8)
      throw Error(who_ + "value is " + type_text(value.type) + ", but scores are " + type_text(type) +
                  "; both must have one type, or value be int8");
    Job job;
    const std::vector<int64_t> shape = plan(scores, value, job);
    if (!is_single(scale) && !has_shape(scale, {job.d}))
      throw Error(who_ + "value_scale has shape " + shape_text(scale.shape) +
                  ", but one number or D=" + std::to_string(job.d) + " of them are wanted");
    job.scores = scores.data;
    job.value = value.data;
    job.y = context.output(0, shape);
    job.scale.assign(job.padded, 1.0f);
    for (size_t c = 0; c < job.d; ++c) job.scale[c] = scale.as<float>()[scale.count == 1 ? 0 : c];
    job.integers = value.type == Type::int8;
    job.bytes = job.integers && table.bytes && kernels_.multiply_bytes && job.n <= kLongestByteRow;
    if (!job.batches() || !job.m || !job.d) return;
    if (job.bytes) run_bytes(context, table, job);
    else run_floats(context, table, job);
  }

 private:
  static constexpr size_t kSize = type == Type::float32 ? 4 : 2;

  struct Job {
    size_t m, n, d, padded;                          // padded: D in whole tiles
    std::vector<size_t> score_matrix, value_matrix;  // of each batch, in the broadcast order
    size_t value_matrices;
    const void *scores, *value;
    void* y;
    std::vector<float> scale;
    bool integers, bytes;
    size_t batches() const { return score_matrix.size(); }
  };

  LogTable table_of(const Tensor& tensor) const {
    if (tensor.shape.size() != 1 || tensor.count < 2 || tensor.count > kMaxLevels || tensor.type != Type::float32)
      throw Error(who_ + "table has shape " + shape_text(tensor.shape) +
                  ", but float32 of 2 to 256 weights are wanted");
    LogTable table{};
    table.factor = codes_per_octave_ * 1.44269504f;
    table.levels = static_cast<int>(tensor.count);
    std::copy_n(tensor.as<float>(), tensor.count, table.weight);
    analyse(table);
    return table;
  }

  // The shape of the output, and which matrices meet.
  std::vector<int64_t> plan(const Tensor& scores, const Tensor& value, Job& job) const {
    const std::string shapes = "scores " + shape_text(scores.shape) + " and value " + shape_text(value.shape);
    if (scores.shape.size() < 2 || value.shape.size() < 2)
      throw Error(who_ + shapes + " need at least two dimensions each");
    const size_t rank = std::max(scores.shape.size(), value.shape.size());
    std::vector<int64_t> s(rank - scores.shape.size(), 1), v(rank - value.shape.size(), 1);
    s.insert(s.end(), scores.shape.begin(), scores.shape.end());
    v.insert(v.end(), value.shape.begin(), value.shape.end());
    if (s[rank - 1] != v[rank - 2])
      throw Error(who_ + shapes + " do not fit: the last dimension of scores must be the last but one of value");
    std::vector<int64_t> y(rank);
    size_t batches = 1;
    job.value_matrices = 1;
    for (size_t i = 0; i + 2 < rank; ++i) {
      if (s[i] != v[i] && s[i] != 1 && v[i] != 1)
        throw Error(who_ + shapes + " do not broadcast in dimension " + std::to_string(i));
      y[i] = s[i] == 1 ? v[i] : s[i];
      batches *= static_cast<size_t>(y[i]);
      job.value_matrices *= static_cast<size_t>(v[i]);
    }
    job.m = static_cast<size_t>(s[rank - 2]);
    job.n = static_cast<size_t>(s[rank - 1]);
    job.d = static_cast<size_t>(v[rank - 1]);
    job.padded = padded_to(job.d, kColumnPad);
    y[rank - 2] = s[rank - 2];
    y[rank - 1] = v[rank - 1];
    job.score_matrix.assign(batches, 0);
    job.value_matrix.assign(batches, 0);
    for (size_t b = 0; b < batches; ++b) {
      size_t rest = b, of_s = 0, of_v = 0, step_s = 1, step_v = 1;
      for (size_t i = rank - 2; i-- > 0;) {
        const size_t index = rest % static_cast<size_t>(y[i]);
        rest /= static_cast<size_t>(y[i]);
        if (s[i] != 1) of_s += index * step_s;
        if (v[i] != 1) of_v += index * step_v;
        step_s *= static_cast<size_t>(s[i]);
        step_v *= static_cast<size_t>(v[i]);
      }
      job.score_matrix[b] = of_s;
      job.value_matrix[b] = of_v;
    }
    return y;
  }

  void widen(const void* x, float* y, size_t n) const {
    if constexpr (type == Type::float32) std::memcpy(y, x, n * sizeof(float));
    else
      (type == Type::float16 ? numbers_.from_float16 : numbers_.from_bfloat16)(static_cast<const uint16_t*>(x), y, n);
  }

  // Row `row` of a matrix of scores as float32, in place where it is that already.
  const float* scores_of(const Job& job, size_t matrix, size_t row, float* wide) const {
    const char* x = static_cast<const char*>(job.scores) + (matrix * job.m + row) * job.n * kSize;
    if constexpr (type == Type::float32) return reinterpret_cast<const float*>(x);
    widen(x, wide, job.n);
    return wide;
  }

  // Splits all blocks of rows over tasks and calls body(task, batch, first row, rows).
  template <class Body>
  void for_blocks(const Context& context, const Job& job, size_t tasks, Body&& body) const {
    const size_t per_matrix = (job.m + kBlockRows - 1) / kBlockRows, blocks = job.batches() * per_matrix;
    context.parallel(tasks, [&](size_t task) {
      for (size_t block = task * blocks / tasks; block < (task + 1) * blocks / tasks; ++block) {
        const size_t first = block % per_matrix * kBlockRows;
        body(task, block / per_matrix, first, std::min(kBlockRows, job.m - first));
      }
    });
  }
  static size_t tasks_of(const Job& job) {
    return std::min(kTasks, job.batches() * ((job.m + kBlockRows - 1) / kBlockRows));
  }

  // One finished row: divided by the sum of its weights, scaled, in the type of the output.
  void finish(const Job& job, float* sums, float sum, char* to) const {
    const float inverse = sum > 0 ? 1 / sum : std::isnan(sum) ? sum : 1;
    float* y = type == Type::float32 ? reinterpret_cast<float*>(to) : sums;
    kernels_.finish(sums, inverse, job.scale.data(), job.d, y);
    if constexpr (type != Type::float32)
      (type == Type::float16 ? numbers_.to_float16 : numbers_.to_bfloat16)(y, reinterpret_cast<uint16_t*>(to), job.d);
  }
  char* row_of(const Job& job, size_t batch, size_t row) const {
    return static_cast<char*>(job.y) + (batch * job.m + row) * job.d * kSize;
  }

  void run_floats(Context& context, const LogTable& table, const Job& job) {
    const bool direct = type == Type::float32 && !job.integers && job.padded == job.d;
    const size_t tasks = tasks_of(job), stride = padded_to(job.n, 16), packed_size = direct ? 0 : job.n * job.padded;
    const size_t own = kBlockRows * (stride + job.padded) + stride;
    Scratch::Loan loan(
        scratch_, Scratch::size_of<float>(job.value_matrices * packed_size) + Scratch::size_of<float>(tasks * own));
    float* packed = loan.next<float>(job.value_matrices * packed_size);
    float* space = loan.next<float>(tasks * own);
    if (!direct)
      context.parallel(job.value_matrices, [&](size_t matrix) {
        float* to = packed + matrix * packed_size;
        for (size_t row = matrix * job.n; row < (matrix + 1) * job.n; ++row, to += job.padded) {
          if (job.integers) kernels_.widen_bytes(static_cast<const int8_t*>(job.value) + row * job.d, job.d, to);
          else widen(static_cast<const char*>(job.value) + row * job.d * kSize, to, job.d);
          std::fill(to + job.d, to + job.padded, 0.0f);
        }
      });
    const float* values = direct ? static_cast<const float*>(job.value) : packed;
    for_blocks(context, job, tasks, [&](size_t task, size_t batch, size_t first, size_t rows) {
      float *weights = space + task * own, *sums = weights + kBlockRows * stride,
            *wide = sums + kBlockRows * job.padded;
      float totals[kBlockRows];
      for (size_t r = 0; r < rows; ++r)
        totals[r] = kernels_.weigh(table, scores_of(job, job.score_matrix[batch], first + r, wide), job.n,
                                   weights + r * stride);
      product_.multiply(weights, stride, values + job.value_matrix[batch] * job.n * job.padded, job.padded, job.n, rows,
                        job.padded, false, sums, job.padded);
      for (size_t r = 0; r < rows; ++r) finish(job, sums + r * job.padded, totals[r], row_of(job, batch, first + r));
    });
  }

  void run_bytes(Context& context, const LogTable& table, const Job& job) {
    const size_t tasks = tasks_of(job), stride = padded_to(job.n, 16), packed_size = padded_to(job.n, 4) * job.padded;
    const size_t own = kBlockRows * 2 * stride, floats = kBlockRows * job.padded + stride;
    Scratch::Loan loan(scratch_, Scratch::size_of<int8_t>(job.value_matrices * packed_size) +
                                     Scratch::size_of<uint8_t>(tasks * own) + Scratch::size_of<float>(tasks * floats));
    int8_t* packed = loan.next<int8_t>(job.value_matrices * packed_size);
    uint8_t* space = loan.next<uint8_t>(tasks * own);
    float* float_space = loan.next<float>(tasks * floats);
    context.parallel(job.value_matrices, [&](size_t matrix) {
      kernels_.pack_bytes(static_cast<const int8_t*>(job.value) + matrix * job.n * job.d, job.n, job.d, job.padded,
                          packed + matrix * packed_size);
    });
    for_blocks(context, job, tasks, [&](size_t task, size_t batch, size_t first, size_t rows) {
      uint8_t *high = space + task * own, *low = high + kBlockRows * stride;
      float *sums = float_space + task * floats, *wide = sums + kBlockRows * job.padded, totals[kBlockRows];
      for (size_t r = 0; r < rows; ++r)
        totals[r] = kernels_.weigh_bytes(table, scores_of(job, job.score_matrix[batch], first + r, wide), job.n,
                                         high + r * stride, low + r * stride);
      kernels_.multiply_bytes(table, high, low, stride, rows, packed + job.value_matrix[batch] * packed_size, job.n,
                              job.padded, sums);
      for (size_t r = 0; r < rows; ++r) finish(job, sums + r * job.padded, totals[r], row_of(job, batch, first + r));
    });
  }

  std::string who_;
  const NumberKernels& numbers_;
  const FloatProduct& product_;
  const LogAttentionKernels& kernels_;
  float codes_per_octave_;
  std::optional<LogTable> table_;
  Scratch scratch_;
};

}  // namespace

const abi::CustomOp* log_attention_float32() { return operation<LogAttention<Type::float32>>(); }
const abi::CustomOp* log_attention_float16() { return operation<LogAttention<Type::float16>>(); }
const abi::CustomOp* log_attention_bfloat16() { return operation<LogAttention<Type::bfloat16>>(); }

}  // namespace qonnx::cpu
