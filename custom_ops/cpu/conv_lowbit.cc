// ConvLowBit: a convolution of images with a weight of 1 to 8 bits a number, in float32.
//
// Inputs: X [batch, channels, height, width]; codes, scale, zero_point and table as of MatMulLowBit, of the weight
// [N, K] with K = kernel height · kernel width · channels, channels fastest, so that blocks of channels at one place of
// the kernel are blocks of a row; bias, [N] or [1]. Attributes K, N, block_size, levels,
// codes_per_word, bytes_per_word; kernel_shape [2], strides [2], pads [4] (top, left, bottom, right), dilations [2].
// Y [batch, N, output height, output width].
//
// It is the product of W with columns of the image, one for each output pixel: the kernels of MatMulLowBit take rows of
// X a few together, [k][pixel], in which neighbouring pixels of an image already lie side by side. So that no column is
// copied out of the caches, pixels are taken a few thousand at a time.
#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "../shapes.h"
#include "lowbit_attributes.h"
#include "numbers.h"
#include "operators.h"
#include "tier.h"

namespace qonnx::cpu {

QONNX_BY_TIER(NumberKernels, number_kernels)
QONNX_BY_TIER(LowBitExact, lowbit_exact)

namespace {

constexpr size_t kTaskWork = size_t{1} << 21;    // multiply-adds worth a task of their own
constexpr size_t kTaskNumbers = 1 << 14;         // placed numbers worth a task of their own
constexpr size_t kPlacedNumbers = size_t{1} << 20;  // of pixels that are taken at a time: 4 MB
constexpr size_t kMostTogether = 8;
constexpr size_t kRunsAtOnce = 8;  // of kMostTogether pixels that are placed together
constexpr size_t kOutside = ~size_t{0};  // a place in the padding

// The window of a convolution; pads are before and after, as ONNX has them.
struct Window {
  std::array<int64_t, 2> kernel, strides, dilations;
  std::array<int64_t, 4> pads;

  bool is_pixel() const {
    return kernel == std::array<int64_t, 2>{1, 1} && strides == std::array<int64_t, 2>{1, 1} &&
           pads == std::array<int64_t, 4>{0, 0, 0, 0};
  }
  // Of dimension 0 (height) or 1; below 1 where the window does not fit.
  int64_t output(size_t axis, int64_t size) const {
    const int64_t span = (kernel[axis] - 1) * dilations[axis] + 1, padded = size + pads[axis] + pads[axis + 2];
    return padded < span ? 0 : (padded - span) / strides[axis] + 1;
  }
};

template <size_t count>
std::array<int64_t, count> numbers_attribute(const std::vector<int64_t>& found, const char* name, int64_t least,
                                             const std::string& who) {
  constexpr int64_t kMost = 1 << 20;
  std::array<int64_t, count> values{};
  if (found.size() == count && std::all_of(found.begin(), found.end(), [&](int64_t v) { return v >= least && v <= kMost; }))
    std::copy(found.begin(), found.end(), values.begin());
  else
    throw Error(who + "attribute " + name + " is not " + std::to_string(count) + " numbers of at least " +
                std::to_string(least) + "; convolutions of images have a kernel, otherwise use DequantizeLinear and Conv");
  return values;
}

template <class Source>
Window window_of(const Source& source, const std::string& who) {
  return {numbers_attribute<2>(source.integers("kernel_shape"), "kernel_shape", 1, who),
          numbers_attribute<2>(source.integers("strides"), "strides", 1, who),
          numbers_attribute<2>(source.integers("dilations"), "dilations", 1, who),
          numbers_attribute<4>(source.integers("pads"), "pads", 0, who)};
}

template <Type type>
class ConvLowBit {
 public:
  static constexpr const char* name = "ConvLowBit";
  static constexpr Port inputs[] = {{type}, {Type::uint8}, {Type::any}, {Type::any}, {Type::float32}, {type}};
  static constexpr Port outputs[] = {{type}};

