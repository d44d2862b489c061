"""Code books without feedback: weighted k-means, and LR²VQ's books of low rank.

Both cut rows into vectors, choose books by k-means with the Gram diagonal as weight and code each vector by itself.
"""

from __future__ import annotations

import numpy as np

from qonnx.codebooks.additive import row_scale, spread, stored
from qonnx.codebooks.formats import CodebookFormat
from qonnx.codebooks.kmeans import residual_books
from qonnx.codebooks.search import beam_search, nearest, scattered
from qonnx.custom_ops.codebook import CodebookWeight


def kmeans_codes(rows: np.ndarray, format: CodebookFormat, gram: np.ndarray | None = None) -> CodebookWeight:
    """Rows [N, K] in books of k-means; of the Gram matrix only the diagonal counts."""
    scale, points, weight = _vectors(rows, format, gram)
    books = stored(residual_books(points, format.books, format.levels, weight))
    return _coded(rows, format, scale, points, books)


def low_rank(
    rows: np.ndarray,
    format: CodebookFormat,
    gram: np.ndarray | None = None,
    *,
    rank: int | None = None,
    rounds: int = 8,
) -> CodebookWeight:
    """LR²VQ: every book is C [levels, rank] · P [rank, v], fitted in turns and folded into one book.

    A book of low rank has fewer free numbers, so it overfits small layers less. rank: three quarters of v by default.
    Source: LR²VQ (METHODS S10): assignment, then C and P by weighted least squares of the cells' means.
    """
    scale, points, weight = _vectors(rows, format, gram)
    rank = max(1, 3 * format.length // 4) if rank is None else rank
    rest, books = points, []
    for _ in range(format.books):
        book = residual_books(rest, 1, format.levels, weight, rounds=2)[0]
        for _ in range(rounds):
            codes = nearest(rest, book)
            mass = np.bincount(codes, weights=weight, minlength=format.levels)
            means = scattered(rest * weight[:, None], codes[:, None], format.levels)[0]
            means /= np.maximum(mass, 1e-30)[:, None]
            # The best rank-r book for given cells: truncated SVD of the means weighted by the root of their mass.
            root = np.sqrt(mass)[:, None]
            _, _, directions = np.linalg.svd(root * means, full_matrices=False)
            projection = directions[:rank]
            book = np.where(mass[:, None] > 0, means @ projection.T @ projection, book).astype(np.float32)
        books.append(book)
        rest = rest - book[nearest(rest, book)]
    return _coded(rows, format, scale, points, stored(np.stack(books)))


def _vectors(rows, format, gram) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scales [N, blocks], vectors [n, v] of the scaled rows, and the weight of each [n]."""
    scale = row_scale(rows, format)
    points = (rows / spread(scale, rows.shape[1])).reshape(-1, format.length).astype(np.float32)
    diagonal = np.ones(rows.shape[1], np.float32) if gram is None else np.diagonal(gram).astype(np.float32)
    by_vector = diagonal.reshape(-1, format.length).mean(1)
    size = spread(scale, rows.shape[1])[:, :: format.length] ** 2
    return scale, points, (size * by_vector).reshape(-1)


def _coded(rows, format, scale, points, books) -> CodebookWeight:
    codes = beam_search(points, books, 4)
    indices = codes.reshape(len(rows), -1, format.books)
    return CodebookWeight(indices, books.astype(np.float16), scale.astype(np.float16), format.block or rows.shape[1])
