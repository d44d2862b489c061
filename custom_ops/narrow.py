"""The fewest bits that hold the scales and zero points of a weight exactly: bytes of a file, not of a kernel.

Scales of which a tensor has at most 256 different ones (those of 8 bits, of NVFP4, powers of two) are indices of a
table; zero points are uint4 or uint2. A runtime makes the numbers that kernels take from them while it loads the model,
by operators on constants, so the types bind the runtime: ONNX Runtime casts 4 bits since 1.23, the first to read opset
23, and 2 bits since 1.24, the first to read opset 25.
"""

from __future__ import annotations

from typing import NamedTuple

import ml_dtypes
import numpy as np

WORTH = 512  # bytes saved that pay for a Cast, a Gather and their names
# Codes that a type holds, its bits, and the opset since which it is used here.
_TYPES = ((4, 2, ml_dtypes.uint2, 25), (16, 4, ml_dtypes.uint4, 23), (256, 8, np.uint8, 1))


class Narrow(NamedTuple):
    """numbers = stored, or table[stored] where there is a table (float32); exactly. bits: that one number takes."""

    stored: np.ndarray
    table: np.ndarray | None
    bits: int

    @property
    def nbytes(self) -> int:
        return (self.stored.size * self.bits + 7) // 8 + (0 if self.table is None else self.table.nbytes)


def narrow(numbers: np.ndarray, opset: int) -> Narrow | None:
    """`numbers` (uint8, or of a float type) in fewer bytes by types that are used since `opset`; None if there is no
    way, or if it does not pay."""
    found = _fewest(numbers, opset)
    return found if found is not None and numbers.nbytes - found.nbytes >= WORTH else None


def nbytes(numbers: np.ndarray, opset: int, share: float = 1.0) -> int:
    """Bytes in a file of that opset of `share` times as many numbers, as different as these."""
    found, whole = _fewest(numbers, opset), numbers.nbytes * share
    if found is None:
        return int(whole)
    table = 0 if found.table is None else found.table.nbytes
    fewer = (found.nbytes - table) * share + table
    return int(fewer if whole - fewer >= WORTH else whole)


def _fewest(numbers: np.ndarray, opset: int) -> Narrow | None:
    """`numbers` in the fewest bits, whether that pays or not; None for too many different ones or infinite ones."""
    codes, table = numbers, None
    if numbers.dtype != np.uint8:
        table, codes = np.unique(numbers.astype(np.float32), return_inverse=True)
        if not numbers.size or table.size > 256 or not np.isfinite(table).all():
            return None
    levels = int(codes.max(initial=0)) + 1
    bits, kind = next((bits, kind) for most, bits, kind, since in _TYPES if levels <= most and opset >= since)
    return Narrow(codes.reshape(numbers.shape).astype(kind), table, bits)
