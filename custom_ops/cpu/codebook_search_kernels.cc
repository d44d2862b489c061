// Beam search for the nearest sum of code-book vectors: thousands of short vectors against small books.
//
// The distance of z to a vector c is ‖z‖² − 2 z·c + ‖c‖², of which the first term does not choose. Books are turned to
// [length][levels], so that the distances of one z to 64 neighbouring vectors are 4 · length multiply-adds of 16 lanes.
// Of each book but the last the `width` best partial sums go on; at the end every code may be chosen once more with the
// others fixed. Equal distances: the first wins.
#include "codebook_search.h"

#include <algorithm>
#include <vector>

#include "lanes.h"

namespace qonnx::cpu::QONNX_TIER {

static constexpr size_t kBlock = 64;
static constexpr float kHuge = 3e38f;

struct TurnedBook {
  std::vector<float> turned;  // [length][padded levels], times −2
  std::vector<float> size;    // ‖c‖², huge behind the last vector
};

struct Partial {
  float distance;
  size_t beam, code;
};

static TurnedBook turned(const float* book, size_t levels, size_t length) {
  const size_t padded = (levels + kBlock - 1) / kBlock * kBlock;
  TurnedBook result{std::vector<float>(length * padded, 0.0f), std::vector<float>(padded, kHuge)};
  for (size_t l = 0; l < levels; ++l) {
    float size = 0;
    for (size_t t = 0; t < length; ++t) {
      const float c = book[l * length + t];
      size += c * c;
      result.turned[t * padded + l] = -2.0f * c;
    }
    result.size[l] = size;
  }
  return result;
}

// distance[l] = ‖c_l‖² − 2 z·c_l
static void distances(const TurnedBook& book, const float* z, size_t length, float* distance) {
  const size_t levels = book.size.size();
  for (size_t first = 0; first < levels; first += kBlock) {
    const float* row = book.turned.data() + first;
    const float* size = book.size.data() + first;
    Floats a = load_floats(size), b = load_floats(size + 16), c = load_floats(size + 32), d = load_floats(size + 48);
    for (size_t t = 0; t < length; ++t, row += levels) {
      const Floats x = floats(z[t]);
      a = fma(x, load_floats(row), a);
      b = fma(x, load_floats(row + 16), b);
      c = fma(x, load_floats(row + 32), c);
      d = fma(x, load_floats(row + 48), d);
    }
    store_floats(distance + first, a);
    store_floats(distance + first + 16, b);
    store_floats(distance + first + 32, c);
    store_floats(distance + first + 48, d);
  }
}

static float least(const float* distance, size_t count) {
  float best[16];
  for (size_t i = 0; i < 16; ++i) best[i] = distance[i];
  for (size_t first = 16; first < count; first += 16)
    for (size_t i = 0; i < 16; ++i) best[i] = distance[first + i] < best[i] ? distance[first + i] : best[i];
  float whole = best[0];
  for (size_t i = 1; i < 16; ++i) whole = best[i] < whole ? best[i] : whole;
  return whole;
}

static size_t nearest(const float* distance, size_t count) {
  const float best = least(distance, count);
  size_t at = 0;
  while (distance[at] != best && at + 1 < count) ++at;
  return at;
}

// Puts the vectors of one beam among the `most` best partial sums, which stay sorted.
static void enter(std::vector<Partial>& kept, size_t most, float part, size_t beam, const float* distance,
                  size_t levels) {
  float worst = kept.size() < most ? kHuge : kept.back().distance;
  for (size_t first = 0; first < levels; first += 16) {
    if (!(part + least(distance + first, 16) < worst)) continue;
    for (size_t l = first; l < std::min(first + 16, levels); ++l) {
      const float d = part + distance[l];
      if (!(d < worst)) continue;
      if (kept.size() < most) kept.push_back({});
      size_t at = kept.size() - 1;
      for (; at > 0 && kept[at - 1].distance > d; --at) kept[at] = kept[at - 1];
      kept[at] = {d, beam, l};
      worst = kept.size() < most ? kHuge : kept.back().distance;
    }
  }
}

static void beam(const float* z, size_t n, size_t length, const float* books, size_t count, size_t levels, size_t width,
                 size_t descents, int64_t* codes) {
  const size_t most = std::max<size_t>(width, 1);
  std::vector<TurnedBook> by_book;
  for (size_t b = 0; b < count; ++b) by_book.push_back(turned(books + b * levels * length, levels, length));
  const size_t padded = by_book[0].size.size();
  const auto vector_at = [&](size_t b, size_t code) { return books + (b * levels + code) * length; };

  std::vector<float> distance(padded), rests(most * length), next_rests(most * length), parts(most);
  std::vector<size_t> chosen(most * count), next_chosen(most * count);
  std::vector<Partial> kept;
  for (size_t row = 0; row < n; ++row) {
    size_t beams = 1;
    std::copy_n(z + row * length, length, rests.begin());
    parts[0] = 0;
    for (size_t b = 0; b < count; ++b) {
      kept.clear();
      for (size_t k = 0; k < beams; ++k) {
        distances(by_book[b], &rests[k * length], length, distance.data());
        if (b + 1 < count) {
          enter(kept, most, parts[k], k, distance.data(), levels);
          continue;
        }
        const size_t code = nearest(distance.data(), padded);
        const Partial found{parts[k] + distance[code], k, code};
        if (kept.empty()) kept.push_back(found);
        else if (found.distance < kept[0].distance) kept[0] = found;
      }
      for (size_t k = 0; k < kept.size(); ++k) {
        const float* vector = vector_at(b, kept[k].code);
        const float* rest = &rests[kept[k].beam * length];
        for (size_t t = 0; t < length; ++t) next_rests[k * length + t] = rest[t] - vector[t];
        std::copy_n(&chosen[kept[k].beam * count], b, &next_chosen[k * count]);
        next_chosen[k * count + b] = kept[k].code;
        parts[k] = kept[k].distance;
      }
      beams = kept.size();
      rests.swap(next_rests);
      chosen.swap(next_chosen);
    }
    for (size_t round = 0; count > 1 && round < descents; ++round) {
      for (size_t b = 0; b < count; ++b) {
        const float* old = vector_at(b, chosen[b]);
        for (size_t t = 0; t < length; ++t) rests[t] += old[t];
        distances(by_book[b], rests.data(), length, distance.data());
        chosen[b] = nearest(distance.data(), padded);
        const float* now = vector_at(b, chosen[b]);
        for (size_t t = 0; t < length; ++t) rests[t] -= now[t];
      }
    }
    for (size_t b = 0; b < count; ++b) codes[row * count + b] = static_cast<int64_t>(chosen[b]);
  }
}

extern const SearchKernels search;
const SearchKernels search{beam};

}  // namespace qonnx::cpu::QONNX_TIER
