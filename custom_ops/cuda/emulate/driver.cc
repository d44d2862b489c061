// What tests call through ctypes: launchers on arrays of the host, schedules by seed, counters.
#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "../codebook_pack.h"
#include "../lowbit_pack.h"
#include "../rows.h"
#include "machine.h"

using namespace qonnx;

namespace {

thread_local std::string failure;

const char* report(cuda::Failure found) {
  failure = std::move(found);
  return failure.empty() ? nullptr : failure.c_str();
}

// A packed weight of either kind.
struct Packed {
  std::optional<cuda::LowBitPack> low_bit;
  std::optional<cuda::CodebookPack> in_codebooks;
  const cuda::Pack& pack() const {
    return low_bit ? static_cast<const cuda::Pack&>(*low_bit) : static_cast<const cuda::Pack&>(*in_codebooks);
  }
};

template <class Body>
Packed* packed(Body&& body) {
  try {
    auto made = std::make_unique<Packed>();
    body(*made);
    return made.release();
  } catch (const std::invalid_argument& error) {
    failure = error.what();
    return nullptr;
  }
}

}  // namespace

extern "C" {

void emulated_seed(uint64_t seed) { emulate::set_seed(seed); }

// multiplies, bytes of cp.async, barriers, blocks, wavefronts, least wavefronts; starts again from zero
void emulated_counters(uint64_t* six) {
  const emulate::Counters c = emulate::counters(true);
  const uint64_t all[] = {c.multiplies, c.async_bytes, c.barriers, c.blocks, c.wavefronts, c.least_wavefronts};
  for (int i = 0; i < 6; ++i) six[i] = all[i];
}

const char* emulated_rows(const cuda::Rows* rows) { return report(cuda::run_rows(*rows, nullptr)); }

// The packed weight, or null and a sentence from emulated_failure().
Packed* emulated_lowbit_pack(const cuda::LowBitSource* source, int math) {
  return packed([&](Packed& made) { made.low_bit = cuda::pack_lowbit(*source, static_cast<cuda::Math>(math)); });
}
Packed* emulated_codebook_pack(const cuda::CodebookSource* source, int math) {
  return packed([&](Packed& made) { made.in_codebooks = cuda::pack_codebook(*source, static_cast<cuda::Math>(math)); });
}
const char* emulated_failure() { return failure.c_str(); }
void emulated_free(Packed* pack) { delete pack; }

// Sizes of the arrays that the caller copies to memory of the device: codes, parameters, tables.
void emulated_sizes(const Packed* pack, size_t* three) {
  three[0] = pack->pack().codes.size();
  three[1] = pack->pack().parameters.size();
  three[2] = pack->in_codebooks ? pack->in_codebooks->tables.size() : 0;
}

void emulated_arrays(const Packed* pack, char* codes, char* parameters, char* tables) {
  std::copy(pack->pack().codes.begin(), pack->pack().codes.end(), codes);
  std::copy(pack->pack().parameters.begin(), pack->pack().parameters.end(), parameters);
  if (pack->in_codebooks) std::copy(pack->in_codebooks->tables.begin(), pack->in_codebooks->tables.end(), tables);
}

void emulated_offsets(const Packed* pack, const cuda::LowBitSource* source, float* offsets) {
  const auto found = cuda::offsets_of(*pack->low_bit, *source);
  std::copy(found.begin(), found.end(), offsets);
}

// Bytes of workspace; then {regime, splits, planes} of the plan for a device of so many processors.
size_t emulated_plan(const Packed* pack, int element, int64_t rows, int processors, size_t shared_bytes, int rank,
                     int* choice) {
  const cuda::Plan plan =
      plan_of(pack->pack().weight, static_cast<cuda::Element>(element), rows, {processors, shared_bytes}, rank);
  choice[0] = static_cast<int>(plan.regime);
  choice[1] = plan.splits;
  choice[2] = plan.planes;
  return plan.bytes;
}

const char* emulated_product(const Packed* pack, const char* codes, const char* parameters, const char* tables,
                             const cuda::Product* product, int processors, size_t shared_bytes) {
  cuda::Weight weight = pack->pack().weight;
  weight.codes = codes;
  weight.parameters = parameters;
  const cuda::Device device{processors, shared_bytes};
  const cuda::Plan plan = plan_of(weight, product->element, product->rows, device, product->branch.rank);
  if (pack->low_bit) return report(cuda::run_lowbit(*pack->low_bit, weight, plan, *product, nullptr));
  return report(cuda::run_codebook(*pack->in_codebooks, tables, weight, plan, *product, device, nullptr));
}
}
