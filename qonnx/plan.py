"""A Plan: the formats chosen for one node; an Encoding: the grid of one activation tensor.

`assign` writes them into notes, `solve_weights` and `place_qdq` carry them out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from qonnx.codebooks.formats import CodebookFormat
from qonnx.formats import IntFormat


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How an activation becomes codes: a per-tensor format with its scale (float32) and zero point.

    codes: those in use, ascending, where they are not all from the format's minimum to its maximum: as many as the
    format has levels, spread over its type. A number then gets the nearest of them, from the code that it would have.
    """

    format: IntFormat
    scale: float
    zero_point: int
    codes: tuple[int, ...] = ()

    @property
    def low(self) -> float:
        """Smallest value that is not clipped."""
        return self.scale * ((self.codes[0] if self.codes else self.format.minimum) - self.zero_point)

    @property
    def high(self) -> float:
        return self.scale * ((self.codes[-1] if self.codes else self.format.maximum) - self.zero_point)

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """`x` rounded to the grid, float32."""
        format, scale, zero_point = self.format, np.float32(self.scale), np.int64(self.zero_point)
        if self.codes:
            format = dataclasses.replace(format, levels=0)
        codes = format.encode(x, scale, zero_point)
        if self.codes:
            codes = nearest_codes(self.codes, format)[codes - format.minimum]
        return format.decode(codes, scale, zero_point)


def nearest_codes(codes: Sequence[int], format: IntFormat) -> np.ndarray:
    """For each code of the type from the lowest up, the nearest of `codes` (of two, the lower); int32 [2**bits]."""
    wide = dataclasses.replace(format, levels=0)
    every, some = np.arange(wide.minimum, wide.maximum + 1), np.asarray(codes, np.int32)
    return some[np.abs(every[:, None] - some).argmin(1)]


def encoding(format: IntFormat, low: float, high: float, dtype: ir.DataType | None = None) -> Encoding:
    """The Encoding of `format` for values in [low, high] of type `dtype`.

    Q/DQ of 16-bit floats take a scale of their type: it is rounded up to one, so that the range stays covered, and the
    zero point follows it.
    """
    scale, zero_point = format.scale_and_zero_point(np.float64(low), np.float64(high))
    if dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        kind = dtype.numpy()
        rounded = scale.astype(kind)
        scale = rounded if rounded >= scale else np.nextafter(rounded, np.array(np.inf, kind))
        if not format.symmetric:
            zero_point = np.clip(np.rint(format.minimum - min(low, 0.0) / float(scale)), format.minimum, format.maximum)
    return Encoding(format, float(scale), int(zero_point))


def union(grids: Sequence[Encoding]) -> Encoding:
    """The one of `grids`, all of one format, that covers them all; else a new one."""
    low, high = min(grid.low for grid in grids), max(grid.high for grid in grids)
    for grid in grids:
        if (grid.low, grid.high) == (low, high):
            return grid
    return encoding(grids[0].format, low, high)


@dataclasses.dataclass(frozen=True)
class LogGrid:
    """Codes of attention on a logarithmic scale: distance to a row's largest in steps of 1/codes_per_octave octaves.

    levels: number of codes, 2…256; the last one means zero. See qonnx.custom_ops.log_attention.
    """

    levels: int
    codes_per_octave: float

    def __str__(self) -> str:
        base = f"2^(1/{self.codes_per_octave:g})" if self.codes_per_octave != 1 else "2"
        return f"log{base}/{self.levels}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What happens to one node.

    inputs: index -> format of each activation that gets Q/DQ in front of the node. weight: format of the constant input
    `weight_index`, None if it has none or stays float. output: whether Q/DQ follows the node (after a Relu or Clip that
    only it feeds). bias: whether the bias becomes int32. attention: the grid of the Softmax in front of an attention
    × V, which then becomes one operator with it.
    """

    inputs: dict[int, IntFormat]
    weight: IntFormat | CodebookFormat | None = None
    weight_index: int = 1
    output: bool = False
    bias: bool = False
    attention: LogGrid | None = None

    def __str__(self) -> str:
        """As the ledger prints it: "u8 × s8.channel", "float × s4.block32"."""
        sides = [format.name for format in self.inputs.values()] or ["float"]
        if self.attention is not None:
            sides.insert(0, str(self.attention))
        if self.weight is not None:
            sides.append(self.weight.name)
        return " × ".join(sides)