  static void infer(ShapeInference& shapes) {
    auto y = shapes.input(0);
    const auto weight = shapes.input(1);
    if (!y.known || !weight.known || y.dims.size() != 4 || weight.dims.size() != 2) return;
    const Window window = window_of(shapes, std::string(name) + ": ");
    y.dims[1] = weight.dims[0];
    y.symbols[1] = weight.symbols[0];
    for (size_t axis = 0; axis < 2 && !window.is_pixel(); ++axis) {
      int64_t& size = y.dims[axis + 2];
      if (size >= 0) size = window.output(axis, size);
      else y.symbols[axis + 2].clear();
    }
    shapes.output(0, y);
  }

  explicit ConvLowBit(const NodeInfo& info)
      : who_(std::string(name) + " '" + info.node_name() + "': "),
        numbers_(*number_kernels_table[static_cast<int>(active_tier())]),
        exact_(*lowbit_exact_table[static_cast<int>(active_tier())]),
        window_(window_of(info, who_)) {
    shape_ = low_bit_shape(info, 256, who_);
    shape_.triples = true;
    taps_ = static_cast<size_t>(window_.kernel[0] * window_.kernel[1]);
    if (shape_.columns % taps_)
      throw Error(who_ + "K=" + std::to_string(shape_.columns) + " is no multiple of the " + std::to_string(taps_) +
                  " places of its kernel_shape");
    const LowBitInputs arrays{info.constant(1), info.constant(2), info.constant(3), info.constant(4)};
    if (arrays.codes && arrays.scale && arrays.zero_point && arrays.table)
      packed_.emplace(shape_, arrays, false, who_);
  }

  void run(Context& context) {
    const Tensor x = context.input(0), bias = context.input(5);
    const auto channels = static_cast<int64_t>(shape_.columns / taps_);
    if (x.shape.size() != 4 || x.shape[1] != channels)
      throw Error(who_ + "X has shape " + shape_text(x.shape) + ", but [batch, " + std::to_string(channels) +
                  ", height, width] is wanted");
    if (!has_shape(bias, {shape_.rows}) && !is_single(bias))
      throw Error(who_ + "bias has shape " + shape_text(bias.shape) +
                  ", but one number or N=" + std::to_string(shape_.rows) + " of them are wanted");
    std::optional<PackedLowBit> fresh;
    if (!packed_)
      fresh.emplace(shape_, LowBitInputs{context.input(1), context.input(2), context.input(3), context.input(4)}, false,
                    who_);
    Job job{(packed_ ? *packed_ : *fresh).weight(), nullptr, {}, nullptr};
    job.height = x.shape[2], job.width = x.shape[3];
    job.out_height = window_.output(0, job.height), job.out_width = window_.output(1, job.width);
    if (job.out_height < 1 || job.out_width < 1)
      throw Error(who_ + "an image of " + std::to_string(job.height) + " by " + std::to_string(job.width) +
                  " is smaller than the kernel");
    job.y = static_cast<char*>(context.output(0, {x.shape[0], static_cast<int64_t>(shape_.rows), job.out_height,
                                                  job.out_width}));
    job.bias.resize(bias.count);
    widen(bias.data, job.bias.data(), bias.count);
    job.bias.resize(shape_.rows, job.bias[0]);
    multiply(context, job, x, static_cast<size_t>(x.shape[0] * job.out_height * job.out_width));
  }

 private:
  static constexpr size_t kSize = type == Type::float32 ? 4 : 2;

  struct Job {
    const LowBitWeight& weight;
    const float* x;
    std::vector<float> bias;
    char* y;
    int64_t height = 0, width = 0, out_height = 0, out_width = 0;

    size_t pixels() const { return static_cast<size_t>(out_height * out_width); }  // of an output image
  };

  void widen(const void* x, float* y, size_t n) const {
    if constexpr (type == Type::float32) std::memcpy(y, x, n * sizeof(float));
    else
      (type == Type::float16 ? numbers_.from_float16 : numbers_.from_bfloat16)(static_cast<const uint16_t*>(x), y, n);
  }

