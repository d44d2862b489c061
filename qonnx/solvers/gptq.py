"""GPTQ: round column by column and push each column's error onto the columns that are still free.

With H = X ᵀX + λI the Gram matrix of the inputs and U the upper Cholesky factor of H⁻¹, rounding column j with error
e = (w_j − ŵ_j)/U_jj updates the rest: W[:, j:] −= e · U[j, j:] (Frantar et al. 2022, eq. 2–3 and algorithm 1). Columns
go in order of falling H_jj ("act-order"); scales and blocks are fixed before ("static groups"), so that the codes can
be written back in the original order and need no index. All groups of a convolution are solved at once.

A row that plain rounding serves better, with the searched range or the whole one, is rounded: propagation is greedy.

Layout: rows [groups, rows, columns], gram [groups, columns, columns]. Blocks of 64 columns keep most updates in
matrix products; there is no Python loop over weights.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg.lapack import dtrtri

from qonnx.formats import IntFormat
from qonnx.solvers.loss import better
from qonnx.solvers.nearest import Codes, grid, nearest, on_grid, spread

_BLOCK = 64


def inverse_factor(gram: np.ndarray, damping: float) -> np.ndarray:
    """Upper Cholesky factor U of the inverse of gram + damping · mean(diag) · I, UᵀU = H⁻¹; [groups, K, K] float64.

    With the order of rows and columns reversed, H = LLᵀ gives an upper factor of H, whose inverse is U: one
    factorisation instead of two.
    """
    gram = gram.astype(np.float64)
    diagonal = np.diagonal(gram, axis1=-2, axis2=-1)
    ridge = damping * diagonal.mean(-1, keepdims=True) + 1e-12
    index = np.arange(gram.shape[-1])
    gram = gram.copy()
    gram[:, index, index] += ridge
    reversed_factor = np.linalg.cholesky(gram[:, ::-1, ::-1])
    factor = reversed_factor[:, ::-1, ::-1]  # upper, H = factor · factorᵀ
    return np.stack([dtrtri(f)[0] for f in factor])


def gptq(
    rows: np.ndarray,
    format: IntFormat,
    gram: np.ndarray | None = None,
    *,
    damping: float = 0.01,
    shrink_to: float = 0.8,
) -> Codes:
    """Solve `rows` against the Gram matrix of their inputs; without one, round to nearest.

    damping: ridge added to the diagonal, as a share of its mean. shrink_to: smallest factor that the search of the
    ranges tries below 8 bits.
    """
    if gram is None:
        return nearest(rows, format)
    diagonal = np.diagonal(gram, axis1=-2, axis2=-1).astype(np.float32)
    ranges = grid(rows, format, diagonal, shrink_to=shrink_to if format.bits < 8 else 1.0)
    found = propagate(rows, format, gram, *ranges, damping)
    return better(rows, gram, found, on_grid(rows, format, *ranges), nearest(rows, format))


def propagate(
    rows: np.ndarray,
    format: IntFormat,
    gram: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray,
    damping: float = 0.01,
) -> Codes:
    """The algorithm proper, on a given grid: scale and zero point [groups, rows, blocks]."""
    groups, _, columns = rows.shape
    diagonal = np.diagonal(gram, axis1=-2, axis2=-1)
    wide_scale = np.broadcast_to(spread(scale, columns, format), rows.shape)
    wide_zero = np.broadcast_to(spread(zero_point, columns, format), rows.shape)

    order = np.argsort(-diagonal, axis=-1, kind="stable")
    back = np.argsort(order, axis=-1, kind="stable")
    take = np.arange(groups)[:, None, None]
    sorted_gram = gram[take, order[:, :, None], order[:, None, :]]
    factor = inverse_factor(sorted_gram, damping).astype(np.float32)

    def permute(array: np.ndarray, by: np.ndarray) -> np.ndarray:
        return np.take_along_axis(array, by[:, None, :], axis=-1)

    # One column of all rows at a time: [groups, columns, rows], so that a column is contiguous.
    work, scales, zeros = (
        np.ascontiguousarray(np.swapaxes(permute(x, order), 1, 2))
        for x in (rows.astype(np.float32), wide_scale, wide_zero)
    )
    codes = np.empty(work.shape, np.int32)
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        errors = np.empty((groups, stop - start, work.shape[2]), np.float32)
        for j in range(start, stop):
            pushed = (factor[:, None, start:j, j] @ errors[:, : j - start])[:, 0]
            column = work[:, j] - pushed
            codes[:, j] = format.encode(column, scales[:, j], zeros[:, j])
            errors[:, j - start] = column - format.decode(codes[:, j], scales[:, j], zeros[:, j])
            errors[:, j - start] /= factor[:, j, None, j]
        work[:, stop:] -= np.swapaxes(factor[:, start:stop, stop:], 1, 2) @ errors
    return Codes(format, permute(np.swapaxes(codes, 1, 2), back), scale, zero_point)
