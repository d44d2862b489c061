// MatMulLowBit and DynamicQuantizeMatMulLowBit for ONNX Runtime's CUDA provider; kernels in product_tile.cuh.
//
// x and y lie in GPU memory; codes, scale, zero_point, table and bias in the host's, where constant ones are packed once
// and copied to the GPU when the kernel is created. Weights that are no initializers are packed and copied at each call:
// correct, but slow, and not for CUDA graphs.
#include <algorithm>
#include <array>
#include <optional>
#include <stdexcept>

#include "../operands.h"
#include "call.h"
#include "lowbit_pack.h"
#include "operators.h"
#include "runtime.h"

namespace qonnx::cuda {

namespace {

constexpr size_t kWorkspace = size_t{64} << 20;  // rows of x are taken in parts that need no more

// A weight on the GPU.
struct Loaded {
  LowBitPack pack;
  DeviceArray codes, parameters;
  explicit Loaded(LowBitPack packed)
      : pack(std::move(packed)),
        codes(pack.codes.data(), pack.codes.size()),
        parameters(pack.parameters.data(), pack.parameters.size()) {
    pack.weight.codes = codes.as<char>();
    pack.weight.parameters = parameters.as<char>();
    pack.codes = pack.parameters = {};
  }
};

template <Type type, bool quantized>
class GpuLowBit {
 public:
  static constexpr const char* name = quantized ? "DynamicQuantizeMatMulLowBit" : "MatMulLowBit";
  static constexpr Port inputs[] = {{type},
                                    {Type::uint8, Arity::required, Memory::host},
                                    {Type::any, Arity::required, Memory::host},
                                    {Type::any, Arity::required, Memory::host},
                                    {Type::float32, Arity::required, Memory::host},
                                    {type, Arity::required, Memory::host}};
  static constexpr Port outputs[] = {{type}};
  static constexpr size_t kBias = 5;

  static void infer(ShapeInference& shapes) {
    auto y = shapes.input(0);
    const auto codes = shapes.input(1);
    if (!y.known || !codes.known || codes.dims.size() != 2) return;
    y.dims.back() = codes.dims[0];
    y.symbols.back() = codes.symbols[0];
    shapes.output(0, y);
  }

  explicit GpuLowBit(const NodeInfo& info)
      : who_(std::string(name) + " '" + info.node_name() + "': "), device_(present_device()) {
    source_.columns = number(info, "K");
    source_.rows = number(info, "N");
    source_.block = std::min(number(info, "block_size"), source_.columns);
    source_.layout = code_layout(info, 256, who_);
    std::array<Tensor, 4> arrays;
    for (size_t i = 0; i < arrays.size(); ++i) arrays[i] = info.constant(i + 1);
    if (std::all_of(arrays.begin(), arrays.end(), [](const Tensor& t) { return t.present; }))
      constant_.emplace(packed(arrays));
    if (const Tensor bias = info.constant(kBias)) constant_bias_ = loaded_bias(bias);
  }

  void run(Context& context) {
    const Tensor x = context.input(0);
    if (x.shape.empty() || x.shape.back() != static_cast<int64_t>(source_.columns))
      throw Error(who_ + "X has shape " + shape_text(x.shape) + ", but K=" + std::to_string(source_.columns) +
                  " must be its last dimension");
    std::optional<Loaded> fresh;
    if (!constant_) fresh.emplace(packed({context.input(1), context.input(2), context.input(3), context.input(4)}));
    const Loaded& loaded = constant_ ? *constant_ : *fresh;
    const DeviceArray own_bias = constant_bias_ ? DeviceArray() : loaded_bias(context.input(kBias));

    std::vector<int64_t> shape = x.shape;
    shape.back() = source_.rows;
    auto* y = static_cast<char*>(context.output(0, shape));
    const int64_t rows = static_cast<int64_t>(x.count) / source_.columns;
    if (!rows) return;
    const Weight& weight = loaded.pack.weight;
    const int64_t part = rows_at_once(weight, rows);
    const Workspace workspace(context, 0, plan_of(weight, kElement, part, device_).bytes);
    for (int64_t first = 0; first < rows; first += part) {
      const int64_t count = std::min(part, rows - first);
      const Product product{static_cast<const char*>(x.data) + first * source_.columns * size_of(kElement),
                            y + first * source_.rows * size_of(kElement),
                            kElement,
                            count,
                            (constant_bias_ ? *constant_bias_ : own_bias).template as<float>(),
                            workspace.data()};
      const Plan plan = plan_of(weight, kElement, count, device_);
      expect(run_lowbit(loaded.pack, weight, plan, product, stream_of(context)), who_);
    }
  }