  void multiply(Context& context, Job& job, const Tensor& x, size_t pixels) {
    const LowBitWeight& weight = job.weight;
    const size_t width = weight.width(), together = exact_.together(weight, pixels);
    const size_t most = std::max(kPlacedNumbers / width / kMaxTokens, size_t{1}) * kMaxTokens;
    const size_t placed = std::min((pixels + together - 1) / together * together, most);
    const size_t wide = type == Type::float32 ? 0 : x.count;
    Scratch::Loan loan(scratch_, Scratch::size_of<float>(placed * width) + Scratch::size_of<float>(wide));
    float *columns = loan.next<float>(placed * width), *wide_x = loan.next<float>(wide);
    if (wide) widen(x.data, wide_x, wide);
    job.x = wide ? wide_x : x.as<float>();
    for (size_t begin = 0; begin < pixels; begin += most) {
      const size_t end = std::min(begin + most, pixels), runs = (end - begin + together - 1) / together;
      const size_t tasks = std::min(runs, (end - begin) * width / kTaskNumbers + 1);
      context.parallel(tasks, [&](size_t task) {
        const size_t last = (task + 1) * runs / tasks;
        for (size_t run = task * runs / tasks, placed_runs; run < last; run += placed_runs) {
          float* to = columns + run * together * width;
          placed_runs = place_pixels(job, begin + run * together, end, together, last - run, to);
          if (placed_runs) continue;
          place(job, begin + run * together, end, together, to);
          placed_runs = 1;
        }
      });
      const size_t parts = (end - begin + kMaxTokens - 1) / kMaxTokens;
      const size_t panel_work = std::min(kMaxTokens, end - begin) * width * kPanel;
      const size_t per_task = std::max<size_t>(1, kTaskWork / panel_work);
      const size_t panel_tasks = (weight.panels + per_task - 1) / per_task;
      context.parallel(parts * panel_tasks, [&](size_t task) {
        alignas(64) float sums[kMaxTokens * kPanel];
        const size_t first = task / panel_tasks * kMaxTokens, panels = task % panel_tasks * per_task;
        const size_t tokens = std::min(kMaxTokens, end - begin - first);
        const size_t filled = std::min(kMaxTokens, runs * together - first);
        for (size_t panel = panels; panel < std::min(panels + per_task, weight.panels); ++panel) {
          exact_.multiply(weight, panel, columns, together, first, filled, sums);
          store(job, panel, sums, begin + first, tokens);
        }
      });
    }
  }

  // Of a window that is a pixel: as many whole runs of pixels from `begin` on as one image has, at most kRunsAtOnce and
  // `most`; each channel's are read at one go, where a run after the other would go to another page for every number.
  // Returns how many: none where place() is needed.
  size_t place_pixels(const Job& job, size_t begin, size_t end, size_t together, size_t most, float* to) const {
    if (!window_.is_pixel() || together != kMostTogether) return 0;
    const LowBitWeight& weight = job.weight;
    const size_t pixels = job.pixels(), pixel = begin % pixels, left = std::min(pixels - pixel, end - begin);
    const size_t runs = std::min({left / together, most, kRunsAtOnce}), run_size = weight.width() * together;
    const bool dense = exact_.dense(weight, together);
    if (weight.padded()) std::memset(to, 0, runs * run_size * sizeof(float));
    const float* x = job.x + begin / pixels * weight.columns * pixels + pixel;
    for (size_t k = 0; k < weight.columns; ++k, x += pixels) {
      const size_t at = !weight.padded() ? k : dense ? weight.dense_place(k) : weight.padded_place(k);
      for (size_t run = 0; run < runs; ++run)
        std::memcpy(to + run * run_size + at * together, x + run * together, kMostTogether * sizeof(float));
    }
    return runs;
  }

