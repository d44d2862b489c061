// One function per machine instruction that C++ has no word for; no other file holds inline PTX.
//
// nvcc gets PTX, g++ gets the emulated device (emulate/machine.h). Fragments are described in emulate/tensor_core.cc.
// Below compute capability 8.0 the asynchronous copies are plain ones, m16n8k16 is made of m16n8k8 and m8n8k16, and
// bfloat16 products, which those tensor cores lack, of float32 ones.
#pragma once

#if defined(__CUDACC__)

#include <cuda_runtime.h>
#include <stdint.h>

#define QONNX_DEVICE static __device__ __forceinline__
#define QONNX_DEVICE_MEMBER __device__ __forceinline__
#define QONNX_BOTH __host__ __device__ __forceinline__
#define QONNX_SHARED(name) extern __shared__ __align__(128) char name[]

namespace qonnx::cuda {

QONNX_DEVICE void warp_barrier() { __syncwarp(); }
QONNX_DEVICE uint32_t shuffle_xor(uint32_t value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
QONNX_DEVICE uint32_t shuffle(uint32_t value, int lane) { return __shfl_sync(0xffffffffu, value, lane); }

QONNX_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

QONNX_DEVICE float bits_as_float(uint32_t bits) { return __uint_as_float(bits); }
QONNX_DEVICE uint32_t float_as_bits(float value) { return __float_as_uint(value); }

QONNX_DEVICE float float_of_half(uint16_t code) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(code));
  return value;
}

QONNX_DEVICE uint16_t half_of_float(float value) {
  uint16_t code;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(code) : "f"(value));
  return code;
}

// To the nearest, halves to even.
QONNX_DEVICE int32_t nearest_integer(float value) { return __float2int_rn(value); }
// No fused multiply-add, whatever the compiler's options.
QONNX_DEVICE float multiply_rounded(float a, float b) { return __fmul_rn(a, b); }
QONNX_DEVICE float divide_rounded(float a, float b) { return __fdiv_rn(a, b); }

// Any function of three bits: `table` is its value for a = 0xf0, b = 0xcc, c = 0xaa.
template <int table>
QONNX_DEVICE uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(table));
  return d;
}

// Byte i of the result is byte selector[4i+2 : 4i] of the eight bytes of b:a; bit 4i + 3 of the selector must be 0.
QONNX_DEVICE uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector) { return __byte_perm(a, b, selector); }

// a · b + c for two float16 or bfloat16 numbers at once, rounded once.
QONNX_DEVICE uint32_t fma_float16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

// 4, 8 or 16 bytes of global memory that does not change, from the L2 cache: a random entry of a large table would only
// push others out of L1.
QONNX_DEVICE void load_past_l1(const void* from, uint32_t (&word)[1]) {
  asm("ld.global.cg.b32 %0, [%1];" : "=r"(word[0]) : "l"(from));
}
QONNX_DEVICE void load_past_l1(const void* from, uint32_t (&word)[2]) {
  asm("ld.global.cg.v2.b32 {%0, %1}, [%2];" : "=r"(word[0]), "=r"(word[1]) : "l"(from));
}
QONNX_DEVICE void load_past_l1(const void* from, uint32_t (&word)[4]) {
  asm("ld.global.cg.v4.b32 {%0, %1, %2, %3}, [%4];"
      : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
      : "l"(from));
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

QONNX_DEVICE uint16_t bfloat16_of_float(float value) {
  uint16_t code;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(code) : "f"(value));
  return code;
}

QONNX_DEVICE uint32_t fma_bfloat16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

// 16 bytes from global to shared memory past the L1 cache; zeros where not `valid`.
QONNX_DEVICE void copy_async(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(shared_address(shared)), "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}
QONNX_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until all but the last `pending` groups of this thread's copies have arrived.
template <int pending>
QONNX_DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// d = a · b + c of fragments; d may be c.
QONNX_DEVICE void multiply_float16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                   const float (&c)[4]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%10, %11, %12, %13};"
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1),
                 "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

