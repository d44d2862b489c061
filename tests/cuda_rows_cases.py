"""Cases of the row operators for the emulated device, the GPU and the faults that they must catch."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from qonnx.custom_ops.hadamard import rotation_of
from tests.test_kernels_hadamard import check_codes, check_rotated, rotated, rows

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)
# rows, columns, order of the rotation, block
ROTATIONS = [(1, 1, 1, 1), (3, 8, 8, 8), (2, 64, 16, 24), (5, 40, 20, 7), (3, 96, 96, 32), (2, 448, 224, 448)]
ROTATIONS += [(257, 32, 32, 16), (2, 2048, 1024, 128), (1, 4096, 4096, 4096), (2, 1100, 4, 1100), (2, 1152, 384, 64)]
ROWS = [(1, 1, 1), (3, 7, 3), (17, 100, 32), (2, 129, 129), (257, 16, 16), (2, 3000, 1024), (1, 4099, 4099)]


def check_rotation(device, shape, order, block, dtype) -> None:
    x, rotation = rows(shape, dtype), rotation_of(order)
    check_rotated(device.rows(x, rotation)[0], x, order)
    check_codes(device.rows(x, rotation, block), *_wanted(x, order, block))


def _wanted(x, order, block):
    wanted, bound = rotated(x.astype(np.float32), order)
    return wanted, block, bound


def check_quantized_rows(device, shape, block, dtype) -> None:
    x = rows(shape, dtype)
    check_codes(device.rows(x, block=block), x.astype(np.float64), block)


def check_all(device) -> None:
    for count, columns, order, block in ROTATIONS:
        check_rotation(device, (count, columns), order, block, np.float16)
    for count, columns, block in ROWS:
        check_quantized_rows(device, (count, columns), block, np.float32)


def check_few(device) -> None:
    """The least that runs every line of the kernels."""
    for count, columns, order, block in ((2, 192, 96, 48), (1, 1536, 192, 384)):
        check_rotation(device, (count, columns), order, block, np.float16)
    check_quantized_rows(device, (2, 100), 32, np.float32)
