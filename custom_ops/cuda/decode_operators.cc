// LogAttention, LogQuantize, LogQuantizeDequantize, LookupQuantize and GatherCodebook for ONNX Runtime's CUDA provider;
// kernels in log_attention.cu, log_quantize.cu, lookup_quantize.cu and gather.cu. Tables of weights lie in the host's
// memory and go with the launch.
#include <algorithm>
#include <limits>

#include "../quantizer_operands.h"
#include "../shapes.h"
#include "call.h"
#include "gather.h"
#include "log_attention.h"
#include "lookup_quantize.h"
#include "operators.h"
#include "runtime.h"

namespace qonnx::cuda {

namespace {

template <Type type, bool values>
class GpuLogQuantize {
 public:
  static constexpr const char* name = values ? "LogQuantizeDequantize" : "LogQuantize";
  static constexpr Port inputs[] = {
      {type}, {Type::any, Arity::required, Memory::host}, {Type::float32, Arity::required, Memory::host}};
  static constexpr Port outputs[] = {{values ? type : Type::uint8}};

  static void infer(ShapeInference& shapes) {
    if constexpr (values) shapes.output(0, shapes.input(0));
    else infer_codes(shapes);
  }

  explicit GpuLogQuantize(const NodeInfo& info) : who_(std::string(name) + " '" + info.node_name() + "': ") {
    present_device();
    job_.per_octave = codes_per_octave(info, who_);
    job_.element = element_of<type>();
    job_.values = values;
  }

  void run(Context& context) {
    const Tensor x = context.input(0), scale = context.input(1), table = context.input(2);
    LogQuantize job = job_;
    job.scale = one_scale(scale, who_);
    job.levels = levels_of(table, who_);
    std::copy_n(table.as<float>(), table.count, job.table);
    job.x = x.data;
    job.count = static_cast<int64_t>(x.count);
    job.y = context.output(0, x.shape);
    expect(run_log_quantize(job, stream_of(context)), who_);
  }

 private:
  std::string who_;
  LogQuantize job_{};
};

template <Type type>
class GpuLookupQuantize {
 public:
  static constexpr const char* name = "LookupQuantize";
  static constexpr Port inputs[] = {{type},
                                    {Type::any, Arity::required, Memory::host},
                                    {Type::uint8, Arity::required, Memory::host},
                                    {Type::uint8, Arity::required, Memory::host}};
  static constexpr Port outputs[] = {{Type::uint8}};

  static void infer(ShapeInference& shapes) { infer_codes(shapes); }

  explicit GpuLookupQuantize(const NodeInfo& info) : who_(std::string(name) + " '" + info.node_name() + "': ") {
    present_device();
  }

  void run(Context& context) {
    const Tensor x = context.input(0), scale = context.input(1), zero = context.input(2), table = context.input(3);
    const LookupGrid grid = lookup_grid(scale, zero, table, who_);
    LookupQuantize job{};
    job.scale = grid.scale;
    job.zero_point = grid.zero_point;
    std::copy_n(grid.table, sizeof job.table, job.table);
    job.x = x.data;
    job.element = element_of<type>();
    job.count = static_cast<int64_t>(x.count);
    job.codes = static_cast<uint8_t*>(context.output(0, x.shape));
    expect(run_lookup_quantize(job, stream_of(context)), who_);
  }

 private:
  std::string who_;
};

template <Type type>
class GpuLogAttention {
 public:
  static constexpr const char* name = "LogAttention";
  static constexpr Port inputs[] = {
      {type}, {Type::any}, {Type::float32}, {Type::float32, Arity::required, Memory::host}};
  static constexpr Port outputs[] = {{type}};

  static void infer(ShapeInference& shapes) { infer_attention(shapes); }

  explicit GpuLogAttention(const NodeInfo& info) : who_(std::string(name) + " '" + info.node_name() + "': ") {
    present_device();
    job_.factor = codes_per_octave(info, who_) * 1.44269504f;
    job_.element = element_of<type>();
  }

  void run(Context& context) {
    const Tensor scores = context.input(0), value = context.input(1), scale = context.input(2),
                 table = context.input(3);
    if (table.count < 2 || table.count > kMostLevels || table.type != Type::float32)
      throw Error(who_ + "table has shape " + shape_text(table.shape) + ", but float32 of 2 to 256 weights is wanted");
    if (value.type != type && value.type != Type::int8)
      throw Error(who_ + "value is " + type_text(value.type) + ", but scores are " + type_text(type) +
                  "; both must have one type, or value be int8");
    LogAttention job = job_;
    const std::vector<int64_t> shape = plan(scores, value, job);
    job.scales = static_cast<int>(scale.count);
    if (job.scales != 1 && job.scales != job.d)
      throw Error(who_ + "value_scale has shape " + shape_text(scale.shape) +
                  ", but one number or D=" + std::to_string(job.d) + " of them are wanted");
    job.scores = scores.data;
    job.value = value.data;
    job.scale = scale.as<float>();
    job.integers = value.type == Type::int8;
    job.y = context.output(0, shape);
    expect(run_log_attention(job, table.as<float>(), static_cast<int>(table.count), stream_of(context)), who_);
  }

