// CUDA's names for g++, on the emulated device: what kernels of this folder use, and no more.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "machine.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict

using dim3 = qonnx::emulate::Dim;

struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

#define threadIdx (qonnx::emulate::place().thread)
#define blockIdx (qonnx::emulate::place().block)
#define blockDim (qonnx::emulate::place().threads)
#define gridDim (qonnx::emulate::place().blocks)
#define __syncthreads() qonnx::emulate::barrier(__LINE__)