  // Pixels [begin, begin + together) of the output, those below `end`, as [k][pixel] of the padded columns.
  void place(const Job& job, size_t begin, size_t end, size_t together, float* to) const {
    const LowBitWeight& weight = job.weight;
    const size_t image = static_cast<size_t>(job.height * job.width), channels = weight.columns / taps_;
    const bool dense = exact_.dense(weight, together);
    if (weight.padded()) std::memset(to, 0, weight.width() * together * sizeof(float));
    size_t from[kMostTogether];
    for (size_t tap = 0; tap < taps_; ++tap) {
      const int64_t row = static_cast<int64_t>(tap) / window_.kernel[1] * window_.dilations[0] - window_.pads[0];
      const int64_t column = static_cast<int64_t>(tap) % window_.kernel[1] * window_.dilations[1] - window_.pads[1];
      bool neighbours = true;
      for (size_t i = 0; i < together; ++i) {
        from[i] = kOutside;
        if (const size_t pixel = begin + i; pixel < end) {
          const auto place = static_cast<int64_t>(pixel % job.pixels());
          const int64_t h = place / job.out_width * window_.strides[0] + row;
          const int64_t w = place % job.out_width * window_.strides[1] + column;
          if (h >= 0 && h < job.height && w >= 0 && w < job.width)
            from[i] = pixel / job.pixels() * channels * image + static_cast<size_t>(h * job.width + w);
        }
        neighbours = neighbours && from[i] != kOutside && from[i] == from[0] + i;
      }
      const float* x = job.x;
      for (size_t channel = 0, k = tap * channels; channel < channels; ++channel, ++k, x += image) {
        const size_t at = !weight.padded() ? k : dense ? weight.dense_place(k) : weight.padded_place(k);
        float* out = to + at * together;
        if (neighbours && together == kMostTogether) std::memcpy(out, x + from[0], kMostTogether * sizeof(float));
        else
          for (size_t i = 0; i < together; ++i) out[i] = from[i] == kOutside ? 0 : x[from[i]];
      }
    }
  }

  // Sums [token][32] of a panel to pixels [first, first + tokens) of its planes.
  void store(const Job& job, size_t panel, const float* sums, size_t first, size_t tokens) const {
    const size_t begin = panel * kPanel, count = std::min(kPanel, shape_.rows - begin), pixels = job.pixels();
    for (size_t token = 0, taken; token < tokens; token += taken) {
      const size_t image = (first + token) / pixels, pixel = (first + token) % pixels;
      taken = std::min(tokens - token, pixels - pixel);
      const float *from = sums + token * kPanel, *bias = job.bias.data() + begin;
      char* to = job.y + ((image * shape_.rows + begin) * pixels + pixel) * kSize;
      if constexpr (type == Type::float32) {
        numbers_.transpose_add(from, kPanel, taken, count, bias, reinterpret_cast<float*>(to), pixels);
      } else {
        alignas(64) float wide[kPanel * kMaxTokens];
        numbers_.transpose_add(from, kPanel, taken, count, bias, wide, kMaxTokens);
        for (size_t n = 0; n < count; ++n, to += pixels * kSize)
          (type == Type::float16 ? numbers_.to_float16 : numbers_.to_bfloat16)(
              wide + n * kMaxTokens, reinterpret_cast<uint16_t*>(to), taken);
      }
    }
  }

  std::string who_;
  const NumberKernels& numbers_;
  const LowBitExact& exact_;
  Window window_;
  LowBitShape shape_{};
  size_t taps_ = 1;  // places of the kernel
  std::optional<PackedLowBit> packed_;
  Scratch scratch_;
};

}  // namespace

const abi::CustomOp* conv_lowbit_float32() { return operation<ConvLowBit<Type::float32>>(); }
const abi::CustomOp* conv_lowbit_float16() { return operation<ConvLowBit<Type::float16>>(); }
const abi::CustomOp* conv_lowbit_bfloat16() { return operation<ConvLowBit<Type::bfloat16>>(); }

}  // namespace qonnx::cpu
