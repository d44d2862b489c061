// Schedules, barriers and copies of the emulated device (see machine.h).
#include "machine.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "fiber.h"
#include "sanitizer.h"

namespace qonnx::emulate {

namespace {

constexpr size_t kMostShared = 227 << 10;
constexpr unsigned kMostThreads = 1024, kWarp = 32;
constexpr uint32_t kSteadiness = 24;  // priorities change once in so many turns

enum class State { ready, at_barrier, at_warp, done };

struct Copy {
  void* to;
  int bytes;
  unsigned char data[16];
};

struct Thread {
  Fiber fiber;
  Dim index;
  int number, warp, lane, line = 0;
  State state;
  int phase;  // of the exchanges of its warp: two buffers take turns
  std::vector<Copy> copies;
  std::vector<size_t> groups;  // number of copies at each commit
};

struct Warp {
  int threads, arrived[2], line[2];
  const char* instruction[2];
  Exchange buffer[2];
  char sync[2];  // addresses for ThreadSanitizer
  uint32_t priority;
};

struct Machine {
  uint64_t seed = 0, random = 1;
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Warp> warps;
  Place place;
  char* shared = nullptr;
  size_t shared_bytes = 0;
  const std::function<void()>* kernel = nullptr;
  Thread* now = nullptr;
  unsigned count = 0, live = 0, waiting = 0;
  int barrier_line = 0, barrier_phase = 0;
  char barrier_sync[2], start_sync, end_sync;
  std::string error;
  Counters done{};
};

Machine machine;

uint32_t next_random() {
  uint64_t& s = machine.random;
  s ^= s << 13;
  s ^= s >> 7;
  s ^= s << 17;
  return static_cast<uint32_t>(s >> 32);
}

void leave(State state) {
  machine.now->state = state;
  machine.now->fiber.leave(state == State::done);
}

void thread_main() {
  __tsan_acquire(&machine.start_sync);
  (*machine.kernel)();
  if (!machine.now->copies.empty()) fail("a thread ends with an asynchronous copy that nobody waited for");
  __tsan_release(&machine.end_sync);
  leave(State::done);
}

// Waits until the whole warp is at this instruction; says which of the two buffers is the present one.
int meet(const char* instruction, int line) {
  Thread& me = *machine.now;
  Warp& warp = machine.warps[me.warp];
  const int phase = me.phase;
  me.phase ^= 1;
  me.line = line;
  if (!warp.arrived[phase]) {
    warp.instruction[phase] = instruction;
    warp.line[phase] = line;
  } else if (warp.instruction[phase] != instruction || warp.line[phase] != line) {
    fail("threads of a warp are at different warp instructions");
  }
  if (++warp.arrived[phase] < warp.threads) {
    leave(State::at_warp);
  } else {
    warp.arrived[phase] = 0;
    for (int i = 0; i < warp.threads; ++i) {
      Thread& other = *machine.threads[me.warp * kWarp + i];
      if (other.state == State::done) fail("a warp instruction that an exited thread of the warp does not reach");
      other.state = State::ready;
    }
  }
  return phase;
}

// Threads that can run now, of the warp whose turn it is.
void choose(std::vector<Thread*>& turn) {
  turn.clear();
  for (unsigned i = 0; i < machine.count; ++i)
    if (machine.threads[i]->state == State::ready) turn.push_back(machine.threads[i].get());
  if (!machine.seed || turn.empty()) return;
  if (next_random() % kSteadiness == 0)
    for (Warp& warp : machine.warps) warp.priority = next_random();
  const auto priority = [](const Thread* t) { return machine.warps[t->warp].priority; };
  const int first = (*std::max_element(turn.begin(), turn.end(), [&](const Thread* a, const Thread* b) {
                      return priority(a) < priority(b);
                    }))->warp;
  turn.erase(std::remove_if(turn.begin(), turn.end(), [&](const Thread* t) { return t->warp != first; }), turn.end());
  for (size_t i = turn.size(); i > 1; --i) std::swap(turn[i - 1], turn[next_random() % i]);
}

bool open_barrier() {
  if (machine.waiting != machine.live) return false;
  if (machine.live != machine.count) {
    machine.error = "__syncthreads() after threads of the block have exited";
    return false;
  }
  machine.waiting = 0;
  machine.barrier_phase ^= 1;
  for (unsigned i = 0; i < machine.count; ++i) machine.threads[i]->state = State::ready;
  return true;
}

void run_block() {
  std::memset(machine.shared, 0xff, machine.shared_bytes);  // NaN as a float, -1 as an integer
  machine.live = machine.count;
  machine.waiting = 0;
  for (Warp& warp : machine.warps) warp.arrived[0] = warp.arrived[1] = 0;
  for (unsigned i = 0; i < machine.count; ++i) {
    Thread& thread = *machine.threads[i];
    thread.state = State::ready;
    thread.phase = 0;
    thread.copies.clear();
    thread.groups.clear();
    thread.fiber.prepare(thread_main);
  }
  __tsan_release(&machine.start_sync);
  std::vector<Thread*> turn;
  while (machine.live) {
    choose(turn);
    if (turn.empty() && !open_barrier()) {
      if (machine.error.empty()) machine.error = "deadlock: some threads wait for a barrier, others for their warp";
      return;
    }
    for (Thread* thread : turn) {
      if (thread->state != State::ready) continue;
      machine.now = thread;
      thread->fiber.run();
      if (!machine.error.empty()) return;
      if (thread->state == State::done) --machine.live;
    }
  }
  __tsan_acquire(&machine.end_sync);
  ++machine.done.blocks;
}

void set_up(Dim blocks, Dim threads, size_t shared_bytes) {
  machine.count = threads.x * threads.y * threads.z;
  machine.random = machine.seed * 0x9e3779b97f4a7c15u + 1;
  machine.place.blocks = blocks;
  machine.place.threads = threads;
  machine.shared_bytes = shared_bytes;
  machine.warps.resize((machine.count + kWarp - 1) / kWarp);
  for (size_t w = 0; w < machine.warps.size(); ++w) {
    machine.warps[w].threads = static_cast<int>(std::min<size_t>(kWarp, machine.count - w * kWarp));
    machine.warps[w].priority = next_random();
  }
  while (machine.threads.size() < machine.count) machine.threads.push_back(std::make_unique<Thread>());
  for (unsigned i = 0; i < machine.count; ++i) {
    Thread& thread = *machine.threads[i];
    thread.number = static_cast<int>(i);
    thread.warp = static_cast<int>(i / kWarp);
    thread.lane = static_cast<int>(i % kWarp);
    thread.index = {i % threads.x, i / threads.x % threads.y, i / (threads.x * threads.y)};
  }
}

}  // namespace

void fail(const char* sentence) {
  const Dim block = machine.place.block;
  machine.error = std::string(sentence) + " (block " + std::to_string(block.x) + ", " + std::to_string(block.y) + ", " +
                  std::to_string(block.z) + "; thread " + std::to_string(machine.now->number) + "; line " +
                  std::to_string(machine.now->line) + ")";
  machine.now->fiber.leave(true);
  __builtin_unreachable();
}

void set_seed(uint64_t seed) { machine.seed = seed; }

const char* launch(Dim blocks, Dim threads, size_t shared_bytes, const std::function<void()>& kernel) {
  machine.error.clear();
  const uint64_t count = uint64_t{1} * threads.x * threads.y * threads.z;
  const uint64_t total = uint64_t{1} * blocks.x * blocks.y * blocks.z;
  if (!count || count > kMostThreads || shared_bytes > kMostShared || !total || blocks.y > 65535 || blocks.z > 65535)
    return "invalid configuration: a block has 1 to 1024 threads and at most 227 KB of shared memory";
  set_up(blocks, threads, shared_bytes);
  machine.kernel = &kernel;
  std::vector<uint32_t> order(total);
  for (uint32_t i = 0; i < total; ++i) order[i] = i;
  if (machine.seed)
    for (size_t i = total; i > 1; --i) std::swap(order[i - 1], order[next_random() % i]);
  std::vector<std::unique_ptr<char, decltype(&std::free)>> kept;  // a new place per block under ThreadSanitizer
  for (const uint32_t number : order) {
    machine.place.block = {number % blocks.x, number / blocks.x % blocks.y, number / blocks.x / blocks.y};
#if !defined(EMULATE_TSAN)
    kept.clear();
#endif
    void* shared = nullptr;
    if (posix_memalign(&shared, 128, shared_bytes)) return "out of memory";  // the exact size: overruns are seen
    kept.emplace_back(static_cast<char*>(shared), &std::free);
    machine.shared = static_cast<char*>(shared);
    run_block();
    if (!machine.error.empty()) return machine.error.c_str();
  }
  return nullptr;
}

const Place& place() {
  machine.place.thread = machine.now->index;
  return machine.place;
}

char* shared_memory() { return machine.shared; }
int lane() { return machine.now->lane; }

void barrier(int line) {
  Thread& me = *machine.now;
  me.line = line;
  if (!machine.waiting) {
    machine.barrier_line = line;
    ++machine.done.barriers;
  } else if (machine.barrier_line != line) {
    fail("threads of a block wait at different __syncthreads()");
  }
  ++machine.waiting;
  const int phase = machine.barrier_phase;
  __tsan_release(&machine.barrier_sync[phase]);
  leave(State::at_barrier);
  __tsan_acquire(&machine.barrier_sync[phase]);
}

void warp_barrier(int line) {
  Warp& warp = machine.warps[machine.now->warp];
  char* sync = &warp.sync[machine.now->phase];
  __tsan_release(sync);
  meet("__syncwarp", line);
  __tsan_acquire(sync);
}

const Exchange& exchange(const void* data, size_t bytes, const char* instruction, int line) {
  Thread& me = *machine.now;
  Warp& warp = machine.warps[me.warp];
  std::memcpy(warp.buffer[me.phase].row[me.lane], data, bytes);
  const int phase = meet(instruction, line);
  if (warp.threads != static_cast<int>(kWarp)) fail("a warp instruction in a warp of fewer than 32 threads");
  machine.done.multiplies += me.lane == 0 && instruction[0] == 'm';
  return warp.buffer[phase];
}

uint32_t shuffle(uint32_t value, From from, int argument, int line) {
  const Exchange& all = exchange(&value, 4, "shuffle", line);
  const int me = lane();
  int source = me;
  switch (from) {
    case From::lane: source = argument & 31; break;
    case From::exclusive_or: source = me ^ argument; break;
    case From::down: source = me + argument; break;
    case From::up: source = me - argument; break;
  }
  if (source < 0 || source > 31) source = me;
  std::memcpy(&value, all.row[source], 4);
  return value;
}

uint32_t ballot(bool predicate, int line) {
  const Exchange& all = exchange(&predicate, 1, "ballot", line);
  uint32_t votes = 0;
  for (int i = 0; i < 32; ++i) votes |= uint32_t{all.row[i][0]} << i;
  return votes;
}

void copy_async(void* shared, const void* global, int bytes, int valid_bytes) {
  const auto to = static_cast<char*>(shared);
  if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % bytes)
    fail("cp.async of a misaligned address");
  if (to < machine.shared || to + bytes > machine.shared + machine.shared_bytes)
    fail("cp.async to an address outside shared memory");
  __tsan_read_range(const_cast<void*>(global), valid_bytes);
  __tsan_write_range(shared, bytes);
  Copy copy{shared, bytes, {}};
  if (valid_bytes) std::memcpy(copy.data, global, valid_bytes);
  std::memset(shared, 0xff, bytes);
  machine.now->copies.push_back(copy);
  machine.done.async_bytes += valid_bytes;
}

void copy_commit() { machine.now->groups.push_back(machine.now->copies.size()); }

void copy_wait(int pending) {
  Thread& me = *machine.now;
  if (static_cast<int>(me.groups.size()) <= pending) return;
  const size_t finished = me.groups.size() - pending, upto = me.groups[finished - 1];
  for (size_t i = 0; i < upto; ++i) {
    __tsan_write_range(me.copies[i].to, me.copies[i].bytes);
    std::memcpy(me.copies[i].to, me.copies[i].data, me.copies[i].bytes);
  }
  me.copies.erase(me.copies.begin(), me.copies.begin() + static_cast<std::ptrdiff_t>(upto));
  me.groups.erase(me.groups.begin(), me.groups.begin() + static_cast<std::ptrdiff_t>(finished));
  for (size_t& group : me.groups) group -= upto;
}

void count_wavefronts(int made, int least) {
  machine.done.wavefronts += made;
  machine.done.least_wavefronts += least;
}

Counters counters(bool reset) {
  const Counters now = machine.done;
  if (reset) machine.done = {};
  return now;
}

}  // namespace qonnx::emulate
