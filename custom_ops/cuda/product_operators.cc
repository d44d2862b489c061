// Products with packed weights for ONNX Runtime's CUDA provider: MatMulLowBit and MatMulCodebook, and the same as
// DynamicQuantize…; kernels in product_tile.cuh.
//
// x and y lie in GPU memory; all other inputs in the host's, where constant ones are packed once and copied to the GPU
// when the kernel is created. Those that are no initializers are packed and copied at each call: correct, but slow, and
// not for CUDA graphs.
#include <algorithm>
#include <array>

#include "../shapes.h"
#include "call.h"
#include "operators.h"
#include "product_weights.h"

namespace qonnx::cuda {

namespace {

template <class Form, bool quantized>
constexpr const char* kName = Form::kArrays == LowBitForm::kArrays
                                  ? (quantized ? "DynamicQuantizeMatMulLowBit" : "MatMulLowBit")
                                  : (quantized ? "DynamicQuantizeMatMulCodebook" : "MatMulCodebook");

template <class Form, Type type>
constexpr auto product_ports() {
  std::array<Port, Form::kArrays + 4> all{};
  for (Port& port : all) port = {Type::any, Arity::required, Memory::host};
  all[0] = {type};
  all[1].type = Type::uint8;
  if (Form::kArrays == LowBitForm::kArrays) all[4].type = Type::float32;
  all[Form::kArrays + 1].type = type;
  all[Form::kArrays + 2].arity = all[Form::kArrays + 3].arity = Arity::optional;
  return all;
}

template <class Form, Type type, bool quantized>
class GpuProduct {
 public:
  static constexpr const char* name = kName<Form, quantized>;
  static constexpr auto inputs = product_ports<Form, type>();
  static constexpr Port outputs[] = {{type}};

  static void infer(ShapeInference& shapes) { infer_product(shapes, 1); }

  explicit GpuProduct(const NodeInfo& info)
      : who_(std::string(name) + " '" + info.node_name() + "': "),
        device_(present_device()),
        shape_(product_shape(info, Form::kMostLevels, who_)) {
    if (quantized && info.integer("activation_bits", 8) != 8)
      throw Error(who_ + "activation_bits=" + std::to_string(info.integer("activation_bits", 8)) +
                  " has no kernel; use 8");
    std::vector<Tensor> arrays;
    for (size_t i = 1; i <= Form::kArrays; ++i)
      if (Tensor array = info.constant(i)) arrays.push_back(std::move(array));
    if (arrays.size() == Form::kArrays) constant_.emplace(shape_, arrays, kMath, false, who_);
    if (const Tensor bias = info.constant(kBias)) constant_bias_ = gpu_bias(bias, shape_, who_);
    const Tensor a = info.constant(kLowRankA), b = info.constant(kLowRankB);
    if (a && b) constant_branch_.emplace(a, b, shape_, who_);
  }

  void run(Context& context) {
    const Tensor x = context.input(0);
    if (x.shape.empty() || x.shape.back() != shape_.columns)
      throw Error(who_ + "X has shape " + shape_text(x.shape) + ", but K=" + std::to_string(shape_.columns) +
                  " must be its last dimension");
    std::optional<GpuWeight<Form>> own_weight;
    if (!constant_) {
      std::vector<Tensor> arrays;
      for (size_t i = 1; i <= Form::kArrays; ++i) arrays.push_back(context.input(i));
      own_weight.emplace(shape_, arrays, kMath, false, who_);
    }
    const GpuWeight<Form>& weight = constant_ ? *constant_ : *own_weight;
    const DeviceArray own_bias = constant_bias_ ? DeviceArray() : gpu_bias(context.input(kBias), shape_, who_);
    const GpuLowRank own_branch =
        constant_branch_ ? GpuLowRank() : GpuLowRank(context.input(kLowRankA), context.input(kLowRankB), shape_, who_);

    std::vector<int64_t> shape = x.shape;
    shape.back() = shape_.rows;
    auto* y = static_cast<char*>(context.output(0, shape));
    const int64_t rows = static_cast<int64_t>(x.count) / shape_.columns;
    if (!rows) return;
    Product product{};
    product.element = product.y_element = kElement;
    product.bias = (constant_bias_ ? *constant_bias_ : own_bias).template as<float>();
    product.branch = (constant_branch_ ? *constant_branch_ : own_branch).branch();
    const int rank = product.branch.rank;
    const int64_t part = rows_at_once(weight.weight(), kElement, rows, device_, rank);
    const Workspace workspace(context, 0, plan_of(weight.weight(), kElement, part, device_, rank).bytes);
    product.workspace = workspace.data();
    for (int64_t first = 0; first < rows; first += part) {
      product.rows = std::min(part, rows - first);
      product.x = static_cast<const char*>(x.data) + bytes_for(kElement, first * shape_.columns);
      product.y = y + bytes_for(kElement, first * shape_.rows);
      const Plan plan = plan_of(weight.weight(), kElement, product.rows, device_, rank);
      expect(weight.run(plan, product, device_, stream_of(context)), who_);
    }
  }

 private:
  static constexpr Element kElement = element_of<type>();
  static constexpr Math kMath = quantized ? Math::int8 : type == Type::float16 ? Math::float16 : Math::bfloat16;
  static constexpr size_t kBias = Form::kArrays + 1, kLowRankA = kBias + 1, kLowRankB = kBias + 2;

  std::string who_;
  Device device_;
  ProductShape shape_;
  std::optional<GpuWeight<Form>> constant_;
  std::optional<DeviceArray> constant_bias_;
  std::optional<GpuLowRank> constant_branch_;
};

template <class Form, Type type>
void add(std::vector<const abi::CustomOp*>& all, const char* provider) {
  all.push_back(operation<GpuProduct<Form, type, false>>(provider));
  all.push_back(operation<GpuProduct<Form, type, true>>(provider));
}

}  // namespace

std::vector<const abi::CustomOp*> product_operators(const char* provider) {
  std::vector<const abi::CustomOp*> all;
  add<LowBitForm, Type::float32>(all, provider);
  add<LowBitForm, Type::float16>(all, provider);
  add<LowBitForm, Type::bfloat16>(all, provider);
  add<CodebookForm, Type::float32>(all, provider);
  add<CodebookForm, Type::float16>(all, provider);
  add<CodebookForm, Type::bfloat16>(all, provider);
  return all;
}

}  // namespace qonnx::cuda
