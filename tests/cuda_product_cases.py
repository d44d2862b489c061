"""Cases of the low-bit products for the emulated device and the faults that they must catch."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from qonnx.custom_ops.lowbit import EXACT, INT8
from tests.cuda_emulation import Device, PackedLowBit
from tests.low_bit_cases import expected, weight_of

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)
KINDS = ("b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "b1/half", "b4/half", "b4/rows", "b3/rows", "b6/rows")
KINDS += ("b4/bytes", "b8/bytes", "ternary", "nf4", "fp4", "nf4/rows")
# outputs, columns, block, rows of x, processors: every regime, tiles full and ragged, one group and many, blocks that
# do not fit units or steps, splits
SHAPES = [(64, 256, 64, 8, 1), (1, 7, 16, 3, 4), (70, 130, 32, 16, 2), (33, 1100, 1100, 2, 8), (40, 96, 100, 9, 1)]
SHAPES += [(130, 200, 48, 65, 1), (128, 512, 128, 64, 4), (100, 290, 24, 5, 1)]
LARGE = [(257, 2112, 128, 1, 16), (129, 1088, 16, 17, 4), (160, 1056, 256, 257, 1), (300, 640, 32, 31, 40)]


def numbers(shape, dtype=np.float32, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def check(op, y, x, weight, bias=None) -> None:
    wanted, bound = expected(op, x, weight, bias)
    assert y.shape == wanted.shape and y.dtype == x.dtype
    error = np.abs(y.astype(np.float64) - wanted)
    assert (error <= bound).all(), f"error {error.max():.3g}, allowed {bound.max():.3g}"


def check_product(device: Device, kind: str, op: str, dtype, shape, scale_type=np.float32) -> np.ndarray:
    outputs, columns, block, rows, processors = shape
    weight = weight_of(kind, outputs, columns, block, scale_type=scale_type)
    x, bias = numbers((rows, columns), dtype), numbers(outputs, dtype)
    packed = PackedLowBit(device, weight, dtype, op == INT8)
    y = device.product(packed, x, bias, processors)
    check(op, y, x, weight, bias)
    return y


def check_all(device: Device) -> None:
    """A few cases that every fault of the product kernels must break."""
    for op in (EXACT, INT8):
        for shape in (SHAPES[2], SHAPES[3], SHAPES[5], SHAPES[6], (70, 1300, 64, 8, 1)):
            check_product(device, "b4/rows", op, np.float16, shape)
    check_product(device, "b4", EXACT, np.float16, (64, 256, 64, 3, 1))  # nothing in the workspace lies behind x


def check_few(device: Device) -> None:
    """The least that runs every line of the product kernels."""
    for op in (EXACT, INT8):
        for shape in ((70, 130, 32, 16, 2), (33, 200, 100, 2, 8), (40, 96, 48, 17, 1)):
            check_product(device, "b4/rows", op, np.float16, shape)
