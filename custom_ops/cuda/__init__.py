"""CUDA kernels; built by cuda.cmake, checked on the emulated device of tests/cuda_emulation.py."""
