"""Weights in code books: CODEBOOKS (formats by name), CODEBOOK_SOLVERS, and `solve_codebook` between the two.

A solver is a function `solve(rows, format, gram) -> CodebookWeight` for rows [N, K] and a Gram matrix [K, K] or None;
the solver of a format whose vectors lie along outputs returns parts and their order (see tensor.py).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qonnx.codebooks.additive import additive
from qonnx.codebooks.formats import CODEBOOKS, CodebookFormat
from qonnx.codebooks.simple import kmeans_codes, low_rank
from qonnx.codebooks.tensor import CodebookTensor
from qonnx.codebooks.vptq import vptq
from qonnx.custom_ops.codebook import CodebookWeight
from qonnx.solvers import Layout

CODEBOOK_SOLVERS: dict[str, Callable[..., CodebookWeight]] = {
    "additive": additive,
    "kmeans": kmeans_codes,
    "low-rank": low_rank,
}

__all__ = ["CODEBOOKS", "CODEBOOK_SOLVERS", "CodebookFormat", "CodebookTensor", "solve_codebook"]


def solve_codebook(
    weight: np.ndarray, layout: Layout, format: CodebookFormat, gram: np.ndarray | None, solver: str = "additive"
) -> CodebookTensor:
    """A weight [K, N] or [N, K], as `layout` says, in code books.

    gram: [1, K, K] of the layer's inputs, or None. solver: key of CODEBOOK_SOLVERS, for vectors along inputs; a name
    that is not there means "additive". Vectors along outputs are VPTQ's.
    """
    rows = layout.to_rows(np.asarray(weight, np.float32))[0]
    matrix = None if gram is None or gram.shape[-1] != rows.shape[1] else gram[0]
    if format.along == "outputs":
        parts, order = vptq(rows, format, matrix)
        return CodebookTensor(format, parts, layout, order)
    return CodebookTensor(format, (CODEBOOK_SOLVERS.get(solver, additive)(rows, format, matrix),), layout)
