"""Second-order error propagation over vectors: GPTQ's rule for whole groups of columns at a time.

With U the upper Cholesky factor of H⁻¹ in the order of solving and J the v columns of a vector, the loss that stays
when every later column answers optimally is ‖e_J U_JJ⁻¹‖²: vectors are chosen in that metric, and the answer of the
later columns is W[:, rest] −= e_J U_JJ⁻¹ U_J,rest (Frantar et al. 2022, eq. 2–3, written for blocks; VPTQ, Liu et al.
2024, section 3, for the choice by vector). Groups go in order of falling trace of H_JJ.

Later columns are answered to in blocks, as in GPTQ: products whose inner dimension is one vector long are bound by
memory, and threads that share them out wait for each other longer than they work.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import solve_triangular

from qonnx.solvers.gptq import inverse_factor

BLOCK = 96  # columns that are brought up to date together

Choose = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def propagate(rows: np.ndarray, gram: np.ndarray, length: int, choose: Choose, damping: float) -> np.ndarray:
    """Codes [N, K / length, books] of rows [N, K], vector by vector.

    choose(target [N, v], L [v, v], j) gives the codes [N, books] of vector j and what they mean [N, v], near `target`
    in the metric L Lᵀ. damping: ridge on the Gram matrix [K, K], as a share of its mean diagonal.
    """
    count, columns = rows.shape
    trace = np.diagonal(gram).reshape(-1, length).sum(1)
    order = np.argsort(-trace, kind="stable")
    column = (order[:, None] * length + np.arange(length)).reshape(-1)
    factor = inverse_factor(gram[column[:, None], column][None], damping)[0].astype(np.float32)
    work = np.ascontiguousarray(rows[:, column], np.float32)
    codes, together = None, max(1, BLOCK // length)
    for first in range(0, len(order), together):
        start, stop = first * length, min((first + together) * length, columns)
        errors = np.empty((count, stop - start), np.float32)
        for step, j in enumerate(order[first : first + together]):
            done = step * length
            here = slice(start + done, start + done + length)
            target = work[:, here] - errors[:, :done] @ factor[start : here.start, here]
            inner = factor[here, here]
            metric = solve_triangular(inner, np.eye(length, dtype=np.float32), lower=False).astype(np.float32)
            chosen, meaning = choose(target, metric, int(j))
            if codes is None:
                codes = np.empty((count, columns // length, chosen.shape[1]), np.int64)
            codes[:, j] = chosen
            errors[:, done : done + length] = (target - meaning) @ metric
        work[:, stop:] -= errors @ factor[start:stop, stop:]
    return codes