QONNX_DEVICE void multiply_bfloat16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                    const float (&c)[4]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%10, %11, %12, %13};"
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1),
                 "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

QONNX_DEVICE void multiply_int8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                const int32_t (&c)[4]) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%10, %11, %12, %13};"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1),
                 "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}

#else

QONNX_DEVICE uint16_t bfloat16_of_float(float value) {
  const uint32_t bits = float_as_bits(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

QONNX_DEVICE uint32_t fma_bfloat16x2(uint32_t a, uint32_t b, uint32_t c) {
  const float low = fmaf(bits_as_float(a << 16), bits_as_float(b << 16), bits_as_float(c << 16));
  const float high = fmaf(bits_as_float(a & 0xffff0000), bits_as_float(b & 0xffff0000), bits_as_float(c & 0xffff0000));
  return bfloat16_of_float(low) | static_cast<uint32_t>(bfloat16_of_float(high)) << 16;
}

QONNX_DEVICE void copy_async(void* shared, const void* global, bool valid) {
  *static_cast<uint4*>(shared) = valid ? *static_cast<const uint4*>(global) : make_uint4(0, 0, 0, 0);
}
QONNX_DEVICE void copy_commit() {}
template <int pending>
QONNX_DEVICE void copy_wait() {}

QONNX_DEVICE void multiply_float16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                   const float (&c)[4]) {
  const uint32_t b[2] = {b0, b1};
#pragma unroll
  for (int i = 0; i < 4; ++i) d[i] = c[i];
#pragma unroll
  for (int half = 0; half < 2; ++half)
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
}

QONNX_DEVICE void multiply_bfloat16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                    const float (&c)[4]) {
  const int lane = threadIdx.x & 31, row = lane & ~3, column = (lane & 3) * 8;
  const uint32_t b[2] = {b0, b1};
#pragma unroll
  for (int i = 0; i < 4; ++i) d[i] = c[i];
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll 1  // in one go the shuffles of all products come first and spill
    for (int quad = 0; quad < 4; ++quad) {
      const uint32_t upper = shuffle(a[2 * half], row + quad), lower = shuffle(a[2 * half + 1], row + quad);
      const uint32_t left = shuffle(b[half], column + quad), right = shuffle(b[half], column + 4 + quad);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const auto number = [&](uint32_t word) { return bits_as_float(h ? word & 0xffff0000 : word << 16); };
        d[0] = fmaf(number(upper), number(left), d[0]);
        d[1] = fmaf(number(upper), number(right), d[1]);
        d[2] = fmaf(number(lower), number(left), d[2]);
        d[3] = fmaf(number(lower), number(right), d[3]);
      }
    }
}

QONNX_DEVICE void multiply_int8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                const int32_t (&c)[4]) {
  const uint32_t b[2] = {b0, b1};
#pragma unroll
  for (int i = 0; i < 4; ++i) d[i] = c[i];
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int row = 0; row < 2; ++row)
      asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                   : "+r"(d[2 * row]), "+r"(d[2 * row + 1])
                   : "r"(a[2 * half + row]), "r"(b[half]));
}

#endif

// Four 8 × 8 matrices of 16-bit numbers; thread i gives the address of row i % 8 of matrix i / 8.
QONNX_DEVICE void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same, each matrix transposed.
QONNX_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

}  // namespace qonnx::cuda

#else  // g++

#include "../formats/float16.h"
#include "emulate/device.h"

#define QONNX_DEVICE static inline
#define QONNX_DEVICE_MEMBER inline
#define QONNX_BOTH inline
#define QONNX_SHARED(name) char* name = qonnx::emulate::shared_memory()

