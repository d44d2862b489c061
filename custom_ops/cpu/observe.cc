// ObserveSink: gathers statistics of a tensor while the model runs, and has no output, so no consumer is rewired.
//
// Attributes: key (string, the name that the reader asks for); axis (int; without it, statistics per tensor only);
// bins (int, 0 for no histogram, else a power of two from 4 to 65536); gram (0 or 1, needs axis).
//
// The tensor is cut into pieces that fit the L1/L2 cache; a task takes a run of pieces, widens each to float32, and
// does everything with it while it is there: largest |x|, ranges and sums by channel, histogram. Tasks have a tally
// each; only merging takes the lock. The Gram matrix is done afterwards, tile by tile, under the lock.
#include <algorithm>
#include <cmath>
#include <limits>

#include "numbers.h"
#include "observe_state.h"
#include "operators.h"
#include "tier.h"

namespace qonnx::cpu {

QONNX_BY_TIER(NumberKernels, number_kernels)
QONNX_BY_TIER(ObserveKernels, observe_kernels)

namespace {

constexpr int64_t kNoAxis = std::numeric_limits<int64_t>::min();
constexpr size_t kPiece = 16384;  // numbers in a piece: 64 KB as float32
constexpr size_t kTasks = 8;
constexpr size_t kGramRows = 256;  // rows accumulated in float32 before they are added to float64
constexpr uint32_t kInfinityBits = 0x7f800000;

bool finite(float value) { return std::fabs(value) <= std::numeric_limits<float>::max(); }

// The tensor as [outer, channels, inner].
struct Cut {
  size_t outer = 1, channels = 1, inner = 1;
};

template <Type type, Memory memory = Memory::of_provider>
class ObserveSink {
 public:
  static constexpr const char* name = "ObserveSink";
  static constexpr Port inputs[] = {{type, Arity::required, memory}};
  static constexpr std::span<const Port> outputs{};
  static void infer(ShapeInference&) {}

  explicit ObserveSink(const NodeInfo& info)
      : numbers_(*number_kernels_table[static_cast<int>(active_tier())]),
        kernels_(*observe_kernels_table[static_cast<int>(active_tier())]),
        key_(info.text("key", "")),
        axis_(info.integer("axis", kNoAxis)),
        bins_(info.integer("bins", 0)),
        gram_(info.integer("gram", 0) != 0) {
    const std::string who = "ObserveSink '" + (key_.empty() ? info.node_name() : key_) + "': ";
    if (key_.empty()) throw Error(who + "attribute key is missing; give each observed tensor a name");
    if (bins_ && (bins_ < 4 || bins_ > 65536 || (bins_ & (bins_ - 1))))
      throw Error(who + "bins=" + std::to_string(bins_) + " is not 0 or a power of two from 4 to 65536");
    if (gram_ && axis_ == kNoAxis) throw Error(who + "gram=1 needs the attribute axis, the axis of channels");
  }

