"""QuantEase: coordinate descent on the codes, one column of all rows at a time, from GPTQ's codes on.

The loss tr((W − Ŵ)H(W − Ŵ)ᵀ) is quadratic in each ŵ_j alone; with P = (W − Ŵ)H its minimum lies at
u = ŵ_j + P_j / H_jj, and the nearest code to u is the best one there is (Behdin et al. 2023, algorithm 2). No step adds
loss, so the result is at most that of GPTQ. Below 8 bits the scales are refitted to the codes in between
(qonnx.solvers.rescale), which adds no loss either.

Layout: one column of all rows is contiguous, [groups, columns, rows]. P is updated at once within a block of columns
and by a matrix product outside of it; there is no Python loop over weights.
"""

from __future__ import annotations

import numpy as np

from qonnx.formats import IntFormat
from qonnx.solvers.gptq import gptq
from qonnx.solvers.loss import better
from qonnx.solvers.nearest import Codes, nearest, spread
from qonnx.solvers.rescale import refitted

_BLOCK = 128
_ENOUGH = 1e-4  # share of codes that still change when the descent ends


def quantease(
    rows: np.ndarray, format: IntFormat, gram: np.ndarray | None = None, *, sweeps: int = 4, turns: int = 3
) -> Codes:
    """Solve `rows` against the Gram matrix of their inputs; without one, round to nearest.

    sweeps: passes over all columns at most, in each of `turns` between which scales are refitted.
    """
    if gram is None:
        return nearest(rows, format)
    start = found = gptq(rows, format, gram)
    if format.bits >= 8:
        return better(rows, gram, start, descend(rows, gram, found, sweeps * turns))
    for _ in range(turns):
        found = descend(rows, gram, refitted(rows, gram, found), sweeps)
    return better(rows, gram, start, found)  # float32 may have cost a row what it gained


def descend(rows: np.ndarray, gram: np.ndarray, start: Codes, sweeps: int) -> Codes:
    """`start` improved by coordinate descent on its own grid."""
    format, columns = start.format, rows.shape[-1]
    scales, zeros = (
        np.ascontiguousarray(np.swapaxes(np.broadcast_to(spread(p, columns, format), rows.shape), 1, 2))
        for p in (start.scale, start.zero_point)
    )
    codes = np.ascontiguousarray(np.swapaxes(start.codes, 1, 2))
    solved = format.decode(codes, scales, zeros)
    gram = gram.astype(np.float32, copy=False)
    pull = gram @ (np.swapaxes(rows, 1, 2).astype(np.float32) - solved)
    diagonal = np.maximum(np.diagonal(gram, axis1=-2, axis2=-1), np.finfo(np.float32).tiny * 2**40)[:, :, None]
    for _ in range(sweeps):
        changed = 0
        for first in range(0, columns, _BLOCK):
            last = min(first + _BLOCK, columns)
            steps = np.empty((len(rows), last - first, rows.shape[1]), np.float32)
            for j in range(first, last):
                near = pull[:, j] - (gram[:, j, None, first:j] @ steps[:, : j - first])[:, 0]
                best = solved[:, j] + near / diagonal[:, j]
                code = format.encode(best, scales[:, j], zeros[:, j])
                value = format.decode(code, scales[:, j], zeros[:, j])
                step = steps[:, j - first] = value - solved[:, j]
                changed += np.count_nonzero(step)
                codes[:, j], solved[:, j] = code, value
            if steps.any():
                pull -= gram[:, :, first:last] @ steps
        if changed <= _ENOUGH * codes.size:
            break
    return Codes(format, np.swapaxes(codes, 1, 2), start.scale, start.zero_point)
