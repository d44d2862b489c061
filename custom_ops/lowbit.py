"""The portable layout of low-bit codes in numpy, and nodes of the low-bit matrix products.

A row of codes is ceil(K / codes_per_word) words of bytes_per_word bytes, little-endian; code j of a word is
floor(word / levels^j) mod levels. 4-bit codes are one byte for two, low nibble first; 3-bit codes three bytes for
eight, a bit stream with the least significant bit first; ternary codes one byte for five, 1.6 bits each.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from qonnx.custom_ops import narrow
from qonnx.errors import QonnxError

EXACT, INT8 = "MatMulLowBit", "DynamicQuantizeMatMulLowBit"

# Quantiles of a normal distribution (Dettmers et al., QLoRA, appendix E).
_NF4 = (-1, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0)
_NF4 += (0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1)
NF4 = np.array(_NF4, np.float32)
# E2M1: 1 sign, 2 exponent, 1 fraction bits, as in the OCP microscaling formats.
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


class CodeLayout(NamedTuple):
    """How many codes there are, and how many share a word of how many bytes."""

    levels: int
    codes_per_word: int
    bytes_per_word: int

    @property
    def bits(self) -> float:
        """Bits that a code takes."""
        return 8 * self.bytes_per_word / self.codes_per_word

    def row_bytes(self, columns: int) -> int:
        return -(-columns // self.codes_per_word) * self.bytes_per_word


def layout_of(levels: int) -> CodeLayout:
    """The layout of the fewest bits for codes 0 … levels − 1.

    Raises:
        QonnxError: levels is not from 2 to 65536.
    """
    if not 2 <= levels <= 65536:
        raise QonnxError(f"{levels} levels do not fit in a code of at most 16 bits; use 2 to 65536")
    if levels == 3:
        return CodeLayout(3, 5, 1)
    bits = (levels - 1).bit_length()
    # Of words of 1 to 7 bytes the one that wastes least, the shortest of equals. 9, 11, 13 and 15 bits waste some.
    words = [CodeLayout(2**bits, 8 * size // bits, size) for size in range(1, 8) if 8 * size >= bits]
    return min(words, key=lambda layout: (layout.bits, layout.bytes_per_word))


def pack(codes: np.ndarray, layout: CodeLayout) -> np.ndarray:
    """Codes [N, K] (any integer type) as uint8 [N, row bytes]."""
    rows, columns = codes.shape
    words = -(-columns // layout.codes_per_word)
    padded = np.zeros((rows, words * layout.codes_per_word), np.uint64)
    padded[:, :columns] = codes
    weight = np.array([layout.levels**j for j in range(layout.codes_per_word)], np.uint64)
    word = padded.reshape(rows, words, layout.codes_per_word) @ weight
    shift = np.arange(layout.bytes_per_word, dtype=np.uint64) * np.uint64(8)
    return ((word[..., None] >> shift) & np.uint64(255)).astype(np.uint8).reshape(rows, -1)


def unpack(stored: np.ndarray, columns: int, layout: CodeLayout) -> np.ndarray:
    """The codes [N, columns], uint8 (uint16 above 256 levels), of uint8 [N, row bytes]."""
    digits = stored.reshape(len(stored), -1, layout.bytes_per_word).astype(np.uint64)
    word = (digits << (np.arange(layout.bytes_per_word, dtype=np.uint64) * np.uint64(8))).sum(-1, dtype=np.uint64)
    weight = np.array([layout.levels**j for j in range(layout.codes_per_word)], np.uint64)
    codes = word[..., None] // weight % np.uint64(layout.levels)
    return codes.reshape(len(stored), -1)[:, :columns].astype(np.uint8 if layout.levels <= 256 else np.uint16)


@dataclasses.dataclass(frozen=True)
class LowBitWeight:
    """w[n, k] = scale[n, k // block] · (table[code[n, k]] − zero_point[n, k // block]).

    codes: integers [N, K]. scale: float32, float16 or bfloat16 [N, ceil(K / block)]. zero_point: uint8 or a float type,
    the shape of `scale` or one number. table: float32 [levels], or None for the codes themselves. block: K for one
    scale a row.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    block: int
    levels: int
    table: np.ndarray | None = None

    @property
    def layout(self) -> CodeLayout:
        return layout_of(self.levels)

    def arrays(self) -> dict[str, np.ndarray]:
        """The weight's inputs of both operators, in order: codes, scale, zero_point, table."""
        layout = self.layout
        table = np.arange(layout.levels, dtype=np.float32)
        if self.table is not None:
            table = np.zeros(layout.levels, np.float32)
            table[: self.levels] = self.table
        zero_point = np.reshape(self.zero_point, self.scale.shape if np.size(self.zero_point) > 1 else (1, 1))
        return {"codes": pack(self.codes, layout), "scale": self.scale, "zero_point": zero_point, "table": table}

    def attributes(self) -> dict[str, int]:
        """The attributes of both operators."""
        rows, columns = self.codes.shape
        return {"K": columns, "N": rows, "block_size": self.block, **self.layout._asdict()}

    def decode(self) -> np.ndarray:
        """w, float64 [N, K]."""
        column = np.arange(self.codes.shape[1]) // self.block
        value = self.codes.astype(np.float64) if self.table is None else self.table.astype(np.float64)[self.codes]
        zero_point = np.broadcast_to(self.zero_point, self.scale.shape).astype(np.float64)
        return (value - zero_point[:, column]) * self.scale.astype(np.float64)[:, column]

    def bits_per_weight(self, opset: int) -> float:
        """Bits stored for one weight in a file of that opset, scales and zero points included, the table of codes left
        out."""
        arrays = self.arrays()
        stored = arrays["codes"].nbytes + sum(narrow.nbytes(arrays[name], opset) for name in ("scale", "zero_point"))
        return 8 * stored / math.prod(self.codes.shape)
