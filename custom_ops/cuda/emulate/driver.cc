// What tests call through ctypes: launchers on arrays of the host, schedules by seed, counters.
#include <string>

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
}
