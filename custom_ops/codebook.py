"""Weights in code books (product, additive and residual quantization) and the inputs of their matrix products."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from qonnx.custom_ops.lowbit import CodeLayout, layout_of, pack
from qonnx.errors import QonnxError

EXACT, INT8 = "MatMulCodebook", "DynamicQuantizeMatMulCodebook"


@dataclasses.dataclass(frozen=True)
class CodebookWeight:
    """w[n, j·v … (j+1)·v] = scale[n, ·] · Σ_b codebooks[b, indices[n, j, b]].

    indices: integers [N, K / v, books]. codebooks: float32, float16 or bfloat16 [books, levels, v], v from 1 to 16,
    levels from 2 to 65536 (a power of two). scale: a float type [N, ceil(K / block)]. block: K for one scale a row.

    A permutation of columns, scales by column and outlier columns are standard operators around the product.
    """

    indices: np.ndarray
    codebooks: np.ndarray
    scale: np.ndarray
    block: int

    def __post_init__(self):
        levels = self.codebooks.shape[1]
        if levels & (levels - 1) or not 2 <= levels <= 65536:
            raise QonnxError(f"a code book of {levels} vectors: use a power of two from 2 to 65536")

    @property
    def layout(self) -> CodeLayout:
        return layout_of(self.codebooks.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)"""
        return self.indices.shape[0], self.indices.shape[1] * self.codebooks.shape[2]

    def arrays(self) -> dict[str, np.ndarray]:
        """The weight's inputs of both operators, in order."""
        codes = pack(self.indices.reshape(len(self.indices), -1), self.layout)
        return {"codes": codes, "codebooks": self.codebooks, "scale": self.scale}

    def attributes(self) -> dict[str, int]:
        """The attributes of both operators."""
        rows, columns = self.shape
        return {"K": columns, "N": rows, "block_size": self.block, **self.layout._asdict()}

    def decode(self) -> np.ndarray:
        """w, float64 [N, K]."""
        books = np.arange(len(self.codebooks))
        vectors = self.codebooks.astype(np.float64)[books, self.indices].sum(2)
        w = vectors.reshape(self.shape)
        return w * self.scale.astype(np.float64)[:, np.arange(w.shape[1]) // self.block]

    @property
    def bits_per_weight(self) -> float:
        """Bits stored for one weight, code books and scales included."""
        return 8 * sum(array.nbytes for array in self.arrays().values()) / math.prod(self.shape)
