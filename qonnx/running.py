"""Running: the statistics of one tensor while data streams by; arrays are updated in place."""

from __future__ import annotations

import numpy as np

from qonnx.histogram import Histogram, histogram, merge_histograms
from qonnx.patches import add_gram, mirrored, patches
from qonnx.stats import Gram, Stats
from qonnx.wishes import Wish


class Running:
    """`axis` is the channel axis that is followed, None for none."""

    def __init__(self, wish: Wish, axis: int | None):
        self.wish, self.axis = wish, axis
        self.samples = self.elements = self.non_finite = 0
        self.shape: tuple[int, ...] | None = None
        self.minimum, self.maximum = np.inf, -np.inf
        self.low = self.high = self.sum = None
        self.histogram: Histogram | None = None
        self.matrix = self.row_sum = None
        self.rows = 0

    def add_shape(self, shape: np.ndarray) -> None:
        """Count a sample of this shape."""
        shape = tuple(shape.tolist())
        self.samples += 1
        self.elements += int(np.prod(shape))
        self.shape = self.shape or shape

    def add_ranges(self, low: np.ndarray, high: np.ndarray, total: np.ndarray) -> None:
        """Minimum, maximum and sum of one sample, all finite: scalars, or float32 [C]."""
        self.minimum = min(self.minimum, float(low.min()))
        self.maximum = max(self.maximum, float(high.max()))
        if self.axis is None:
            return
        if self.low is None:
            self.low, self.high, self.sum = (part.astype(np.float64) for part in (low, high, total))
        elif self.low.shape == low.shape:
            np.minimum(self.low, low, out=self.low)
            np.maximum(self.high, high, out=self.high)
            self.sum += total
        else:
            self.forget_channels()

    def forget_channels(self) -> None:
        """The number of channels changes between samples, or one has no finite value: nothing by channel is true."""
        self.axis = self.low = self.high = self.sum = None

    def add_values(self, x: np.ndarray) -> None:
        """Histogram and Gram matrix of one sample's finite values `x`."""
        if self.wish.histogram:
            self.add_finite(x)
        if self.wish.gram:
            self.add_rows(x)

    def add_finite(self, x: np.ndarray) -> None:
        """Histogram of finite values."""
        if not x.size:
            return
        more = histogram(x, float(x.min()), float(x.max()))
        self.histogram = more if self.histogram is None else merge_histograms(self.histogram, more)

    def add_rows(self, x: np.ndarray) -> None:
        """Gram matrix of the rows of `x`, or of its patches."""
        rows = patches(x, self.wish.window, self.samples)
        groups, count, width = rows.shape
        if self.matrix is None:
            self.matrix = np.zeros((groups, width, width), np.float32)
            self.row_sum = np.zeros((groups, width))
        if width == self.matrix.shape[-1]:
            add_gram(self.matrix, self.row_sum, rows)
            self.rows += count

    def add_faulty(self, x: np.ndarray) -> None:
        """One sample's values with NaN or infinities: these are counted and left out of everything else."""
        finite = np.isfinite(x)
        self.non_finite += int(x.size - finite.sum())
        if not finite.any():
            self.forget_channels()
            return
        axes = None if self.axis is None else tuple(i for i in range(x.ndim) if i != self.axis % x.ndim)
        if axes is not None and not finite.any(axis=axes).all():
            self.forget_channels()
            axes = None
        low = np.where(finite, x, np.inf).min(axis=axes)
        high = np.where(finite, x, -np.inf).max(axis=axes)
        self.add_ranges(low, high, np.where(finite, x, 0).sum(axis=axes, dtype=np.float64))
        if self.wish.histogram:
            self.add_finite(x[finite])

    def gram(self) -> Gram | None:
        if self.matrix is None or not self.rows:
            return None
        return Gram(mirrored(self.matrix), self.row_sum / self.rows, self.rows, self.wish.window)

    def stats(self) -> Stats:
        by_channel = self.low is not None
        return Stats(
            samples=self.samples,
            elements=self.elements,
            minimum=self.minimum,
            maximum=self.maximum,
            non_finite=self.non_finite,
            shape=self.shape,
            channel_axis=self.axis if by_channel else None,
            channel_minimum=self.low,
            channel_maximum=self.high,
            channel_sum=self.sum,
            histogram=self.histogram,
            gram=self.gram(),
        )
