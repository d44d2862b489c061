// Faults on purpose, for tests that must catch them: FAULT(name) is 1 in a build with -DQONNX_FAULT_name, else 0.
//
// The list is tests/cuda_faults.py. Every fault removes one barrier, one wait or one guard, or swaps two registers.
#pragma once

// QONNX_FAULT_name is defined as ~,1 in a build with that fault; then the second argument below is 1.
#define QONNX_FAULT_SECOND(a, b, ...) b
#define QONNX_FAULT_EXPAND(...) QONNX_FAULT_SECOND(__VA_ARGS__)
#define FAULT(name) QONNX_FAULT_EXPAND(QONNX_FAULT_##name, 0, 0)
