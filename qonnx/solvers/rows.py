"""One shape for every weight: rows. A solver sees [groups, rows, columns]; each row is one output channel.

Layouts (O output channels, I input channels, g groups, k… kernel):
    MatMul B          [K, O]        -> [1, O, K]
    Gemm B            [K, O] or, with transB, [O, K]  -> [1, O, K]
    Conv W            [O, I/g, k…]  -> [g, O/g, I/g·k…]
    ConvTranspose W   [I, O/g, k…]  -> [g, O/g, I/g·k…]
    Gather table      [V, C]        -> [1, V, C]   (a row is an entry of the table)
The column order of convolutions is (input channel, kernel positions), the order of im2col.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one weight array maps to rows and back.

    op: operator type. shape: the array's shape. groups: of a convolution. transposed: Gemm's transB.
    """

    op: str
    shape: tuple[int, ...]
    groups: int = 1
    transposed: bool = False

    @property
    def channel_axis(self) -> int:
        """Axis of the output channels, for per-channel scales (ConvTranspose: within a group)."""
        if self.op == "Conv" or self.op == "Gather" or (self.op == "Gemm" and self.transposed):
            return 0
        return 1 if self.op == "ConvTranspose" else len(self.shape) - 1

    @property
    def reduction_axis(self) -> int:
        """Axis along which products are summed, for blocked scales."""
        if self.op in ("Conv", "Gather") or (self.op == "Gemm" and self.transposed):
            return 1
        return 0 if self.op == "ConvTranspose" else len(self.shape) - 2

    def to_rows(self, array: np.ndarray) -> np.ndarray:
        """[groups, rows, columns] view or copy of an array of `shape`."""
        if self.op == "Conv":
            return array.reshape(self.groups, self.shape[0] // self.groups, -1)
        if self.op == "ConvTranspose":
            kernel = self.shape[2:]
            split = array.reshape(self.groups, self.shape[0] // self.groups, self.shape[1], *kernel)
            return np.moveaxis(split, 2, 1).reshape(self.groups, self.shape[1], -1)
        if self.op == "Gather" or self.transposed:
            return array.reshape(1, self.shape[0], -1)
        return np.ascontiguousarray(array.T)[None]

    def from_rows(self, rows: np.ndarray) -> np.ndarray:
        """The array of `shape` from [groups, rows, columns]."""
        if self.op == "ConvTranspose":
            kernel = self.shape[2:]
            split = rows.reshape(self.groups, self.shape[1], self.shape[0] // self.groups, *kernel)
            return np.ascontiguousarray(np.moveaxis(split, 1, 2)).reshape(self.shape)
        if self.op in ("Conv", "Gather") or self.transposed:
            return rows.reshape(self.shape)
        return np.ascontiguousarray(rows[0].T)