  void run(Context& context) {
    const Tensor x = context.input(0);
    const Cut cut = cut_of(x);
    const auto state = observe_state(key_);
    const size_t segment = std::min(cut.inner, kPiece),
                 parts = (cut.inner + segment - 1) / std::max<size_t>(segment, 1);
    const bool by_rows = cut.inner == 1 && cut.channels > 1;
    const size_t rows_in_piece = std::max<size_t>(1, kPiece / cut.channels);
    size_t pieces = by_rows ? (cut.outer + rows_in_piece - 1) / rows_in_piece : cut.outer * cut.channels * parts;
    if (!x.count) pieces = 0;

    std::vector<std::unique_ptr<Tally>> tallies(std::min(kTasks, pieces));
    for (auto& tally : tallies) tally = std::make_unique<Tally>(cut.channels, bins_);
    if (pieces)
      context.parallel(tallies.size(), [&](size_t task) {
        Tally& tally = *tallies[task];
        std::vector<float> wide(type == Type::float32 ? 0
                                                      : std::max(segment, by_rows ? rows_in_piece * cut.channels : 0));
        std::vector<uint32_t> scratch(4 * bins_);
        const size_t end = (task + 1) * pieces / tallies.size();
        for (size_t piece = task * pieces / tallies.size(); piece < end; ++piece) {
          if (by_rows) {
            const size_t first = piece * rows_in_piece, rows = std::min(rows_in_piece, cut.outer - first);
            gather(floats(x, first * cut.channels, rows * cut.channels, wide), rows, cut.channels, 0, tally, scratch);
          } else {
            const size_t line = piece / parts, offset = piece % parts * segment;
            const size_t length = std::min(segment, cut.inner - offset);
            gather(floats(x, line * cut.inner + offset, length, wide), length, 1, line % cut.channels, tally, scratch);
          }
        }
      });

    std::lock_guard<std::mutex> lock(state->mutex);
    if (!state->tensor) {
      state->tensor = std::make_unique<Tally>(1, bins_);
      state->channels = axis_ == kNoAxis ? -1 : static_cast<int64_t>(cut.channels);
      if (state->channels >= 0) state->by_channel = std::make_unique<Tally>(cut.channels, 0);
    }
    if (state->channels != static_cast<int64_t>(cut.channels)) {  // varies between calls: nothing by channel is true
      state->channels = -1;
      state->by_channel.reset();
      state->gram.clear();
    }
    ++state->calls;
    state->rows += static_cast<int64_t>(cut.outer * cut.inner);
    for (const auto& tally : tallies) {
      if (state->by_channel) add_channels(*state->by_channel, *tally);
      add_tensor(*state->tensor, *tally);
    }
    if (gram_ && state->channels > 0 && x.count) add_gram(context, x, cut, *state);
  }

 private:
  Cut cut_of(const Tensor& x) const {
    Cut cut;
    if (axis_ == kNoAxis) {
      cut.inner = x.count;
      return cut;
    }
    const int64_t rank = static_cast<int64_t>(x.shape.size()), axis = axis_ < 0 ? axis_ + rank : axis_;
    if (axis < 0 || axis >= rank)
      throw Error("ObserveSink '" + key_ + "': axis=" + std::to_string(axis_) + " is outside of the shape " +
                  shape_text(x.shape) + "; use an axis that every input has");
    for (int64_t i = 0; i < rank; ++i)
      (i < axis ? cut.outer : i == axis ? cut.channels : cut.inner) *= static_cast<size_t>(x.shape[i]);
    if (!x.count) cut = {0, std::max<size_t>(cut.channels, 1), 1};
    return cut;
  }

  // n numbers from `begin` on as float32: in place, or widened into `wide`.
  const float* floats(const Tensor& x, size_t begin, size_t n, std::vector<float>& wide) const {
    if constexpr (type == Type::float32) return x.as<float>() + begin;
    (type == Type::float16 ? numbers_.from_float16 : numbers_.from_bfloat16)(x.as<uint16_t>() + begin, wide.data(), n);
    return wide.data();
  }

  // Adds `rows` rows of `width` channels, the first being channel `channel`.
  void gather(const float* x, size_t rows, size_t width, size_t channel, Tally& tally,
              std::vector<uint32_t>& scratch) const {
    size_t n = rows * width;
    uint32_t largest = kernels_.largest(x, n);
    std::vector<float> kept;
    if (largest >= kInfinityBits) {  // rare: number by number
      for (size_t i = 0; i < n; ++i) {
        if (!finite(x[i])) {
          ++tally.non_finite;
          continue;
        }
        const size_t c = channel + i % width;
        kernels_.segment(x + i, 1, &tally.minimum[c], &tally.maximum[c], &tally.sum[c]);
        ++tally.count[c];
        kept.push_back(x[i]);
      }
      x = kept.data(), n = kept.size();
      largest = kernels_.largest(x, n);
    } else {
      if (width > 1) kernels_.rows(x, rows, width, tally.minimum.data(), tally.maximum.data(), tally.sum.data());
      else kernels_.segment(x, n, &tally.minimum[channel], &tally.maximum[channel], &tally.sum[channel]);
      for (size_t c = 0; c < width; ++c) tally.count[channel + c] += static_cast<int64_t>(rows);
    }
    if (!bins_) return;
    float magnitude;
    memcpy(&magnitude, &largest, 4);
    tally.histogram.cover(magnitude);
    kernels_.histogram(x, n, tally.histogram.per_unit(), bins_, scratch.data(), tally.histogram.counts.data());
  }

