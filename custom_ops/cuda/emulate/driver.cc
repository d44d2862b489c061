// What tests call through ctypes: launchers on arrays of the host, schedules by seed, counters.
#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>

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
cuda::LowBitPack* emulated_lowbit_pack(const cuda::LowBitSource* source, int math) {
  try {
    return std::make_unique<cuda::LowBitPack>(cuda::pack_lowbit(*source, static_cast<cuda::Math>(math))).release();
  } catch (const std::invalid_argument& error) {
    failure = error.what();
    return nullptr;
  }
}

const char* emulated_failure() { return failure.c_str(); }
void emulated_lowbit_free(cuda::LowBitPack* pack) { delete pack; }

// Sizes of the two arrays that the caller copies to memory of the device.
void emulated_lowbit_sizes(const cuda::LowBitPack* pack, size_t* codes, size_t* parameters) {
  *codes = pack->codes.size();
  *parameters = pack->parameters.size();
}

void emulated_lowbit_arrays(const cuda::LowBitPack* pack, char* codes, char* parameters) {
  std::copy(pack->codes.begin(), pack->codes.end(), codes);
  std::copy(pack->parameters.begin(), pack->parameters.end(), parameters);
}

// Bytes of workspace; then {regime, splits, planes} of the plan for a device of so many processors.
size_t emulated_lowbit_plan(const cuda::LowBitPack* pack, int element, int64_t rows, int processors, int* choice) {
  const cuda::Plan plan = plan_of(pack->weight, static_cast<cuda::Element>(element), rows, {processors, 99 << 10});
  choice[0] = static_cast<int>(plan.regime);
  choice[1] = plan.splits;
  choice[2] = plan.planes;
  return plan.bytes;
}

const char* emulated_lowbit(const cuda::LowBitPack* pack, const char* codes, const char* parameters,
                            const cuda::Product* product, int processors) {
  cuda::Weight weight = pack->weight;
  weight.codes = codes;
  weight.parameters = parameters;
  const cuda::Plan plan = plan_of(weight, product->element, product->rows, {processors, 99 << 10});
  return report(cuda::run_lowbit(*pack, weight, plan, *product, nullptr));
}
}
