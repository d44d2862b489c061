"""Additive code books under the Gram matrix: the solver behind the 2-bit presets.

1. Rows are divided by their root mean square; books start from k-means of the vectors, weighted by the Gram diagonal,
   residual book after residual book.
2. Codes by second-order error propagation (`feedback`), each vector by beam search over the books.
3. In turns: books by least squares under the Gram matrix, codes by coordinate descent (`refine`).
4. Books and scales are rounded to float16, one more sweep of codes against what the file will hold, then scales.

Sources: AQLM (Egiazarian et al. 2024) for layout, beam search and book updates; GPTQ and VPTQ for step 2.
"""

from __future__ import annotations

import numpy as np

from qonnx.codebooks.feedback import propagate
from qonnx.codebooks.formats import CodebookFormat
from qonnx.codebooks.kmeans import residual_books
from qonnx.codebooks.refine import solve_books, solve_scale, sweep
from qonnx.codebooks.search import beam_search, gathered
from qonnx.custom_ops.codebook import CodebookWeight


def additive(
    rows: np.ndarray,
    format: CodebookFormat,
    gram: np.ndarray | None = None,
    *,
    rounds: int = 2,
    width: int = 4,
    damping: float = 0.01,
    books: np.ndarray | None = None,
) -> CodebookWeight:
    """Solve rows [N, K] against their Gram matrix [K, K]; without one, columns count alike.

    rounds: turns of step 3. width: beams. damping: ridge, as a share of the mean diagonal. books: to start from.
    """
    rows = np.ascontiguousarray(rows, np.float32)
    columns, length = rows.shape[1], format.length
    gram = np.eye(columns, dtype=np.float32) if gram is None else gram.astype(np.float32)
    gram = gram / max(float(np.diagonal(gram).mean()), 1e-30)
    gram[np.diag_indices(columns)] += damping
    scale = row_scale(rows, format)
    wide = spread(scale, columns)
    if books is None:
        points = (rows / wide).reshape(-1, length)
        weight = (wide[:, ::length] ** 2 * np.diagonal(gram).reshape(-1, length).mean(1)).reshape(-1)
        books = residual_books(points, format.books, format.levels, weight)

    def choose(target: np.ndarray, metric: np.ndarray, j: int) -> tuple[np.ndarray, np.ndarray]:
        s = wide[:, j * length, None]
        turned, z = books @ metric, (target / s) @ metric
        codes = beam_search(z, turned, width)
        return codes, gathered(books, codes) * s

    codes = propagate(rows, gram, length, choose, 0.0)
    for _ in range(rounds):
        books = solve_books(rows, gram, books, codes, wide)
        codes = sweep(rows, gram, books, codes, wide, width)
    books = stored(solve_books(rows, gram, books, codes, wide))
    codes = sweep(rows, gram, books, codes, wide, width)
    shape = gathered(books, codes).reshape(rows.shape)
    if scale.shape[1] == 1:
        scale = stored(np.maximum(solve_scale(rows, gram, shape), 1e-7)[:, None])
    return CodebookWeight(codes, books.astype(np.float16), scale.astype(np.float16), format.block or columns)


def row_scale(rows: np.ndarray, format: CodebookFormat) -> np.ndarray:
    """Root mean square of each row or block, as float16 holds it; float32 [N, blocks]."""
    parts = rows.reshape(len(rows), -1, format.block or rows.shape[1])
    return stored(np.maximum(np.sqrt((parts.astype(np.float64) ** 2).mean(-1)), 1e-7))


def stored(array: np.ndarray) -> np.ndarray:
    """`array` as float16 holds it, float32."""
    return np.clip(array, -65504, 65504).astype(np.float16).astype(np.float32)


def spread(scale: np.ndarray, columns: int) -> np.ndarray:
    """Scales [N, blocks] repeated to one a column."""
    return np.repeat(scale, columns // scale.shape[1], axis=1)
