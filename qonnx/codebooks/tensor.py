"""A CodebookTensor: a weight in code books, in the rows of its layer, and the array that it means."""

from __future__ import annotations

import dataclasses

import numpy as np

from qonnx.codebooks.formats import CodebookFormat
from qonnx.custom_ops.codebook import CodebookWeight
from qonnx.solvers import Layout


@dataclasses.dataclass(frozen=True)
class CodebookTensor:
    """A solved weight.

    parts: tables of decoded rows. Vectors along inputs: one, [N outputs, K inputs]. Along outputs: one or more whose
    rows are inputs, [K_p, N], below each other; `order` [K] then says which input each row belongs to (None: in order).
    layout: where the weight's array has its rows.
    """

    format: CodebookFormat
    parts: tuple[CodebookWeight, ...]
    layout: Layout
    order: np.ndarray | None = None

    def rows(self) -> np.ndarray:
        """[N, K] float64."""
        stacked = np.concatenate([part.decode() for part in self.parts])
        if self.format.along == "inputs":
            return stacked
        return (stacked if self.order is None else stacked[np.argsort(self.order)]).T

    def decode(self) -> np.ndarray:
        """The weight, float32, in its own layout."""
        return self.layout.from_rows(self.rows().astype(np.float32)[None])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays that the file holds for the weight."""
        arrays = [array for part in self.parts for array in part.arrays().values()]
        return sum(array.nbytes for array in arrays) + (0 if self.order is None else 8 * len(self.order))
