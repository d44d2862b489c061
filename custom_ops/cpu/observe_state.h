// What ObserveSink gathers about one tensor, and the process-wide table of it.
//
// Ranges, sums and counts are of the finite numbers only; the others are counted apart.
// Histogram: `bins` equal bins over [−range, range), range a power of two that doubles when a larger number comes
// (neighbouring bins merge in pairs around zero). All widths are powers of two, so the counts are exactly those that
// one pass with the final range would give, whatever the order of the data. Gram matrix: Σ x xᵀ over rows of channels
// (non-finite numbers as zero), upper block triangle of 64 × 64 tiles, float64.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "observe_kernels.h"

namespace qonnx::cpu {

struct Histogram {
  explicit Histogram(size_t bins = 0) : counts(bins) {}
  void cover(float magnitude);       // widen until |x| = magnitude is inside
  void add(const Histogram& other);  // same number of bins
  float per_unit() const;            // bins for a unit of x: a power of two
  std::vector<int64_t> counts;
  int exponent = kSmallest;  // range = 2^exponent
  static constexpr int kSmallest = -100;
};

// The part that every task gathers for itself, without a lock.
struct Tally {
  Tally(size_t channels, size_t bins);
  void add(const Tally& other);
  std::vector<float> minimum, maximum;  // by channel; +inf, −inf where nothing was seen
  std::vector<double> sum;
  std::vector<int64_t> count;  // finite numbers by channel
  int64_t non_finite = 0;
  Histogram histogram;
};

struct ObserveState {
  std::mutex mutex;
  int64_t calls = 0, rows = 0;        // rows: vectors of channels seen
  int64_t channels = 0;               // 0 before the first call, −1 once the number of channels has varied
  std::unique_ptr<Tally> tensor;      // per tensor: one channel, with the histogram
  std::unique_ptr<Tally> by_channel;  // without histogram
  std::vector<double> gram;           // tiles [i ≤ j][64][64]
};

// The state of `key`, made on first use.
std::shared_ptr<ObserveState> observe_state(const std::string& key);

}  // namespace qonnx::cpu
