// Low-bit products with static activation scales for ONNX Runtime's CUDA provider: QuantizedMatMulLowBit (codes in),
// QLinearMatMulLowBit (codes in and out), StaticQuantizeMatMulLowBit (floats that become codes here).
//
// x and y lie in GPU memory, all other inputs in the host's (see product_operators.cc). With signed bytes q = c − shift
// of the codes c, Σ (c − zero) · w = Σ q · w + (shift − zero) · Σ w: the second sum is one number an output, made once.
#include <cmath>

#include "../static_signature.h"
#include "call.h"
#include "operators.h"
#include "product_weights.h"

namespace qonnx::cuda {

namespace {

Element element_of(Type type, const std::string& who) {
  switch (type) {
    case Type::float32: return Element::float32;
    case Type::float16: return Element::float16;
    case Type::bfloat16: return Element::bfloat16;
    case Type::uint8: return Element::uint8;
    case Type::int8: return Element::int8;
    case Type::uint4: return Element::uint4;
    case Type::int4: return Element::int4;
    default: throw Error(who + "X is " + type_text(type) + "; use uint8, int8, uint4 or int4 for codes");
  }
}

// scale and zero point, of `of` = "x" or "y".
void set_grid(const Tensor& scale, const Tensor& zero_point, const std::string& of, const std::string& who,
              StaticGrid& grid) {
  const std::string names[] = {of + "_scale", of + "_zero_point"};
  for (const Tensor* tensor : {&scale, &zero_point})
    if (tensor->count != 1)
      throw Error(who + "input " + names[tensor == &zero_point] + " has shape " + shape_text(tensor->shape) +
                  ", but one number is wanted");
  grid.scale = numbers_of(scale, who, names[0].c_str())[0];
  if (!(grid.scale > 0) || !std::isfinite(grid.scale))
    throw Error(who + "input " + names[0] + " is " + std::to_string(grid.scale) + ", not a positive number");
  const uint8_t byte = zero_point.as<uint8_t>()[0];
  switch (zero_point.type) {
    case Type::uint8: grid.zero_point = byte; break;
    case Type::int8: grid.zero_point = static_cast<int8_t>(byte); break;
    case Type::uint4: grid.zero_point = byte & 15; break;
    case Type::int4: grid.zero_point = (byte & 15) > 7 ? (byte & 15) - 16 : byte & 15; break;
    default:
      throw Error(who + "input " + names[1] + " is " + type_text(zero_point.type) +
                  "; use uint8, int8, uint4 or int4");
  }
}

template <StaticForm form, Type type>
class GpuStatic : public StaticSignature<form, type, Memory::host> {
  using Signature = StaticSignature<form, type, Memory::host>;
  using Signature::kCodesIn, Signature::kCodesOut;

 public:
  using Signature::name;

  explicit GpuStatic(const NodeInfo& info)
      : who_(std::string(name) + " '" + info.node_name() + "': "),
        device_(present_device()),
        shape_(product_shape(info, LowBitForm::kMostLevels, who_)) {
    if constexpr (!kCodesIn) set_range(info, "x_minimum", "x_maximum", who_, grid_);
    if constexpr (kCodesOut) set_range(info, "y_minimum", "y_maximum", who_, y_grid_);
    std::vector<Tensor> arrays;
    for (size_t i = kCodes; i <= kTable; ++i)
      if (Tensor array = info.constant(i)) arrays.push_back(std::move(array));
    if (arrays.size() == LowBitForm::kArrays) constant_.emplace(shape_, arrays, Math::int8, true, who_);
    if (const Tensor bias = info.constant(kBias)) constant_bias_ = gpu_bias(bias, shape_, who_);
  }

  void run(Context& context) {
    const Tensor x = context.input(kX), x_zero = context.input(kXZero);
    if (x.shape.empty() || x.shape.back() != shape_.columns)
      throw Error(who_ + "X has shape " + shape_text(x.shape) + ", but K=" + std::to_string(shape_.columns) +
                  " must be its last dimension");
    if (kCodesIn && x.type != x_zero.type)
      throw Error(who_ + "X is " + type_text(x.type) + " and x_zero_point " + type_text(x_zero.type) +
                  "; both must have one type");
    Product product{};
    product.fixed = true;
    product.grid = grid_;
    product.y_grid = y_grid_;
    set_grid(context.input(kXScale), x_zero, "x", who_, product.grid);
    if constexpr (kCodesOut) set_grid(context.input(kYScale), context.input(kYZero), "y", who_, product.y_grid);
    product.element = element_of(x.type, who_);
    product.y_element = element_of(type, who_);

    std::optional<GpuWeight<LowBitForm>> own_weight;
    if (!constant_) {
      std::vector<Tensor> arrays;
      for (size_t i = kCodes; i <= kTable; ++i) arrays.push_back(context.input(i));
      own_weight.emplace(shape_, arrays, Math::int8, true, who_);
    }
    const GpuWeight<LowBitForm>& weight = constant_ ? *constant_ : *own_weight;
    const DeviceArray own_bias = constant_bias_ ? DeviceArray() : gpu_bias(context.input(kBias), shape_, who_);
    product.offsets = weight.offsets();
    product.bias = (constant_bias_ ? *constant_bias_ : own_bias).template as<float>();

    std::vector<int64_t> shape = x.shape;
    shape.back() = shape_.rows;
    auto* y = static_cast<char*>(context.output(0, shape));
    const int64_t rows = static_cast<int64_t>(x.count) / shape_.columns;
    if (!rows) return;
    int64_t part = rows_at_once(weight.weight(), product.element, rows, device_, 0);
    part += part % 2;  // two codes of four bits share a byte
    const Workspace workspace(context, kX, plan_of(weight.weight(), product.element, part, device_).bytes);
    product.workspace = workspace.data();
    for (int64_t first = 0; first < rows; first += part) {
      product.rows = std::min(part, rows - first);
      product.x = static_cast<const char*>(x.data) + bytes_for(product.element, first * shape_.columns);
      product.y = y + bytes_for(product.y_element, first * shape_.rows);
      const Plan plan = plan_of(weight.weight(), product.element, product.rows, device_);
      expect(weight.run(plan, product, device_, stream_of(context)), who_);
    }
  }

 private:
  std::string who_;
  Device device_;
  ProductShape shape_;
  StaticGrid grid_{}, y_grid_{};
  std::optional<GpuWeight<LowBitForm>> constant_;
  std::optional<DeviceArray> constant_bias_;
};

template <Type type>
void add(std::vector<const abi::CustomOp*>& all, const char* provider) {
  all.push_back(operation<GpuStatic<StaticForm::codes_to_float, type>>(provider));
  all.push_back(operation<GpuStatic<StaticForm::float_to_float, type>>(provider));
}

}  // namespace

std::vector<const abi::CustomOp*> static_operators(const char* provider) {
  std::vector<const abi::CustomOp*> all;
  add<Type::float32>(all, provider);
  add<Type::float16>(all, provider);
  add<Type::bfloat16>(all, provider);
  all.push_back(operation<GpuStatic<StaticForm::codes_to_codes, Type::uint8>>(provider));
  all.push_back(operation<GpuStatic<StaticForm::codes_to_codes, Type::int8>>(provider));
  return all;
}

}  // namespace qonnx::cuda
