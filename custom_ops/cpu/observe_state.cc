// The table of ObserveSink's states and the C functions that read it.
#include "observe_state.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "operators.h"

namespace qonnx::cpu {

void Histogram::cover(float magnitude) {
  int needed = kSmallest;
  if (magnitude > 0) {
    std::frexp(magnitude, &needed);  // magnitude = m · 2^needed with m in [0.5, 1): inside [−2^needed, 2^needed)
    needed = std::max(needed, kSmallest);
  }
  const size_t bins = counts.size(), half = bins / 2;
  for (; exponent < needed; ++exponent) {
    std::vector<int64_t> wider(bins);
    for (size_t b = 0; b < bins; ++b) wider[half / 2 + b / 2] += counts[b];
    counts.swap(wider);
  }
}

void Histogram::add(const Histogram& other) {
  Histogram same = other;
  if (exponent < other.exponent) cover(std::ldexp(1.0f, other.exponent - 1));
  if (same.exponent < exponent) same.cover(std::ldexp(1.0f, exponent - 1));
  for (size_t b = 0; b < counts.size(); ++b) counts[b] += same.counts[b];
}

float Histogram::per_unit() const { return std::ldexp(static_cast<float>(counts.size()), -exponent - 1); }

Tally::Tally(size_t channels, size_t bins)
    : minimum(channels, std::numeric_limits<float>::infinity()),
      maximum(channels, -std::numeric_limits<float>::infinity()),
      sum(channels),
      count(channels),
      histogram(bins) {}

void Tally::add(const Tally& other) {
  for (size_t c = 0; c < minimum.size(); ++c) {
    minimum[c] = std::min(minimum[c], other.minimum[c]);
    maximum[c] = std::max(maximum[c], other.maximum[c]);
    sum[c] += other.sum[c];
    count[c] += other.count[c];
  }
  non_finite += other.non_finite;
  histogram.add(other.histogram);
}

namespace {

struct Table {
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<ObserveState>> states;  // ordered, so that a prefix is a range
};

Table& table() {
  static Table* const instance = new Table;  // never destroyed: sessions may end after static destructors have run
  return *instance;
}

std::shared_ptr<ObserveState> find(const char* key) {
  std::lock_guard<std::mutex> lock(table().mutex);
  auto found = table().states.find(key);
  return found == table().states.end() ? nullptr : found->second;
}

bool has_prefix(const std::string& key, const std::string& prefix) { return !key.compare(0, prefix.size(), prefix); }

}  // namespace

std::shared_ptr<ObserveState> observe_state(const std::string& key) {
  std::lock_guard<std::mutex> lock(table().mutex);
  auto& state = table().states[key];
  if (!state) state = std::make_shared<ObserveState>();
  return state;
}

}  // namespace qonnx::cpu

using qonnx::cpu::ObserveState;

extern "C" {

// Mirrors `_Summary` of custom_ops/observe.py.
struct qonnx_observe_summary {
  int64_t calls, rows, channels, count, non_finite, bins, gram;
  double minimum, maximum, sum, range;
};

// Fills the summary of `key`; returns 0 when the key is unknown or nothing was seen.
QONNX_EXPORT int qonnx_observe_read(const char* key, qonnx_observe_summary* summary) {
  auto state = qonnx::cpu::find(key);
  if (!state) return 0;
  std::lock_guard<std::mutex> lock(state->mutex);
  if (!state->tensor) return 0;
  const auto& tensor = *state->tensor;
  const size_t bins = tensor.histogram.counts.size();
  *summary = {state->calls,
              state->rows,
              state->channels,
              tensor.count[0],
              tensor.non_finite,
              static_cast<int64_t>(bins),
              !state->gram.empty(),
              tensor.minimum[0],
              tensor.maximum[0],
              tensor.sum[0],
              bins ? std::ldexp(1.0, tensor.histogram.exponent) : 0.0};
  return 1;
}

// Copies the histogram, int64 [bins]; returns 0 unless there is one of that size.
QONNX_EXPORT int qonnx_observe_histogram(const char* key, int64_t bins, int64_t* counts) {
  auto state = qonnx::cpu::find(key);
  if (!state) return 0;
  std::lock_guard<std::mutex> lock(state->mutex);
  if (!state->tensor || bins <= 0 || state->tensor->histogram.counts.size() != static_cast<size_t>(bins)) return 0;
  std::copy_n(state->tensor->histogram.counts.data(), bins, counts);
  return 1;
}

// Copies ranges (float [channels]), sums (double) and counts (int64) by channel; returns 0 unless there are that many.
QONNX_EXPORT int qonnx_observe_channels(const char* key, int64_t channels, float* minimum, float* maximum, double* sum,
                                        int64_t* count) {
  auto state = qonnx::cpu::find(key);
  if (!state) return 0;
  std::lock_guard<std::mutex> lock(state->mutex);
  if (!state->by_channel || state->channels != channels) return 0;
  std::copy_n(state->by_channel->minimum.data(), channels, minimum);
  std::copy_n(state->by_channel->maximum.data(), channels, maximum);
  std::copy_n(state->by_channel->sum.data(), channels, sum);
  std::copy_n(state->by_channel->count.data(), channels, count);
  return 1;
}

// Copies the whole symmetric Gram matrix, double [channels][channels]; returns 0 unless there is one of that size.
QONNX_EXPORT int qonnx_observe_gram(const char* key, int64_t channels, double* gram) {
  using qonnx::cpu::kGramTile;
  auto state = qonnx::cpu::find(key);
  if (!state) return 0;
  std::lock_guard<std::mutex> lock(state->mutex);
  if (state->gram.empty() || state->channels != channels) return 0;
  const double* tile = state->gram.data();
  const int64_t side = kGramTile;
  for (int64_t i0 = 0; i0 < channels; i0 += side)
    for (int64_t j0 = i0; j0 < channels; j0 += side, tile += side * side)
      for (int64_t i = i0; i < std::min(i0 + side, channels); ++i)
        for (int64_t j = j0; j < std::min(j0 + side, channels); ++j)
          gram[i * channels + j] = gram[j * channels + i] = tile[(i - i0) * side + j - j0];
  return 1;
}

// Writes the keys that begin with `prefix`, each ended by a zero byte, and returns the bytes that they need.
QONNX_EXPORT int64_t qonnx_observe_keys(const char* prefix, char* buffer, int64_t size) {
  auto& table = qonnx::cpu::table();
  std::lock_guard<std::mutex> lock(table.mutex);
  int64_t used = 0;
  for (auto i = table.states.lower_bound(prefix); i != table.states.end() && qonnx::cpu::has_prefix(i->first, prefix);
       ++i) {
    const int64_t length = static_cast<int64_t>(i->first.size()) + 1;
    if (buffer && used + length <= size) std::memcpy(buffer + used, i->first.c_str(), static_cast<size_t>(length));
    used += length;
  }
  return used;
}

// Forgets the states whose keys begin with `prefix` ("" for all) and returns how many there were. Live sessions start
// afresh in their next call.
QONNX_EXPORT int64_t qonnx_observe_free(const char* prefix) {
  auto& table = qonnx::cpu::table();
  std::lock_guard<std::mutex> lock(table.mutex);
  int64_t freed = 0;
  auto i = table.states.lower_bound(prefix);
  while (i != table.states.end() && qonnx::cpu::has_prefix(i->first, prefix)) i = table.states.erase(i), ++freed;
  return freed;
}

}  // extern "C"
