"""Improve a code-book weight under the layer's Gram matrix H: every step lowers tr((W − Ŵ) H (W − Ŵ)ᵀ).

1. Books by least squares: Ŵ is linear in the books, so conjugate gradients on the normal equations, whose operator is
   decode → · H → sum by code. (AQLM, Egiazarian et al. 2024, section 3.3, without gradients by hand.)
2. Codes by coordinate descent, a vector at a time: with G = (Ŵ − W) H the best unconstrained vector is
   ŵ_J − G_J H_JJ⁻¹ and the metric is H_JJ. (QuantEase's rule, Behdin et al. 2023, for vectors; candidates by output
   error as in VQ4DiT, Deng et al. 2024.)
3. Scales by least squares, one a row.
"""

from __future__ import annotations

import numpy as np

from qonnx.codebooks.feedback import BLOCK
from qonnx.codebooks.search import beam_search, gathered, scattered


def loss(rows: np.ndarray, decoded: np.ndarray, gram: np.ndarray) -> float:
    """tr((W − Ŵ) H (W − Ŵ)ᵀ)."""
    error = rows - decoded
    return float(np.einsum("nk,nk->", error @ gram, error, dtype=np.float64))


def solve_books(
    rows: np.ndarray, gram: np.ndarray, books: np.ndarray, codes: np.ndarray, scale: np.ndarray, steps: int = 6
) -> np.ndarray:
    """Books [books, levels, v] after `steps` of conjugate gradients from the given ones.

    rows [N, K], gram [K, K], codes [N, K / v, books], scale [N, K] (a number for each weight).
    """
    flat, (_, levels, length) = codes.reshape(-1, codes.shape[2]), books.shape
    decode = lambda b: gathered(b, codes).reshape(rows.shape) * scale  # noqa: E731 - the operator and its transpose
    back = lambda x: scattered((x * scale).reshape(-1, length), flat, levels)  # noqa: E731
    solution = books.astype(np.float64)
    residual = back((rows - decode(books)) @ gram)
    # Jacobi: the diagonal of the normal matrix without the couplings between places that share a code.
    diagonal = back(np.broadcast_to(np.diagonal(gram), rows.shape) * scale)
    inverse = np.where(diagonal > 0, 1.0 / np.maximum(diagonal, 1e-30), 0.0)
    direction = preconditioned = inverse * residual
    power = (residual * preconditioned).sum()
    first = power
    for _ in range(steps):
        if power <= 1e-8 * first or power <= 0:
            break
        image = back(decode(direction.astype(np.float32)) @ gram)
        curvature = (direction * image).sum()
        if curvature <= 0:
            break
        step = power / curvature
        solution += step * direction
        residual = residual - step * image
        preconditioned = inverse * residual
        power, before = (residual * preconditioned).sum(), power
        direction = preconditioned + (power / before) * direction
    return solution.astype(np.float32)


def sweep(
    rows: np.ndarray,
    gram: np.ndarray,
    books: np.ndarray,
    codes: np.ndarray,
    scale: np.ndarray,
    width: int,
    damping: float = 1e-3,
) -> np.ndarray:
    """Codes after one pass of coordinate descent over the vectors, in order of rising trace of H_JJ."""
    length = books.shape[2]
    codes = codes.copy()
    error = (gathered(books, codes).reshape(rows.shape) * scale - rows).astype(np.float32)
    gradient = error @ gram
    ridge = damping * float(np.diagonal(gram).mean()) * np.eye(length)
    order = np.argsort(-np.diagonal(gram).reshape(-1, length).sum(1), kind="stable")
    together = max(1, BLOCK // length)
    for first in range(0, len(order), together):
        some = order[first : first + together]
        columns = (some[:, None] * length + np.arange(length)).reshape(-1)
        inside, changes = gram[columns[:, None], columns], np.zeros((len(rows), len(columns)), np.float32)
        for step, j in enumerate(some):
            done = step * length
            here, now_here = slice(j * length, (j + 1) * length), slice(done, done + length)
            slope = gradient[:, here] + changes[:, :done] @ inside[:done, now_here]
            inner = gram[here, here].astype(np.float64) + ridge
            factor = np.linalg.cholesky(inner).astype(np.float32)
            s = scale[:, here.start, None]
            now = gathered(books, codes[:, j])
            target = now - (slope @ np.linalg.inv(inner).astype(np.float32)) / s
            turned = books @ factor
            z = target @ factor
            found = beam_search(z, turned, width)
            meant = gathered(turned, found)
            better = ((z - meant) ** 2).sum(1) < ((z - gathered(turned, codes[:, j])) ** 2).sum(1) * (1 - 1e-6)
            if better.any():
                codes[better, j] = found[better]
                changes[:, now_here] = (gathered(books, codes[:, j]) - now) * s
        gradient += changes @ gram[columns]
    return codes


def solve_scale(rows: np.ndarray, gram: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """The factor of each row that fits shape [N, K] to rows [N, K] best; [N]."""
    image = shape @ gram
    power = np.einsum("nk,nk->n", image, shape, dtype=np.float64)
    return np.einsum("nk,nk->n", image, rows, dtype=np.float64) / np.maximum(power, 1e-30)