 private:
  static constexpr Element kElement = element_of<type>();

  int number(const NodeInfo& info, const char* attribute) const {
    return static_cast<int>(positive_attribute(info, attribute, who_, (int64_t{1} << 31) - 1));
  }

  // Rows of x whose workspace fits, halved until it does; a last, shorter part never needs more splits than fit.
  int64_t rows_at_once(const Weight& weight, int64_t rows) const {
    while (rows > 64 && plan_of(weight, kElement, rows, device_).bytes > kWorkspace) rows = (rows + 1) / 2;
    return rows;
  }

  LowBitPack packed(const std::array<Tensor, 4>& arrays) const {
    const auto& [codes, scale, zero_point, table] = arrays;
    const auto n = static_cast<size_t>(source_.rows), levels = static_cast<size_t>(source_.layout.levels);
    const size_t blocks = (source_.columns + source_.block - 1) / source_.block;
    const size_t row_bytes = source_.layout.row_bytes(source_.columns);
    const std::string grid = "[" + std::to_string(n) + ", " + std::to_string(blocks) + "]";
    expect_shape(codes.count == n * row_bytes && codes.shape.size() == 2, who_, "codes", codes,
                 "[" + std::to_string(n) + ", " + std::to_string(row_bytes) + "]");
    expect_shape(scale.count == n * blocks, who_, "scale", scale, grid);
    expect_shape(zero_point.count == n * blocks || zero_point.count == 1, who_, "zero_point", zero_point,
                 grid + " or one number");
    expect_shape(table.count == levels && table.type == Type::float32, who_, "table", table,
                 "float32 [" + std::to_string(levels) + "]");
    const std::vector<float> scales = numbers_of(scale, who_, "scale"),
                             zeros = numbers_of(zero_point, who_, "zero_point");
    LowBitSource source = source_;
    source.codes = codes.as<uint8_t>();
    source.scale = scales.data();
    source.zero = zeros.data();
    source.zeros = zeros.size();
    source.table = table.as<float>();
    try {
      return pack_lowbit(source, quantized ? Math::int8 : type == Type::float16 ? Math::float16 : Math::bfloat16);
    } catch (const std::invalid_argument& error) {
      throw Error(who_ + error.what());
    }
  }

  DeviceArray loaded_bias(const Tensor& tensor) const {
    const auto n = static_cast<size_t>(source_.rows);
    if (tensor.count != n && tensor.count != 1)
      throw Error(who_ + "bias has shape " + shape_text(tensor.shape) +
                  ", but one number or N=" + std::to_string(n) + " of them are wanted");
    std::vector<float> bias = numbers_of(tensor, who_, "bias");
    bias.resize(n, bias[0]);
    return {bias.data(), n * sizeof(float)};
  }

  std::string who_;
  Device device_;
  LowBitSource source_{};
  std::optional<Loaded> constant_;
  std::optional<DeviceArray> constant_bias_;
};

template <Type type>
void add(std::vector<const abi::CustomOp*>& all, const char* provider) {
  all.push_back(operation<GpuLowBit<type, false>>(provider));
  all.push_back(operation<GpuLowBit<type, true>>(provider));
}

}  // namespace

std::vector<const abi::CustomOp*> lowbit_operators(const char* provider) {
  std::vector<const abi::CustomOp*> all;
  add<Type::float32>(all, provider);
  add<Type::float16>(all, provider);
  add<Type::bfloat16>(all, provider);
  return all;
}

}  // namespace qonnx::cuda