namespace qonnx::cuda {

// The line of the caller tells warp instructions apart, so that threads at different ones are noticed.
#define QONNX_LINE int line = __builtin_LINE()

QONNX_DEVICE void warp_barrier(QONNX_LINE) { emulate::warp_barrier(line); }
QONNX_DEVICE uint32_t shuffle_xor(uint32_t value, int mask, QONNX_LINE) {
  return emulate::shuffle(value, emulate::From::exclusive_or, mask, line);
}
QONNX_DEVICE uint32_t shuffle(uint32_t value, int lane, QONNX_LINE) {
  return emulate::shuffle(value, emulate::From::lane, lane, line);
}

QONNX_DEVICE float bits_as_float(uint32_t bits) { return bits_float(bits); }
QONNX_DEVICE uint32_t float_as_bits(float value) { return float_bits(value); }
QONNX_DEVICE float float_of_half(uint16_t code) { return decode_float16(code); }
QONNX_DEVICE uint16_t half_of_float(float value) { return encode_float16(value); }
QONNX_DEVICE uint16_t bfloat16_of_float(float value) { return encode_bfloat16(value); }
QONNX_DEVICE int32_t nearest_integer(float value) { return static_cast<int32_t>(__builtin_rintf(value)); }
QONNX_DEVICE float multiply_rounded(float a, float b) { return a * b; }
QONNX_DEVICE float divide_rounded(float a, float b) { return a / b; }

template <int table>
QONNX_DEVICE uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d = 0;
  for (int minterm = 0; minterm < 8; ++minterm)
    if (table >> minterm & 1) d |= (minterm & 4 ? a : ~a) & (minterm & 2 ? b : ~b) & (minterm & 1 ? c : ~c);
  return d;
}

QONNX_DEVICE uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  uint32_t d = 0;
  for (int i = 0; i < 4; ++i) d |= static_cast<uint32_t>(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return d;
}

QONNX_DEVICE uint32_t fma_float16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d = 0;
  for (int s = 0; s < 32; s += 16)
    d |= uint32_t{encode_float16(fmaf(decode_float16(a >> s & 0xffff), decode_float16(b >> s & 0xffff),
                                      decode_float16(c >> s & 0xffff)))}
         << s;
  return d;
}

QONNX_DEVICE uint32_t fma_bfloat16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d = 0;
  for (int s = 0; s < 32; s += 16)
    d |= uint32_t{encode_bfloat16(fmaf(decode_bfloat16(a >> s & 0xffff), decode_bfloat16(b >> s & 0xffff),
                                       decode_bfloat16(c >> s & 0xffff)))}
         << s;
  return d;
}

template <int words>
QONNX_DEVICE void load_past_l1(const void* from, uint32_t (&word)[words]) {
  for (int i = 0; i < words; ++i) word[i] = static_cast<const uint32_t*>(from)[i];
}

QONNX_DEVICE void copy_async(void* shared, const void* global, bool valid) {
  emulate::copy_async(shared, global, 16, valid ? 16 : 0);
}
QONNX_DEVICE void copy_commit() { emulate::copy_commit(); }
template <int pending>
QONNX_DEVICE void copy_wait() {
  emulate::copy_wait(pending);
}

QONNX_DEVICE void multiply_float16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const float (&c)[4],
                                QONNX_LINE) {
  const uint32_t b[2] = {b0, b1};
  emulate::multiply_float16(d, a, b, c, line);
}
QONNX_DEVICE void multiply_bfloat16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const float (&c)[4],
                                QONNX_LINE) {
  const uint32_t b[2] = {b0, b1};
  emulate::multiply_bfloat16(d, a, b, c, line);
}
QONNX_DEVICE void multiply_int8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const int32_t (&c)[4],
                                QONNX_LINE) {
  const uint32_t b[2] = {b0, b1};
  emulate::multiply_int8(d, a, b, c, line);
}
QONNX_DEVICE void load_matrices(uint32_t (&r)[4], const void* row, QONNX_LINE) {
  emulate::load_matrices(r, 4, false, row, line);
}
QONNX_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* row, QONNX_LINE) {
  emulate::load_matrices(r, 4, true, row, line);
}

#undef QONNX_LINE

}  // namespace qonnx::cuda

#endif
