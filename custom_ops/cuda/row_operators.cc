// Hadamard, HadamardDynamicQuantize and DynamicQuantizeRows for ONNX Runtime's CUDA provider; kernels in rows.cu.
#include <cmath>

#include "../operands.h"
#include "../row_signature.h"
#include "call.h"
#include "operators.h"
#include "rows.h"
#include "runtime.h"

namespace qonnx::cuda {

namespace {

template <Type type, bool rotates, bool quantizes>
class GpuRows : public RowSignature<type, rotates, quantizes> {
 public:
  using RowSignature<type, rotates, quantizes>::name;

  explicit GpuRows(const NodeInfo& info)
      : who_(std::string(name) + " '" + info.node_name() + "': "), device_(present_device()) {
    job_.element = element_of<type>();
    job_.base_order = job_.power = 1;
    job_.rotates = rotates;
    job_.quantizes = quantizes;
    if constexpr (quantizes) job_.block = number(info, "block_size");
    if constexpr (rotates) {
      const int outer = number(info, "outer"), inner = number(info, "inner");
      if ((outer & (outer - 1)) || (inner & (inner - 1)))
        throw Error(who_ + "outer=" + std::to_string(outer) + " and inner=" + std::to_string(inner) +
                    " must be powers of two");
      job_.power = outer * inner;
      job_.factor = info.number("factor", NAN);
      if (!std::isfinite(job_.factor))
        throw Error(who_ + "attribute factor is missing or not finite; 1/√n keeps lengths");
    }
  }

  void run(Context& context) {
    const Tensor x = context.input(0);
    if (x.shape.empty()) throw Error(who_ + "x is a scalar, but rows are wanted");
    Rows job = job_;
    job.x = x.data;
    job.columns = static_cast<int>(x.shape.back());
    job.rows = job.columns ? static_cast<int64_t>(x.count) / job.columns : 0;
    if constexpr (rotates) {
      const Tensor base = context.input(1);
      if (base.shape.size() != 2 || base.shape[0] != base.shape[1] || base.shape[0] < 1)
        throw Error(who_ + "base has shape " + shape_text(base.shape) + ", but a square matrix is wanted");
      job.base = base.as<float>();
      job.base_order = static_cast<int>(base.shape[0]);
      if (job.columns % (job.base_order * job.power))
        throw Error(who_ + "x has shape " + shape_text(x.shape) + ", but its last dimension must be a multiple of n=" +
                    std::to_string(job.base_order * job.power));
    }
    if (const size_t wanted = rows_shared_bytes(job); wanted > device_.shared_bytes)
      throw Error(who_ + "x has shape " + shape_text(x.shape) + ", but a row of " + std::to_string(job.columns) +
                  " numbers takes " + std::to_string(wanted) + " bytes of shared memory and this GPU has " +
                  std::to_string(device_.shared_bytes) + "; use CPUExecutionProvider");
    job.y = context.output(0, x.shape);
    if constexpr (quantizes) {
      job.blocks = (job.columns + job.block - 1) / job.block;
      std::vector<int64_t> shape = x.shape;
      shape.back() = job.blocks;
      job.scale = static_cast<float*>(context.output(1, shape));
    }
    expect(run_rows(job, stream_of(context)), who_);
  }

 private:
  int number(const NodeInfo& info, const char* attribute) const {
    return static_cast<int>(positive_attribute(info, attribute, who_, int64_t{1} << 30));
  }

  std::string who_;
  Device device_;
  Rows job_{};
};

template <Type type>
void add(std::vector<const abi::CustomOp*>& all, const char* provider) {
  all.push_back(operation<GpuRows<type, true, false>>(provider));
  all.push_back(operation<GpuRows<type, true, true>>(provider));
  all.push_back(operation<GpuRows<type, false, true>>(provider));
}

}  // namespace

std::vector<const abi::CustomOp*> row_operators(const char* provider) {
  std::vector<const abi::CustomOp*> all;
  add<Type::float32>(all, provider);
  add<Type::float16>(all, provider);
  add<Type::bfloat16>(all, provider);
  return all;
}

}  // namespace qonnx::cuda
