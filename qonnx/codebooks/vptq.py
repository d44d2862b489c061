"""VPTQ: vectors across the outputs of one input column, solved column after column with second-order feedback.

Each column c of W [N, K] is divided by its scale and cut into N / v vectors; each goes to the nearest centroid (books
after the first take what is left), and the column's error moves to the columns that are still free, as in GPTQ. Columns
go in order of falling H_cc; the share `outliers` of largest H_cc has books of its own. Centroids are k-means of the
vectors with weight H_cc, fitted again to what feedback has made of the columns. Source: Liu et al. 2024 (VPTQ),
sections 3.1 to 3.4; its per-column minimum is left out, since the kernel has scales only and weights are centred.
"""

from __future__ import annotations

import numpy as np

from qonnx.codebooks.additive import stored
from qonnx.codebooks.formats import CodebookFormat
from qonnx.codebooks.kmeans import residual_books
from qonnx.codebooks.search import beam_search, gathered
from qonnx.custom_ops.codebook import CodebookWeight
from qonnx.solvers.gptq import inverse_factor


def vptq(
    rows: np.ndarray,
    format: CodebookFormat,
    gram: np.ndarray | None = None,
    *,
    outliers: float = 0.0,
    width: int = 4,
    damping: float = 0.01,
    passes: int = 2,
) -> tuple[tuple[CodebookWeight, ...], np.ndarray | None]:
    """Parts and order of a CodebookTensor for rows [N, K] against their Gram matrix [K, K].

    outliers: share of columns with books of their own, at least one vector's worth of samples. passes: rounds of
    feedback; each after the first fits the books to the columns as the one before saw them.
    """
    rows = np.ascontiguousarray(rows, np.float32)
    count, columns = rows.shape
    gram = np.eye(columns) if gram is None else gram
    diagonal = np.diagonal(gram).astype(np.float32)
    order = np.argsort(-diagonal, kind="stable")
    first = round(outliers * columns)
    part_of = np.where(np.arange(columns) < first, 0, 1 if first else 0)  # by place in `order`
    factor = inverse_factor(gram[order[:, None], order][None], damping)[0].astype(np.float32)
    scale = stored(np.maximum(np.sqrt((rows[:, order].astype(np.float64) ** 2).mean(0)), 1e-7))
    seen = rows[:, order]
    for _ in range(max(passes, 1)):
        books = []
        for part in range(int(part_of.max()) + 1):
            mine = part_of == part
            points = (seen[:, mine] / scale[mine]).T.reshape(-1, format.length)
            weight = np.repeat(diagonal[order][mine] * scale[mine] ** 2, count // format.length)
            books.append(stored(residual_books(points, format.books, format.levels, weight)))
        codes, seen = _feedback(rows[:, order], factor, scale, books, part_of, width)
    parts = tuple(
        CodebookWeight(
            codes[part_of == part],
            book.astype(np.float16),
            scale[part_of == part, None].astype(np.float16),
            count,
        )
        for part, book in enumerate(books)
    )
    if first:
        return parts, order
    back = np.argsort(order, kind="stable")
    whole = parts[0]
    return (CodebookWeight(whole.indices[back], whole.codebooks, whole.scale[back], count),), None


def _feedback(work, factor, scale, books, part_of, width) -> tuple[np.ndarray, np.ndarray]:
    """Codes [K, N / v, books] and the columns as they were when their turn came, [N, K]."""
    work, length = work.copy(), books[0].shape[2]
    codes = np.empty((work.shape[1], len(work) // length, len(books[0])), np.int64)
    seen = np.empty_like(work)
    for c in range(work.shape[1]):
        book = books[part_of[c]]
        seen[:, c] = work[:, c]
        z = np.ascontiguousarray(work[:, c] / scale[c]).reshape(-1, length)
        codes[c] = beam_search(z, book, width)
        error = (work[:, c] - gathered(book, codes[c]).reshape(-1) * scale[c]) / factor[c, c]
        work[:, c + 1 :] -= np.multiply.outer(error, factor[c, c + 1 :])
    return codes, seen
