// The emulated device: blocks of threads in warps, barriers, shuffles, tensor-core instructions, asynchronous copies.
//
// It runs a kernel on one thread of the host, one block after another, in a deterministic schedule that a seed picks.
// Seed 0 runs threads in order. Any other seed is unfair: of the warps that can run, the one of highest priority runs
// as far as it can, and priorities change at random moments. A fair order hides a missing barrier; this one does not.
// Shared memory is as large as the launch asked, no larger, and filled with NaN at first. An asynchronous copy spoils
// its destination at once, and the data arrive only at the wait that guarantees them.
//
// What it refuses, with a sentence: warp instructions that not all threads of the warp reach, barriers after an exit,
// misaligned vectors, copies outside shared memory, copies that nobody waits for. What it cannot show: the text of the
// inline PTX, bank conflicts, the hardware's order of sums, time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace qonnx::emulate {

struct Dim {
  unsigned x = 1, y = 1, z = 1;
};

struct Place {
  Dim thread, block, threads, blocks;
};

void set_seed(uint64_t seed);
// nullptr, or what the kernel did wrong; the text lives until the next launch.
const char* launch(Dim blocks, Dim threads, size_t shared_bytes, const std::function<void()>& kernel);

// What a thread of the kernel calls.
const Place& place();
char* shared_memory();
void barrier(int line);
void warp_barrier(int line);
enum class From { lane, exclusive_or, down, up };
uint32_t shuffle(uint32_t value, From from, int argument, int line);
uint32_t ballot(bool predicate, int line);
void copy_async(void* shared, const void* global, int bytes, int valid_bytes);
void copy_commit();
void copy_wait(int pending);

// Fragments as in the PTX ISA (matrix fragments for mma.m16n8k16 and .m16n8k32); d may be c.
void load_matrices(uint32_t* registers, int count, bool transposed, const void* row, int line);
void multiply_float16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4], int line);
void multiply_bfloat16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4], int line);
void multiply_int8(int32_t d[4], const uint32_t a[4], const uint32_t b[2], const int32_t c[4], int line);

[[noreturn]] void fail(const char* sentence);

// Work done since the last call with reset, for laws on the number of instructions and bytes.
struct Counters {
  uint64_t multiplies, async_bytes, barriers, blocks;
  uint64_t wavefronts, least_wavefronts;  // of ldmatrix: passes over the banks of shared memory, and without conflicts
};
void count_wavefronts(int made, int least);
Counters counters(bool reset);

// Between threads of a warp, for the instructions above: everyone puts `bytes` of data down and, once all have, gets
// the table of all 32, rows of 64 bytes.
struct Exchange {
  alignas(16) unsigned char row[32][64];
};
const Exchange& exchange(const void* data, size_t bytes, const char* instruction, int line);
int lane();

}  // namespace qonnx::emulate
