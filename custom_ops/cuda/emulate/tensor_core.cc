// ldmatrix and mma.sync of the emulated device: what each of 32 threads holds, after the PTX ISA.
//
// With g = lane / 4 and t = lane % 4, register r of a thread holds, for m16n8k16 (two numbers h = 0, 1 a register) and
// m16n8k32 (four, i = 0 … 3):
//   A   row g + 8 (r % 2), column 2t + h + 8 (r / 2)         row g + 8 (r % 2), column 4t + i + 16 (r / 2)
//   B   row 2t + h + 8r, column g                            row 4t + i + 16r, column g
//   C   row g + 8 (r / 2), column 2t + r % 2                 the same
#include <cstring>

#include "../../formats/float16.h"
#include "machine.h"
#include "sanitizer.h"

namespace qonnx::emulate {

namespace {

template <class C>
struct Operands {
  uint32_t a[4], b[2];
  C c[4];
};

template <class C>
Operands<C> of_lane(const Exchange& all, int lane) {
  Operands<C> operands;
  std::memcpy(&operands, all.row[lane], sizeof operands);
  return operands;
}

// Only the two rows and columns of D that this thread holds are computed by it. Sums are in the order of k.
template <class C, int per_register, class Decode>
void multiply(C d[4], const uint32_t a[4], const uint32_t b[2], const C c[4], const char* instruction, int line,
              Decode decode) {
  Operands<C> mine;
  std::memcpy(mine.a, a, sizeof mine.a);
  std::memcpy(mine.b, b, sizeof mine.b);
  std::memcpy(mine.c, c, sizeof mine.c);
  const Exchange& all = exchange(&mine, sizeof mine, instruction, line);
  const int g = lane() / 4, t = lane() % 4;
  C sum[4] = {};
  for (int half = 0; half < 2; ++half)
    for (int quad = 0; quad < 4; ++quad) {
      const auto rows = of_lane<C>(all, 4 * g + quad);
      const uint32_t left = of_lane<C>(all, 8 * t + quad).b[half], right = of_lane<C>(all, 8 * t + 4 + quad).b[half];
      for (int i = 0; i < per_register; ++i) {
        const C upper = decode(rows.a[2 * half], i), lower = decode(rows.a[2 * half + 1], i);
        const C first = decode(left, i), second = decode(right, i);
        sum[0] += upper * first;
        sum[1] += upper * second;
        sum[2] += lower * first;
        sum[3] += lower * second;
      }
    }
  for (int r = 0; r < 4; ++r) d[r] = mine.c[r] + sum[r];
}

}  // namespace

void load_matrices(uint32_t* registers, int count, bool transposed, const void* row, int line) {
  const char* memory = shared_memory();
  if (lane() < 8 * count && reinterpret_cast<uintptr_t>(row) % 16) fail("ldmatrix of a row that is not aligned to 16");
  if (lane() < 8 * count && static_cast<const char*>(row) < memory) fail("ldmatrix outside shared memory");
  const Exchange& all = exchange(&row, sizeof row, "ldmatrix", line);
  const int g = lane() / 4, t = lane() % 4;
  const char* rows[32];
  for (int i = 0; i < 8 * count; ++i) std::memcpy(&rows[i], all.row[i], sizeof rows[i]);
  for (int m = 0; lane() == 0 && m < count; ++m) {
    int rows_of_bank[8] = {}, most = 0;  // eight groups of four banks, 16 bytes
    for (int i = 0; i < 8; ++i) {
      const int uses = ++rows_of_bank[reinterpret_cast<uintptr_t>(rows[8 * m + i]) / 16 % 8];
      most = uses > most ? uses : most;
    }
    count_wavefronts(most, 1);
  }
  for (int m = 0; m < count; ++m) {
    __tsan_read_range(const_cast<char*>(rows[8 * m + g]), transposed ? 0 : 16);
    if (!transposed) {
      std::memcpy(&registers[m], rows[8 * m + g] + 4 * t, 4);
      continue;
    }
    uint16_t pair[2];
    for (int h = 0; h < 2; ++h) __tsan_read_range(const_cast<char*>(rows[8 * m + 2 * t + h]), 16);
    for (int h = 0; h < 2; ++h) std::memcpy(&pair[h], rows[8 * m + 2 * t + h] + 2 * g, 2);
    registers[m] = pair[0] | uint32_t{pair[1]} << 16;
  }
}

void multiply_float16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4], int line) {
  multiply<float, 2>(d, a, b, c, "mma.f16", line,
                     [](uint32_t word, int i) { return decode_float16(static_cast<uint16_t>(word >> 16 * i)); });
}

void multiply_bfloat16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4], int line) {
  multiply<float, 2>(d, a, b, c, "mma.bf16", line,
                     [](uint32_t word, int i) { return decode_bfloat16(static_cast<uint16_t>(word >> 16 * i)); });
}

void multiply_int8(int32_t d[4], const uint32_t a[4], const uint32_t b[2], const int32_t c[4], int line) {
  multiply<int32_t, 4>(d, a, b, c, "mma.s8", line,
                       [](uint32_t word, int i) { return int32_t{static_cast<int8_t>(word >> 8 * i)}; });
}

}  // namespace qonnx::emulate
