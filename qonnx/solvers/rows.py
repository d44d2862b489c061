"""One shape for every weight: rows. A solver sees [groups, rows, columns]; each row is one output channel.

Layouts (O output channels, I input channels, g groups, k… kernel):
    MatMul B          [K, O]        -> [1, O, K]
    Gemm B            [K, O] or, with transB, [O, K]  -> [1, O, K]
    Conv W            [O, I/g, k…]  -> [g, O/g, I/g·k…]
    ConvTranspose W   [I, O/g, k…]  -> [g, O/g, I/g·k…]
    Gather table      [V, C]        -> [1, V, C]   (a row is an entry of the table)
The column order of convolutions is (input channel, kernel positions), the order of im2col. With `taps_first` it is
(kernel position, input channel): neighbouring columns are then neighbours on the input axis, as blocks of scales want.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one weight array maps to rows and back.

    op: operator type. shape: the array's shape. groups: of a convolution. transposed: Gemm's transB. taps_first: order
    of the columns of a convolution.
    """

    op: str
    shape: tuple[int, ...]
    groups: int = 1
    transposed: bool = False
    taps_first: bool = False

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
        if self.op not in ("Conv", "ConvTranspose"):
            return (array if self.channel_axis == 0 else array.T)[None]
        split = array.reshape(self._split)
        if self.op == "ConvTranspose":
            split = np.swapaxes(split, 1, 2)
        if self.taps_first:
            split = np.swapaxes(split, 2, 3)
        return split.reshape(split.shape[0], split.shape[1], -1)

    def from_rows(self, rows: np.ndarray) -> np.ndarray:
        """The array of `shape` from [groups, rows, columns]."""
        if self.op not in ("Conv", "ConvTranspose"):
            return np.ascontiguousarray(rows[0] if self.channel_axis == 0 else rows[0].T)
        groups, one, two, taps = self._split
        outputs, inputs = (two, one) if self.op == "ConvTranspose" else (one, two)
        split = rows.reshape((groups, outputs, taps, inputs) if self.taps_first else (groups, outputs, inputs, taps))
        if self.taps_first:
            split = np.swapaxes(split, 2, 3)
        if self.op == "ConvTranspose":
            split = np.swapaxes(split, 1, 2)
        return np.ascontiguousarray(split).reshape(self.shape)

    @property
    def columns(self) -> np.ndarray:
        """Where each column of a convolution stands in the order of im2col; int64 [columns]."""
        _, one, two, taps = self._split
        order = np.arange((one if self.op == "ConvTranspose" else two) * taps)
        return order.reshape(-1, taps).T.reshape(-1) if self.taps_first else order

    @property
    def _split(self) -> tuple[int, int, int, int]:
        """A kernel's shape with groups split off its first axis and its taps on one axis."""
        return self.groups, self.shape[0] // self.groups, self.shape[1], math.prod(self.shape[2:])
