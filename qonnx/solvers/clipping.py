"""Ranges that are clipped by what they do to the layer's output, then GPTQ on them: two ways to judge a clip.

`lwc`: each end of a block's range is shrunk on its own, low and high in turn, by the output error that the block alone
makes, (w − ŵ)_b H_bb (w − ŵ)_bᵀ with H_bb the block's part of the Gram matrix. It is the grid of OmniQuant's learnable
weight clipping (Shao et al. 2023, eq. 2), found by search in place of gradients.

`slim`: both ends are shrunk together by the error of each weight times its salience w² / [H⁻¹]_jj² (SliM-LLM, Huang et
al. 2024, the salience-weighted calibration of groups): numbers that the layer cannot do without steer the range.
"""

from __future__ import annotations

import numpy as np

from qonnx.formats import IntFormat
from qonnx.solvers.gptq import inverse_factor, propagate
from qonnx.solvers.loss import better
from qonnx.solvers.nearest import Codes, block_size, blocked, grid, nearest, on_grid

_FACTORS = np.linspace(1.0, 0.5, 21)
_WIDEST = 64  # columns of a block whose whole Gram matrix is looked at; wider ones by its diagonal
_ROWS = 256  # at a time, for the memory of a search


def lwc(rows: np.ndarray, format: IntFormat, gram: np.ndarray | None = None) -> Codes:
    """Solve rows [groups, rows, columns] against gram [groups, columns, columns]; without one, round to nearest."""
    if gram is None or format.granularity == "tensor" or format.bits >= 8:
        return nearest(rows, format)
    parts = blocked(np.asarray(rows, np.float32), format)
    curvature = _blocks_of(gram, format, rows.shape[-1])
    scale, zero_point = grid(rows, format)
    for first in range(0, rows.shape[1], _ROWS):
        some = slice(first, first + _ROWS)
        scale[:, some], zero_point[:, some] = _searched(parts[:, some], format, curvature)
    return _solved(rows, format, gram, scale, zero_point)


def slim(rows: np.ndarray, format: IntFormat, gram: np.ndarray | None = None) -> Codes:
    """Solve rows [groups, rows, columns] against gram [groups, columns, columns]; without one, round to nearest."""
    if gram is None or format.bits >= 8:
        return nearest(rows, format)
    factor = inverse_factor(gram, damping=0.01)
    inverse = np.square(factor).sum(-2)  # diagonal of UᵀU
    salience = np.square(rows / np.maximum(inverse, 1e-30)[:, None, :])
    salience /= np.maximum(salience.max(), 1e-30)
    return _solved(rows, format, gram, *grid(rows, format, salience.astype(np.float32), shrink_to=0.5))


def _solved(rows, format, gram, scale, zero_point) -> Codes:
    found = propagate(rows, format, gram, scale, zero_point)
    return better(rows, gram, found, on_grid(rows, format, scale, zero_point), nearest(rows, format))


def _blocks_of(gram: np.ndarray, format: IntFormat, columns: int) -> np.ndarray:
    """H_bb of every block, [groups, blocks, block, block]; of wide blocks the diagonal [groups, blocks, block]."""
    size = block_size(format, columns)
    padding = -columns % size
    if size > _WIDEST:
        diagonal = np.pad(np.diagonal(gram, axis1=-2, axis2=-1), ((0, 0), (0, padding)))
        return diagonal.reshape(len(gram), -1, size).astype(np.float32)
    wide = np.pad(gram, ((0, 0), (0, padding), (0, padding)))
    split = wide.reshape(len(gram), -1, size, wide.shape[-1] // size, size)
    return np.moveaxis(np.diagonal(split, axis1=1, axis2=3), -1, 1).astype(np.float32)


def _searched(parts: np.ndarray, format: IntFormat, curvature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of parts [groups, rows, blocks, block]."""
    low, high = np.minimum(parts.min(-1), 0), np.maximum(parts.max(-1), 0)
    least = np.full(low.shape, np.inf)
    shares = np.ones((2, *low.shape))
    best = format.scale_and_zero_point(low, high)
    for end in (0, 1, 0) if not format.symmetric else (None,):
        held = shares.copy()
        for factor in _FACTORS:
            trial = held.copy()
            trial[slice(None) if end is None else end] = factor
            scale, zero_point = format.scale_and_zero_point(low * trial[0], high * trial[1])
            codes = format.encode(parts, scale[..., None], zero_point[..., None])
            error = parts - format.decode(codes, scale[..., None], zero_point[..., None])
            if curvature.ndim == 3:
                loss = (curvature[:, None] * error * error).sum(-1)
            else:
                loss = (np.einsum("grbi,gbij->grbj", error, curvature, optimize=True) * error).sum(-1)
            better_here = loss < least
            least = np.where(better_here, loss, least)
            shares = np.where(better_here, trial, shares)
            best = tuple(np.where(better_here, new, old) for new, old in zip((scale, zero_point), best, strict=True))
    return best
