"""Low-rank branches: a weight W [N, K] as L + R, L = left·right of rank r in high precision, R what is quantized.

L is chosen so that the loss tr(E H Eᵀ) of what rounding leaves, E = R − Q(R), becomes small; H [K, K] is the Gram
matrix of the layer's inputs, the identity without data. With H = C Cᵀ the best L for a target M is the truncated
singular value decomposition of M C, multiplied by C⁻¹. Targets, by `start`:

- "weight": M = W, before anything is rounded (SVDQuant, Li et al. 2024): the largest directions leave the grid;
- "error": M = W − Q(W) (LoRC, ZeroQuant-V2, Yao et al. 2023), weighted by H as in LQER.

`turns` more turns take M = W − Q(W − L) and keep the best (LQ-LoRA, Guo et al. 2023, algorithm 1, whose Fisher weights
H stands in for).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy.linalg import cholesky, eigh, solve_triangular

Start = Literal["weight", "error"]
STARTS: tuple[str, ...] = ("weight", "error")


def truncated(target: np.ndarray, rank: int, gram: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """left [N, r] and right [r, K], float64, whose product is nearest to target [N, K] under gram [K, K].

    The damping is a thousandth of the Gram matrix' mean diagonal. left holds the roots of the singular values, and so
    does right, so that both have numbers of one size.
    """
    target = target.astype(np.float64)
    if gram is None:
        root, turned = None, target
    else:
        gram = gram.astype(np.float64)
        gram[np.diag_indices(len(gram))] += 1e-3 * np.diagonal(gram).mean() + 1e-30
        root = cholesky(gram, lower=True)
        turned = target @ root
    left, values, right = _largest(turned, rank)
    left, right = left * np.sqrt(values), np.sqrt(values)[:, None] * right
    if root is not None:
        right = solve_triangular(root, right.T, lower=True, trans=1).T
    return left, right


def _largest(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `rank` largest singular triplets, by the eigenvectors of the smaller square: left [N, r], values, right."""
    if matrix.shape[0] > matrix.shape[1]:
        right, values, left = _largest(matrix.T, rank)
        return left.T, values, right.T
    size = len(matrix)
    powers, left = eigh(matrix @ matrix.T, subset_by_index=(size - rank, size - 1))
    values = np.sqrt(np.maximum(powers[::-1], 0))
    left = left[:, ::-1]
    return left, values, (left.T @ matrix) / np.maximum(values, 1e-150)[:, None]


def branch(
    rows: np.ndarray,
    rank: int,
    rounded: Callable[[np.ndarray], np.ndarray],
    gram: np.ndarray | None = None,
    *,
    start: Start = "weight",
    turns: int = 0,
) -> tuple[np.ndarray, np.ndarray] | None:
    """left and right of the best branch for rows [N, K]; None where none lowers the loss of `rounded(rows)`.

    rounded: what a weight [N, K] becomes in its format. Raises nothing: a rank above min(N, K) is cut down.
    """
    rank = min(rank, *rows.shape)
    loss = lambda error: float(np.sum(error * (error if gram is None else error @ gram)))  # noqa: E731 - one formula
    plain = rounded(rows)
    best, found = loss(rows - plain), None
    target = rows if start == "weight" else rows - plain
    for _ in range(1 + turns):
        left, right = truncated(target, rank, gram)
        rest = rows - left @ right
        kept = rounded(rest)
        now = loss(rest - kept)
        if now >= best:
            break
        best, found = now, (left, right)
        target = rows - kept
    return found
