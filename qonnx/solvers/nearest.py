"""Round to nearest, with the range of every row or block taken whole or searched.

The search shrinks the range in steps and keeps, for each scale, the factor with the least error
Σ_k h_k (w_k − ŵ_k)², h the diagonal of the input Gram matrix (1 where there is none). Weighting matters: an unweighted
search of the clip is worse than no clipping at all on transformers (measured: 7.2 dB against 8.4 at 4 bits, 10.3
weighted). Source: OMSE (Choukroun et al. 2019), the grid of GPTQ's reference quantizer.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from qonnx.formats import IntFormat


@dataclasses.dataclass(frozen=True)
class Codes:
    """A solved weight in rows: codes [groups, rows, columns] int32; scale, zero_point [groups, rows, blocks]."""

    format: IntFormat
    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray

    def decode(self) -> np.ndarray:
        """[groups, rows, columns] float32."""
        columns = self.codes.shape[-1]
        return self.format.decode(
            self.codes, spread(self.scale, columns, self.format), spread(self.zero_point, columns, self.format)
        )


def block_size(format: IntFormat, columns: int) -> int:
    """Columns that share a scale."""
    return format.block if format.granularity == "block" else columns


def spread(parameter: np.ndarray, columns: int, format: IntFormat) -> np.ndarray:
    """[groups, rows, blocks] parameters repeated to one a column."""
    if parameter.shape[-1] == 1:
        return parameter
    return np.repeat(parameter, block_size(format, columns), axis=-1)[..., :columns]


def blocked(rows: np.ndarray, format: IntFormat) -> np.ndarray:
    """[groups, rows, blocks, block], padded with zeros at the end."""
    groups, count, columns = rows.shape
    if format.granularity == "tensor":
        return rows.reshape(1, 1, 1, -1)
    size = block_size(format, columns)
    padding = -columns % size
    if padding:
        rows = np.pad(rows, ((0, 0), (0, 0), (0, padding)))
    return rows.reshape(groups, count, -1, size)


def grid(
    rows: np.ndarray, format: IntFormat, weights: np.ndarray | None = None, shrink_to: float = 1.0, steps: int = 24
) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points [groups, rows, blocks] for `rows`.

    weights: importance of each column [groups, columns] or of each number [groups, rows, columns], or None. shrink_to:
    smallest factor tried on the range; 1.0 takes the whole range.
    """
    parts = blocked(rows, format)
    low, high = parts.min(-1), parts.max(-1)
    scale, zero_point = format.scale_and_zero_point(low, high)
    if shrink_to < 1.0:
        if weights is not None and weights.ndim == 2:
            weights = weights[:, None, :]
        importance = np.ones_like(rows) if weights is None else np.broadcast_to(weights, rows.shape)
        importance = blocked(importance, format)
        best = np.full(scale.shape, np.inf)
        for factor in np.linspace(1.0, shrink_to, steps):
            trial_scale, trial_zero = format.scale_and_zero_point(low * factor, high * factor)
            codes = format.encode(parts, trial_scale[..., None], trial_zero[..., None])
            decoded = format.decode(codes, trial_scale[..., None], trial_zero[..., None])
            error = (importance * (parts - decoded) ** 2).sum(-1)
            better = error < best
            best = np.where(better, error, best)
            scale = np.where(better, trial_scale, scale)
            zero_point = np.where(better, trial_zero, zero_point)
    if format.granularity == "tensor":
        shape = (rows.shape[0], rows.shape[1], 1)
        scale, zero_point = (
            np.broadcast_to(scale.reshape(1, 1, 1), shape),
            np.broadcast_to(zero_point.reshape(1, 1, 1), shape),
        )
    return scale, zero_point


def nearest(rows: np.ndarray, format: IntFormat, gram: np.ndarray | None = None, *, shrink_to: float = 1.0) -> Codes:
    """Round each weight to the nearest code.

    rows: [groups, rows, columns]. gram: [groups, columns, columns] or None; only its diagonal is used, by the search.
    """
    weights = None if gram is None else np.diagonal(gram, axis1=-2, axis2=-1).astype(np.float32)
    return on_grid(rows, format, *grid(rows, format, weights, shrink_to))


def on_grid(rows: np.ndarray, format: IntFormat, scale: np.ndarray, zero_point: np.ndarray) -> Codes:
    """The nearest codes on a given grid: scale, zero_point [groups, rows, blocks]."""
    columns = rows.shape[-1]
    codes = format.encode(rows, spread(scale, columns, format), spread(zero_point, columns, format))
    return Codes(format, codes, scale, zero_point)


def nearest_searched(rows: np.ndarray, format: IntFormat, gram: np.ndarray | None = None) -> Codes:
    """`nearest` with every range searched down to half of its width."""
    return nearest(rows, format, gram, shrink_to=0.5)
