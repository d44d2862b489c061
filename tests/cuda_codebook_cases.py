"""Cases of the code-book products for the emulated device, the GPU and the faults that they must catch."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from qonnx.custom_ops.codebook import EXACT, INT8, CodebookWeight
from tests.cuda_emulation import Device, PackedCodebook
from tests.low_bit_cases import EPSILON
from tests.test_kernels_codebook import expected, numbers, weight_of

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)
# levels, length, books: every padded length, indices of one byte and of two, tables that fit and that do not
FORMS = [(256, 8, 2), (256, 8, 1), (65536, 8, 1), (16, 4, 3), (4096, 16, 2), (64, 2, 1), (256, 6, 2), (512, 3, 1)]
FORMS += [(256, 12, 4), (1024, 2, 2), (8, 1, 1), (256, 16, 1), (512, 4, 1)]
# outputs, vectors, block, rows of x, processors: every regime, full tiles and ragged, blocks that cut vectors, splits
SHAPES = [(64, 32, 10**6, 8, 1), (1, 5, 48, 1, 1), (70, 23, 64, 13, 2), (33, 200, 100, 3, 4), (140, 20, 37, 70, 1)]
SHAPES += [(130, 160, 10**6, 5, 8), (16, 9, 10**6, 17, 1)]
# Outputs enough for sums of x with every entry: one group and many, one row of x and two, one slab a block and all
SUMS = [(2050, 40, 10**6, 1, 3), (2049, 24, 64, 2, 200), (2300, 21, 100, 1, 227), (2048, 16, 10**6, 2, 5)]
SUMS_FORMS = [(256, 8, 2), (256, 8, 1), (16, 4, 3), (256, 16, 1), (64, 6, 2), (128, 12, 4)]


def case(form, shape, book_type=np.float32):
    """The weight of a form and shape."""
    levels, length, books = form
    outputs, vectors, block, _, _ = shape
    columns = vectors * length
    return weight_of(
        outputs, columns, min(block, columns), levels=levels, length=length, books=books, book_type=book_type
    )


def check(op: str, y: np.ndarray, x: np.ndarray, weight: CodebookWeight, bias=None) -> None:
    """As on the CPU, but float16 products may add the numbers of several books in float16."""
    wanted, bound = expected(op, x, weight, bias)
    if op == EXACT and x.dtype == np.float16:
        sizes = CodebookWeight(weight.indices, np.abs(weight.codebooks), weight.scale, weight.block).decode()
        bound += (len(weight.codebooks) - 1) * EPSILON[x.dtype] * (np.abs(x.astype(np.float64)) @ sizes.T)
    assert y.shape == wanted.shape and y.dtype == x.dtype
    error = np.abs(y.astype(np.float64) - wanted)
    assert (error <= bound).all(), f"error {error.max():.3g}, allowed {bound.max():.3g}"


def check_product(device: Device, form, op: str, dtype, shape, book_type=np.float32, shared=99 << 10) -> np.ndarray:
    weight = case(form, shape, book_type)
    outputs, _, _, rows, processors = shape
    x, bias = numbers((rows, weight.shape[1]), dtype), numbers(outputs, dtype)
    packed = PackedCodebook(device, weight, dtype, op == INT8)
    y = device.product(packed, x, bias, processors, shared=shared)
    check(op, y, x, weight, bias)
    return y


def check_branch(device: Device, op: str, dtype, rank: int, rows: int) -> None:
    """With a low-rank branch y is what it is without, and the branch's own product, to the rounding of both."""
    weight = case((256, 8, 1), (70, 20, 64, rows, 1))
    a, b, x = numbers((160, rank), seed=3), numbers((rank, 70), seed=4), numbers((rows, 160), dtype)
    packed = PackedCodebook(device, weight, dtype, op == INT8)
    y, plain = device.product(packed, x, branch=(a, b)), device.product(packed, x)
    up = (x.astype(np.float64) @ a) @ b
    size = (np.abs(x.astype(np.float64)) @ np.abs(a)) @ np.abs(b)
    rounding = 2 * EPSILON[x.dtype] * (np.abs(plain) + np.abs(y)).astype(np.float64)
    assert (np.abs(y.astype(np.float64) - plain - up) <= (160 + rank) * 2.0**-24 * size + rounding).all()


def check_all(device: Device) -> None:
    """A few cases that every fault of the code-book kernels must break."""
    for op in (EXACT, INT8):
        for shape in (SHAPES[0], SHAPES[2], SHAPES[4], (70, 130, 100, 8, 1)):
            check_product(device, FORMS[0], op, np.float16, shape, np.float16)
        check_branch(device, op, np.float16, 40, 5)
        check_product(device, FORMS[0], op, np.float16, SUMS[3], np.float16)


def check_few(device: Device) -> None:
    """The least that runs every line of the code-book kernels."""
    for op in (EXACT, INT8):
        check_product(device, FORMS[0], op, np.float16, (70, 40, 64, 13, 2), np.float16)
        check_product(device, FORMS[0], op, np.float16, (33, 9, 48, 17, 1), np.float16)
        check_product(device, FORMS[0], op, np.float16, (2048, 8, 10**6, 1, 2), np.float16)
    check_branch(device, EXACT, np.float16, 40, 5)
