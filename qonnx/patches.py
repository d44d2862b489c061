"""Rows that a weight is multiplied with, and the sum of their outer products (Gram matrix).

Layout of rows: float32 [G, rows, K]. A MatMul has G = 1 and K its last axis. A convolution of `group` groups has
K = (C / group) · taps, ordered as the weight's [C / group, *kernel_shape] flattened: row · weight is the convolution.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg.blas import ssyrk

from qonnx.stats import Window

ROWS = 2048  # patches taken from one sample of a convolution; the Gram matrix only steers rounding
FLOPS = 2**32  # bound for one sample's product; wide kernels take fewer patches
FEWEST = 128


def patches(x: np.ndarray, window: Window | None, seed: int) -> np.ndarray:
    """Rows of `x`: all along its last axis, or a seeded sample of the patches under `window` (x is [N, C, …])."""
    if window is None:
        return x.reshape(1, -1, x.shape[-1])
    batch, channels = x.shape[:2]
    width = channels // window.group * int(np.prod(window.kernel_shape))
    dims = len(window.kernel_shape)
    effective = [(k - 1) * d + 1 for k, d in zip(window.kernel_shape, window.dilations, strict=True)]
    padded = [n + window.pads[i] + window.pads[dims + i] for i, n in enumerate(x.shape[2:])]
    places = [(n - e) // s + 1 for n, e, s in zip(padded, effective, window.strides, strict=True)]
    total = batch * int(np.prod(places))
    count = min(total, ROWS, max(FEWEST, FLOPS // (2 * width * width * window.group)))
    chosen = np.arange(total)
    if count < total:
        chosen = np.sort(np.random.default_rng(seed).choice(total, count, replace=False))
    sample, *corner = np.unravel_index(chosen, (batch, *places))
    rows = np.zeros((count, channels, *window.kernel_shape), np.float32)
    for tap in np.ndindex(*window.kernel_shape):
        at = [
            c * s + t * d - window.pads[i]
            for i, (c, s, t, d) in enumerate(zip(corner, window.strides, tap, window.dilations, strict=True))
        ]
        inside = np.all([(a >= 0) & (a < n) for a, n in zip(at, x.shape[2:], strict=True)], axis=0)
        rows[(inside, slice(None), *tap)] = x[(sample[inside], slice(None), *(a[inside] for a in at))]
    return rows.reshape(count, window.group, width).transpose(1, 0, 2)


def add_gram(matrix: np.ndarray, row_sum: np.ndarray, rows: np.ndarray) -> None:
    """Add Σ xxᵀ of float32 `rows` [G, rows, K] to the lower triangles of `matrix` [G, K, K], their sum to `row_sum`.

    BLAS computes one triangle only and accumulates in place: half the work of a product and no temporary.
    """
    row_sum += rows.sum(axis=1, dtype=np.float64)
    if rows.shape[2] <= 64:
        matrix += rows.transpose(0, 2, 1) @ rows
        return
    for g in range(rows.shape[0]):
        # Fortran order reads a C matrix transposed: the upper triangle of BLAS is the lower one of `matrix`.
        ssyrk(1.0, rows[g].T, beta=1.0, c=matrix[g].T, overwrite_c=1)


def mirrored(matrix: np.ndarray) -> np.ndarray:
    """Symmetric matrices [G, K, K] from their lower triangles, in place."""
    for m in matrix:
        upper = np.triu_indices(m.shape[0], 1)
        m[upper] = m.T[upper]
    return matrix
