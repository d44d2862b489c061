"""Stats: what calibration knows about one tensor, in memory that does not grow with the number of samples.

Every part can be merged: the statistics of two data sets are those of their union (`merge`), so calibration can be
stopped and resumed, or split over machines. Minimum, maximum, counts merge exactly; sums and Gram matrices to rounding.
Values that are NaN or infinite are counted and take no part in anything else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from qonnx.histogram import Histogram, merge_histograms


@dataclasses.dataclass(frozen=True)
class Window:
    """How a convolution slides over its input; pads are begin… then end…, as in the ONNX attribute."""

    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int = 1


@dataclasses.dataclass(frozen=True)
class Gram:
    """Second moments of the rows that a weight is multiplied with; they steer the rounding of weights.

    matrix: sum of xxᵀ, float32 [G, K, K]; for a MatMul G = 1 and K is the last axis; for a convolution G is its number
    of groups and K = channels of a group × kernel taps, rows being the patches under the kernel, zero padding included.
    mean: mean row, float64 [G, K]. rows: rows that were summed (patches may be a seeded sample of all).
    window: of the convolution whose patches these are; one with another window must not use them.

    float32 is enough: summing n rows in blocks costs a relative error of about √n·2⁻²⁴, 6e-6 for 10⁴ blocks, far below
    the damping of every method that uses the matrix, and a model has gigabytes of these.
    """

    matrix: np.ndarray
    mean: np.ndarray
    rows: int
    window: Window | None = None


@dataclasses.dataclass(frozen=True)
class Stats:
    """Statistics of one tensor.

    samples: runs of the model that produced the tensor. elements: values seen, all samples together.
    minimum, maximum: over all finite values. non_finite: how many values were NaN or infinite. shape: of sample 0.
    channel_axis: the axis of the arrays below (negative counts from the end), None when they are not kept.
    channel_minimum, channel_maximum, channel_sum: float64 [C].
    """

    samples: int
    elements: int
    minimum: float
    maximum: float
    non_finite: int = 0
    shape: tuple[int, ...] | None = None
    channel_axis: int | None = None
    channel_minimum: np.ndarray | None = None
    channel_maximum: np.ndarray | None = None
    channel_sum: np.ndarray | None = None
    histogram: Histogram | None = None
    gram: Gram | None = None

    @property
    def absolute_maximum(self) -> float:
        return max(abs(self.minimum), abs(self.maximum))

    @property
    def channel_mean(self) -> np.ndarray | None:
        """Mean of each channel, float64 [C]."""
        if self.channel_sum is None:
            return None
        return self.channel_sum / max(self.elements // self.channel_sum.size, 1)


def merge_grams(a: Gram, b: Gram) -> Gram:
    """Second moments of both sets of rows."""
    rows = a.rows + b.rows
    mean = a.mean * (a.rows / rows) + b.mean * (b.rows / rows) if rows else a.mean
    return Gram(a.matrix + b.matrix, mean, rows, a.window)


def merge(a: Stats, b: Stats) -> Stats:
    """The statistics of a tensor over both data sets.

    What only one of the two keeps, or keeps for another number of channels, is dropped: it would not cover all data.
    """
    same_channels = (
        a.channel_axis == b.channel_axis
        and a.channel_minimum is not None
        and b.channel_minimum is not None
        and a.channel_minimum.shape == b.channel_minimum.shape
    )
    sums = same_channels and a.channel_sum is not None and b.channel_sum is not None
    grams = (
        a.gram is not None
        and b.gram is not None
        and a.gram.matrix.shape == b.gram.matrix.shape
        and a.gram.window == b.gram.window
    )
    return Stats(
        samples=a.samples + b.samples,
        elements=a.elements + b.elements,
        minimum=min(a.minimum, b.minimum),
        maximum=max(a.maximum, b.maximum),
        non_finite=a.non_finite + b.non_finite,
        shape=a.shape,
        channel_axis=a.channel_axis if same_channels else None,
        channel_minimum=np.minimum(a.channel_minimum, b.channel_minimum) if same_channels else None,
        channel_maximum=np.maximum(a.channel_maximum, b.channel_maximum) if same_channels else None,
        channel_sum=a.channel_sum + b.channel_sum if sums else None,
        histogram=merge_histograms(a.histogram, b.histogram) if a.histogram and b.histogram else None,
        gram=merge_grams(a.gram, b.gram) if grams else None,
    )


def _affine_gram(gram: Gram, factor: np.ndarray, shift: np.ndarray) -> Gram | None:
    groups, width = gram.matrix.shape[:2]
    if gram.window is None:
        cross = np.multiply.outer(gram.mean[0] * gram.rows, shift)
        moved = gram.matrix[0] + cross + cross.T + gram.rows * np.multiply.outer(shift, shift)
        matrix = (moved * np.multiply.outer(factor, factor)).astype(np.float32)[None]
        return Gram(matrix, (gram.mean + shift) * factor, gram.rows)
    if shift.any():
        return None
    factors = np.repeat(factor, groups * width // factor.size).reshape(groups, width)  # a channel's taps lie together
    matrix = (gram.matrix * factors[:, :, None] * factors[:, None, :]).astype(np.float32)
    return Gram(matrix, gram.mean * factors, gram.rows, gram.window)


def affine_channels(stats: Stats, factor: np.ndarray, shift: np.ndarray | float = 0.0) -> Stats:
    """Statistics of the tensor after channel c becomes (x + shift[c]) · factor[c], factor > 0, float64 [C].

    The histogram has no closed form and is dropped; so is the Gram matrix of a convolution where there is a shift, for
    the zeros around a tensor are not shifted with it.
    """
    if stats.channel_minimum is None or stats.channel_sum is None:
        raise ValueError("an affine map of channels needs channel statistics")
    factor, shift = np.asarray(factor, np.float64), np.broadcast_to(np.float64(shift), factor.shape)
    low, high = (stats.channel_minimum + shift) * factor, (stats.channel_maximum + shift) * factor
    count = stats.elements // stats.channel_sum.size
    gram = None if stats.gram is None else _affine_gram(stats.gram, factor, shift)
    return dataclasses.replace(
        stats,
        minimum=float(low.min()),
        maximum=float(high.max()),
        channel_minimum=low,
        channel_maximum=high,
        channel_sum=(stats.channel_sum + count * shift) * factor,
        histogram=None,
        gram=gram,
    )


def taken(stats: Stats, index: np.ndarray) -> Stats:
    """Statistics of the channels that `index` names."""
    gram = stats.gram
    if gram is not None:
        gram = Gram(gram.matrix[:, index][:, :, index], gram.mean[:, index], gram.rows)
    return dataclasses.replace(
        stats,
        elements=stats.elements // stats.channel_minimum.size * index.size,
        shape=None if stats.shape is None else (*stats.shape[:-1], index.size),
        channel_minimum=stats.channel_minimum[index],
        channel_maximum=stats.channel_maximum[index],
        channel_sum=None if stats.channel_sum is None else stats.channel_sum[index],
        gram=gram,
    )


def merge_stats(a: Mapping[str, Stats], b: Mapping[str, Stats]) -> dict[str, Stats]:
    """Statistics of several tensors over both data sets; a tensor that only one knows is kept as it is."""
    both = {name: merge(a[name], b[name]) for name in a if name in b}
    return {**a, **b, **both}