 private:
  // The shape of y and where each of its matrices comes from.
  std::vector<int64_t> plan(const Tensor& scores, const Tensor& value, LogAttention& job) const {
    std::vector<int64_t> s = scores.shape, v = value.shape;
    const std::string both = "scores " + shape_text(s) + " and value " + shape_text(v);
    if (s.size() < 2 || v.size() < 2) throw Error(who_ + both + " need at least two dimensions each");
    if (s.back() != v[v.size() - 2]) throw Error(who_ + both + " do not fit: [..., M, N] and [..., N, D] are wanted");
    const size_t rank = std::max(s.size(), v.size());
    if (rank > kMostDimensions + 2)
      throw Error(who_ + both + " have more than " + std::to_string(kMostDimensions) + " leading dimensions");
    s.insert(s.begin(), rank - s.size(), 1);
    v.insert(v.begin(), rank - v.size(), 1);
    job.m = static_cast<int>(s[rank - 2]);
    job.n = static_cast<int>(s[rank - 1]);
    job.d = static_cast<int>(v[rank - 1]);
    job.batches = 1;
    job.dimensions = static_cast<int>(rank) - 2;
    std::vector<int64_t> y(rank);
    int64_t of_s = 1, of_v = 1;
    for (int i = job.dimensions - 1; i >= 0; --i) {
      if (s[i] != v[i] && s[i] != 1 && v[i] != 1)
        throw Error(who_ + both + " do not broadcast in dimension " + std::to_string(i));
      y[i] = s[i] == 1 ? v[i] : s[i];
      job.size[i] = static_cast<int>(y[i]);
      job.score_step[i] = s[i] == 1 ? 0 : static_cast<int>(of_s);
      job.value_step[i] = v[i] == 1 ? 0 : static_cast<int>(of_v);
      of_s *= s[i];
      of_v *= v[i];
      job.batches *= static_cast<int>(y[i]);
    }
    y[rank - 2] = job.m;
    y[rank - 1] = job.d;
    return y;
  }

  std::string who_;
  LogAttention job_{};
};

template <Type type>
class GpuGather {
 public:
  static constexpr const char* name = "GatherCodebook";
  static constexpr Port inputs[] = {{Type::int64}, {Type::uint8}, {type}, {Type::any}};
  static constexpr Port outputs[] = {{type}};

  static void infer(ShapeInference& shapes) {
    auto y = shapes.input(0);
    if (!y.known) return;
    y.type = shapes.input(2).type;  // not `type`: ONNX Runtime asks one of the variants for all
    y.dims.push_back(-1);           // K is an attribute, which shape inference does not see
    y.symbols.emplace_back();
    shapes.output(0, y);
  }

  explicit GpuGather(const NodeInfo& info) : who_(std::string(name) + " '" + info.node_name() + "': ") {
    present_device();
    const auto number = [&](const char* attribute) {
      return positive_attribute(info, attribute, who_, std::numeric_limits<int>::max());
    };
    job_.columns = static_cast<int>(number("K"));
    job_.weight_rows = static_cast<int64_t>(number("N"));
    job_.block = static_cast<int>(number("block_size"));
    job_.layout = code_layout(info, 65536, who_);
    job_.element = element_of<type>();
  }

  void run(Context& context) {
    const Tensor rows = context.input(0), codes = context.input(1), books = context.input(2), scale = context.input(3);
    const auto& shape = books.shape;
    Gather job = job_;
    if (shape.size() != 3 || shape[0] < 1 || shape[1] != job.layout.levels || shape[2] < 1 || shape[2] > 16 ||
        job.columns % shape[2])
      throw Error(who_ + "input codebooks has shape " + shape_text(shape) + ", but [books, levels=" +
                  std::to_string(job.layout.levels) + ", vector length from 1 to 16 that divides K=" +
                  std::to_string(job.columns) + "] is wanted");
    job.books = static_cast<int>(shape[0]);
    job.length = static_cast<int>(shape[2]);
    const auto n = static_cast<size_t>(job.weight_rows);
    const size_t row_bytes = job.layout.row_bytes(static_cast<size_t>(job.columns) / job.length * job.books);
    const size_t blocks = (static_cast<size_t>(job.columns) + job.block - 1) / job.block;
    expect_shape(codes.shape.size() == 2 && codes.count == n * row_bytes, who_, "codes", codes,
                 "[" + std::to_string(n) + ", " + std::to_string(row_bytes) + "]");
    expect_shape(scale.count == n * blocks, who_, "scale", scale,
                 "[" + std::to_string(n) + ", " + std::to_string(blocks) + "]");
    if (scale.type != Type::float32 && scale.type != Type::float16 && scale.type != Type::bfloat16)
      throw Error(who_ + "input scale is " + type_text(scale.type) + "; use float32, float16 or bfloat16");
    job.rows = rows.as<int64_t>();
    job.count = static_cast<int64_t>(rows.count);
    job.codes = codes.as<uint8_t>();
    job.codebooks = books.data;
    job.scale = scale.data;
    job.scale_element = scale.type == Type::float32   ? Element::float32
                        : scale.type == Type::float16 ? Element::float16
                                                      : Element::bfloat16;
    std::vector<int64_t> y_shape = rows.shape;
    y_shape.push_back(job.columns);
    job.y = context.output(0, y_shape);
    expect(run_gather(job, stream_of(context)), who_);
  }

 private:
  std::string who_;
  Gather job_{};
};

template <Type type>
void add(std::vector<const abi::CustomOp*>& all, const char* provider) {
  all.push_back(operation<GpuLogAttention<type>>(provider));
  all.push_back(operation<GpuLogQuantize<type, false>>(provider));
  all.push_back(operation<GpuLogQuantize<type, true>>(provider));
  all.push_back(operation<GpuLookupQuantize<type>>(provider));
  all.push_back(operation<GpuGather<type>>(provider));
}

}  // namespace

std::vector<const abi::CustomOp*> decode_operators(const char* provider) {
  std::vector<const abi::CustomOp*> all;
  add<Type::float32>(all, provider);
  add<Type::float16>(all, provider);
  add<Type::bfloat16>(all, provider);
  return all;
}

}  // namespace qonnx::cuda
