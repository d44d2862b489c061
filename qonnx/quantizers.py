"""Each activation quantizer on its own: what its grid does to the tensor that the float model really has.

A tensor is encoded and decoded with the quantizer's scale and zero point; the error, the share of clipped elements and
a histogram around the grid's range tell a range that is too narrow from one that is too wide.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx_ir as ir

from qonnx.comparison import QuantizerError
from qonnx.differences import Difference
from qonnx.model import constant
from qonnx.operators import integer_name

BINS = 120
_MARGIN = 1 / 4  # of the grid's span, shown on either side of it; the outermost bins collect everything beyond
_SAMPLED = 1 << 18  # elements of one sample that enter the histogram


@dataclasses.dataclass(frozen=True)
class Grid:
    """A per-tensor integer grid: values scale·(code − zero_point) for codes minimum…maximum."""

    type: str
    scale: float
    zero_point: int
    minimum: int
    maximum: int

    @property
    def low(self) -> float:
        return (self.minimum - self.zero_point) * self.scale

    @property
    def high(self) -> float:
        return (self.maximum - self.zero_point) * self.scale

    def apply(self, x: np.ndarray) -> np.ndarray:
        """`x` (float) encoded and decoded: rounding half to even, then clipping, as QuantizeLinear does."""
        codes = np.rint(x / np.asarray(self.scale, x.dtype))
        codes += self.zero_point
        np.clip(codes, self.minimum, self.maximum, out=codes)
        codes -= self.zero_point
        codes *= np.asarray(self.scale, x.dtype)
        return codes


def grids(graph: ir.Graph) -> dict[str, Grid]:
    """Constant per-tensor grids of the QuantizeLinear nodes of `graph`, by name: of the value that they
    quantize, and of that behind the pair."""
    found = {}
    for node in graph:
        if node.op_type != "QuantizeLinear":
            continue
        scale = constant(node.inputs[1])
        zero_point = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.uint8(0)
        if scale is None or zero_point is None or np.size(scale) != 1 or np.size(zero_point) != 1:
            continue
        kind = ir.DataType.from_numpy(np.asarray(zero_point).dtype)
        if not kind.is_integer() or kind.bitwidth > 16:
            continue
        half = 2 ** (kind.bitwidth - 1)
        low, high = (-half, half - 1) if kind.is_signed() else (0, 2 * half - 1)
        zero = int(np.asarray(zero_point).reshape(()).astype(np.int64))
        grid = Grid(integer_name(kind), float(np.asarray(scale).reshape(())), zero, low, high)
        decoded = [use.node.outputs[0].name for use in node.outputs[0].uses() if use.node.op_type == "DequantizeLinear"]
        for name in (node.inputs[0].name, *decoded):
            found.setdefault(name, grid)
    return found


class QuantizerTrial:
    """Running figures of one quantizer over samples."""

    def __init__(self, tensor: str, grid: Grid) -> None:
        self.tensor, self.grid = tensor, grid
        self._difference = Difference()
        self._histogram = np.zeros(BINS, np.int64)
        self._minimum, self._maximum = math.inf, -math.inf
        self._clipped = self._count = 0

    def add(self, x: np.ndarray) -> None:
        if not x.size:
            return
        grid = self.grid
        x = np.asarray(x, np.float32).reshape(-1)
        self._difference.add(x, grid.apply(x))
        half = grid.scale / 2  # values that round to the outermost codes are not clipped
        self._clipped += int(((x < grid.low - half) | (x > grid.high + half)).sum())
        self._count += x.size
        self._minimum, self._maximum = min(self._minimum, float(x.min())), max(self._maximum, float(x.max()))
        x = x[:: max(1, x.size // _SAMPLED)]
        x = x[np.isfinite(x)]
        low, high = histogram_range(grid.low, grid.high)
        index = np.clip(((x - low) * (BINS / (high - low))).astype(np.int64), 0, BINS - 1)
        self._histogram += np.bincount(index, minlength=BINS)

    def verdict(self) -> QuantizerError:
        return QuantizerError(
            tensor=self.tensor,
            type=self.grid.type,
            figures=self._difference.figures,
            low=self.grid.low,
            high=self.grid.high,
            minimum=self._minimum,
            maximum=self._maximum,
            clipped=self._clipped / self._count if self._count else 0.0,
            histogram=tuple(self._histogram.tolist()),
        )


def histogram_range(low: float, high: float) -> tuple[float, float]:
    """The span that a QuantizerError's histogram covers: the grid's range and a margin on either side."""
    margin = (high - low) * _MARGIN
    return low - margin, high + margin
