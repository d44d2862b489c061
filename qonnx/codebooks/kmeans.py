"""Weighted k-means over vectors: how code books start. Residual books are k-means of what the books before leave.

Distances are matrix products (`search.nearest`); centroids are weighted sums by `bincount`. Vectors that no point
chooses move to points of the largest error. Large sets are sampled.
"""

from __future__ import annotations

import numpy as np

from qonnx.codebooks.search import nearest, scattered


def kmeans(points: np.ndarray, levels: int, weight: np.ndarray | None = None, *, rounds: int = 8, seed: int = 0):
    """A book float32 [levels, v] that lowers Σ_i weight_i ‖point_i − book[nearest]‖²; points [n, v], weight [n].

    Fewer points than levels: the points themselves, filled up with zeros.
    """
    points = np.ascontiguousarray(points, np.float32)
    generator = np.random.default_rng(seed)
    weight = np.ones(len(points), np.float32) if weight is None else weight.astype(np.float32)
    most = max(16 * levels, 1 << 14)
    if len(points) > most:
        kept = generator.choice(len(points), most, replace=False)
        points, weight = points[kept], weight[kept]
    book = np.zeros((levels, points.shape[1]), np.float32)
    chosen = generator.choice(len(points), min(levels, len(points)), replace=False)
    book[: len(chosen)] = points[chosen]
    if len(points) <= levels:
        return book
    for _ in range(rounds):
        codes = nearest(points, book)
        mass = np.bincount(codes, weights=weight, minlength=levels)
        sums = scattered(points * weight[:, None], codes[:, None], levels)[0]
        full = mass > 0
        book[full] = sums[full] / mass[full, None]
        empty = np.flatnonzero(~full)
        if len(empty):
            error = weight * ((points - book[codes]) ** 2).sum(1)
            book[empty] = points[np.argpartition(-error, len(empty) - 1)[: len(empty)]]
    return book


def residual_books(
    points: np.ndarray, books: int, levels: int, weight: np.ndarray | None = None, *, rounds: int = 8
) -> np.ndarray:
    """`books` books float32 [books, levels, v], each the k-means of what those before leave of the points."""
    rest, made = points.astype(np.float32), []
    for index in range(books):
        made.append(kmeans(rest, levels, weight, rounds=rounds, seed=index))
        rest = rest - made[-1][nearest(rest, made[-1])]
    return np.stack(made)