  static void add_channels(Tally& total, const Tally& part) {
    for (size_t c = 0; c < total.minimum.size(); ++c) {
      total.minimum[c] = std::min(total.minimum[c], part.minimum[c]);
      total.maximum[c] = std::max(total.maximum[c], part.maximum[c]);
      total.sum[c] += part.sum[c];
      total.count[c] += part.count[c];
    }
  }

  static void add_tensor(Tally& total, const Tally& part) {
    for (size_t c = 0; c < part.minimum.size(); ++c) {
      total.minimum[0] = std::min(total.minimum[0], part.minimum[c]);
      total.maximum[0] = std::max(total.maximum[0], part.maximum[c]);
      total.sum[0] += part.sum[c];
      total.count[0] += part.count[c];
    }
    total.non_finite += part.non_finite;
    total.histogram.add(part.histogram);
  }

  // state.gram += Σ x xᵀ, in blocks of rows copied to a padded array [rows][channels up to a multiple of 64].
  void add_gram(Context& context, const Tensor& x, const Cut& cut, ObserveState& state) const {
    const size_t side = (cut.channels + kGramTile - 1) / kGramTile, stride = side * kGramTile;
    const size_t tiles = side * (side + 1) / 2, rows = cut.outer * cut.inner;
    if (state.gram.empty()) state.gram.assign(tiles * kGramTile * kGramTile, 0.0);
    std::vector<float> block(kGramRows * stride), wide(type == Type::float32 ? 0 : std::max(cut.channels, kGramRows));
    std::vector<std::pair<size_t, size_t>> where;
    for (size_t i = 0; i < side; ++i)
      for (size_t j = i; j < side; ++j) where.emplace_back(i, j);
    for (size_t first = 0; first < rows; first += kGramRows) {
      const size_t count = std::min(kGramRows, rows - first);
      copy_rows(x, cut, first, count, stride, block, wide);
      context.parallel(tiles, [&](size_t tile) {
        kernels_.gram(block.data() + where[tile].first * kGramTile, block.data() + where[tile].second * kGramTile,
                      count, stride, state.gram.data() + tile * kGramTile * kGramTile);
      });
    }
  }

  void copy_rows(const Tensor& x, const Cut& cut, size_t first, size_t count, size_t stride, std::vector<float>& block,
                 std::vector<float>& wide) const {
    for (size_t row = 0; row < count;) {
      const size_t outer = (first + row) / cut.inner, inner = (first + row) % cut.inner;
      const size_t run = std::min(count - row, cut.inner - inner);  // rows that lie side by side in memory
      if (cut.inner == 1) {
        const float* values = floats(x, outer * cut.channels, cut.channels, wide);
        for (size_t c = 0; c < cut.channels; ++c) block[row * stride + c] = finite(values[c]) ? values[c] : 0.0f;
      } else {
        for (size_t c = 0; c < cut.channels; ++c) {
          const float* values = floats(x, (outer * cut.channels + c) * cut.inner + inner, run, wide);
          for (size_t r = 0; r < run; ++r) block[(row + r) * stride + c] = finite(values[r]) ? values[r] : 0.0f;
        }
      }
      row += run;
    }
  }

  const NumberKernels& numbers_;
  const ObserveKernels& kernels_;
  std::string key_;
  int64_t axis_, bins_;
  bool gram_;
};

}  // namespace

const abi::CustomOp* observe_sink_float32() { return operation<ObserveSink<Type::float32>>(); }
const abi::CustomOp* observe_sink_float16() { return operation<ObserveSink<Type::float16>>(); }
const abi::CustomOp* observe_sink_bfloat16() { return operation<ObserveSink<Type::bfloat16>>(); }

std::vector<const abi::CustomOp*> observe_sinks_of_copies(const char* provider) {
  return {operation<ObserveSink<Type::float32, Memory::host>>(provider),
          operation<ObserveSink<Type::float16, Memory::host>>(provider),
          operation<ObserveSink<Type::bfloat16, Memory::host>>(provider)};
}

}  // namespace qonnx::cpu
