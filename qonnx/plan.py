"""A Plan: the formats chosen for one node; an Encoding: the grid of one activation tensor.

`assign` writes them into notes, `solve_weights` and `place_qdq` carry them out.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from qonnx.formats import IntFormat


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How an activation becomes codes: a per-tensor format with its scale (float32) and zero point."""

    format: IntFormat
    scale: float
    zero_point: int

    @property
    def low(self) -> float:
        """Smallest value that is not clipped."""
        return self.scale * (self.format.minimum - self.zero_point)

    @property
    def high(self) -> float:
        return self.scale * (self.format.maximum - self.zero_point)

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """`x` rounded to the grid, float32."""
        codes = self.format.encode(x, np.float32(self.scale), np.int64(self.zero_point))
        return self.format.decode(codes, np.float32(self.scale), np.int64(self.zero_point))


def encoding(format: IntFormat, low: float, high: float) -> Encoding:
    """The Encoding of `format` for values in [low, high]."""
    scale, zero_point = format.scale_and_zero_point(np.float64(low), np.float64(high))
    return Encoding(format, float(scale), int(zero_point))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What happens to one node.

    inputs: index -> format of each activation that gets Q/DQ in front of the node. weight: format of the constant input
    `weight_index`, None if it has none or stays float. output: whether Q/DQ follows the node (after a Relu or Clip that
    only it feeds). bias: whether the bias becomes int32.
    """

    inputs: dict[int, IntFormat]
    weight: IntFormat | None = None
    weight_index: int = 1
    output: bool = False
    bias: bool = False

    def __str__(self) -> str:
        """As the ledger prints it: "u8 × s8.channel", "float × s4.block32"."""
        sides = [format.name for format in self.inputs.values()] or ["float"]
        if self.weight is not None:
            sides.append(self.weight.name)
        return " × ".join(sides)
