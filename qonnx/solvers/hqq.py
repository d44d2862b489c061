"""HQQ: half-quadratic quantization, scale and zero point without data that ignore outliers.

The least sum of |w − ŵ|^p with p < 1 is sought by splitting: an error e that stands for outliers, shrunk towards zero,

    e = sign(d) · max(|d| − |d|^(p−1)/β, 0)  with d = w − ŵ,   then the grid that fits w − e best in squares,

with β growing from turn to turn. Badri and Shaji 2023 refit the zero point alone and keep it real; here the scale is
refitted too, by least squares, and the zero point is a whole code, as files of every runtime hold it. Each block keeps
the best of all turns by Σ|w − ŵ|^p, so that the result is never worse in it than rounding.
"""

from __future__ import annotations

import numpy as np

from qonnx.formats import IntFormat
from qonnx.solvers.nearest import Codes, blocked, grid, on_grid

_POWER, _BETA, _GROWTH, _TURNS = 0.7, 10.0, 1.05, 20


def hqq(rows: np.ndarray, format: IntFormat, gram: np.ndarray | None = None) -> Codes:
    """Solve rows [groups, rows, columns]; `gram` is not looked at. One scale for the tensor is plain rounding."""
    scale, zero_point = grid(rows, format)
    if format.granularity == "tensor":
        return on_grid(rows, format, scale, zero_point)
    parts = blocked(np.asarray(rows, np.float32), format)
    unit = np.maximum(np.abs(parts).max(-1, keepdims=True), np.finfo(np.float32).tiny * 2**40)
    one, beta = np.ones((), np.float32), _BETA
    least = np.full(scale.shape, np.inf)
    best = scale, zero_point
    for _ in range(_TURNS):
        codes = format.encode(parts, scale[..., None], zero_point[..., None])
        apart = (parts - format.decode(codes, scale[..., None], zero_point[..., None])) / unit
        size = np.abs(apart)
        loss = (size**_POWER).sum(-1, dtype=np.float64)
        better = loss < least
        least = np.where(better, loss, least)
        best = np.where(better, scale, best[0]), np.where(better, zero_point, best[1])
        kept = np.maximum(size - np.maximum(size, 1e-8) ** (_POWER - 1) / beta, 0)
        target = parts - np.sign(apart) * kept * unit
        if not format.symmetric:
            middle = (codes - target / scale[..., None]).mean(-1)
            zero_point = np.clip(np.rint(middle), format.minimum, format.maximum).astype(zero_point.dtype)
        levels = format.decode(codes, one, zero_point[..., None])
        power = (levels * levels).sum(-1)
        fitted = (levels * target).sum(-1) / np.maximum(power, 1e-12)
        usable = (fitted > 0.25 * scale) & (fitted < 4 * scale)
        scale = format.storable(np.where(usable, fitted, scale))
        beta *= _GROWTH
    return on_grid(rows, format, *best)
