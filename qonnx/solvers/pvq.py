"""PVQ: each block of weights is a point of the integer pyramid Σ|y| = K, stored as its integers and one scale.

The point nearest in angle to a block x [n]: scale |x| to sum K, round down, then add the missing pulses one at a time
where (⟨x, y⟩ + |x_i|)² / (‖y‖² + 2|y_i| + 1) grows most; the scale is the least-squares factor ⟨x, y⟩ / ⟨y, y⟩, both
weighted by the diagonal of the Gram matrix where there is one. A block of n integers of K pulses has
N(n, K) = N(n−1, K) + N(n, K−1) + N(n−1, K−1) points; stored as plain integers it needs more than log₂ N bits, and every
runtime reads it. Source: Fischer 1986; van der Ouderaa et al. 2024 (pyramid vector quantization of weights).
"""

from __future__ import annotations

import itertools

import numpy as np

from qonnx.formats import IntFormat
from qonnx.solvers.nearest import Codes, blocked, nearest

_SHARES = (0.2, 0.3, 0.4, 0.55)  # of the largest sum that codes can have


def pvq(rows: np.ndarray, format: IntFormat, gram: np.ndarray | None = None, *, pulses: int | None = None) -> Codes:
    """Solve rows [groups, rows, columns]; gram [groups, columns, columns] or None, of which the diagonal counts.

    format: symmetric, by channel or block. pulses: K of a block; None tries several shares of what fits in the codes,
    and the sum that rounding to nearest has, and keeps the best for each block. Above 4 bits no other sum is better; a
    format with a zero point, or one scale for the tensor, has no pyramid: both are rounded to nearest.
    """
    plain = nearest(rows, format)
    if not format.symmetric or format.granularity == "tensor" or (format.bits > 4 and pulses is None):
        return plain
    largest = min(format.maximum - format.middle, format.middle - format.minimum)
    x = blocked(np.asarray(rows, np.float32), format).astype(np.float64)
    importance = np.ones_like(x)
    if gram is not None:
        diagonal = np.diagonal(gram, axis1=-2, axis2=-1)[:, None, :]
        importance = blocked(np.broadcast_to(diagonal, rows.shape).astype(np.float32), format).astype(np.float64)
    size = x.shape[-1]
    tries = [pulses] if pulses else sorted({max(1, round(size * largest * share)) for share in _SHARES})
    best = np.full(x.shape[:-1], np.inf)
    codes, scale = np.zeros(x.shape, np.int32), np.ones(x.shape[:-1], np.float32)
    rounded = [] if pulses else [blocked(plain.codes - format.middle, format)]
    spikes = (pyramid(np.abs(x).reshape(-1, size), k, largest).reshape(x.shape) * np.sign(x) for k in tries)
    for y in itertools.chain(rounded, spikes):
        power = (importance * y * y).sum(-1)
        factor = (importance * x * y).sum(-1) / np.maximum(power, 1e-30)
        error = (importance * (x - factor[..., None] * y) ** 2).sum(-1)
        better = (error < best) & (factor > 0)
        best = np.where(better, error, best)
        codes = np.where(better[..., None], y, codes).astype(np.int32)
        scale = np.where(better, factor, scale).astype(np.float32)
    groups, count, columns = rows.shape
    whole = codes.reshape(groups, count, -1)[..., :columns] + format.middle
    zero_point = np.full(scale.shape, format.middle, np.int64)
    return Codes(format, whole, scale, zero_point)


def pyramid(size: np.ndarray, pulses: int, largest: int) -> np.ndarray:
    """Pulses int64 [blocks, n] for magnitudes [blocks, n]: sums of `pulses`, none above `largest`, fewer only if all
    are full. Blocks of zeros get their pulses in order."""
    total = size.sum(1, keepdims=True)
    y = np.minimum(np.floor(size * (pulses / np.where(total > 0, total, 1.0))), largest).astype(np.int64)
    pulses = min(pulses, largest * size.shape[1])
    product, power = (size * y).sum(1), (y * y).sum(1)
    missing = pulses - y.sum(1)
    rows = np.flatnonzero(missing > 0)
    while len(rows):
        gain = (product[rows, None] + size[rows]) ** 2 / (power[rows, None] + 2 * y[rows] + 1)
        gain[y[rows] >= largest] = -1.0
        at = gain.argmax(1)
        product[rows] += size[rows, at]
        power[rows] += 2 * y[rows, at] + 1
        y[rows, at] += 1
        missing[rows] -= 1
        rows = rows[missing[rows] > 0]
    return y


def points(length: int, pulses: int) -> int:
    """N(length, pulses): how many integer vectors of that length have Σ|y| = pulses."""
    row = [1] + [0] * pulses  # length 0
    for _ in range(length):
        new = [1]
        for k in range(1, pulses + 1):
            new.append(row[k] + new[k - 1] + row[k - 1])
        row = new
    return row[pulses]
