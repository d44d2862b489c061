"""Range-doubling histograms: exact counts over bins of power-of-two width, in one pass over data of unknown range.

Bin i covers [i·w, (i+1)·w) with w = 2**exponent. The exponent is the smallest for which the bins that cover 0 and every
value seen number at most `BINS`; when a value falls outside, pairs of bins are merged (i -> i // 2) and w doubles.
Values under 2⁻¹²⁶ widths count as 0. So the result depends only on the values, never on their order or on how they were
split: merging is exact. At least half of `BINS` are in use whatever the sign of the data (a histogram on [-R, R) wastes
half of them on positive data).
"""

from __future__ import annotations

import dataclasses

import numpy as np

BINS = 2048
LOWEST_EXPONENT = -100  # 2**100 is still a float32; smaller values all fall into the bin of 0


@dataclasses.dataclass(frozen=True)
class Histogram:
    """counts[k] (int64) values fell into [(first + k)·w, (first + k + 1)·w), w = 2**exponent. The bins include 0's."""

    exponent: int
    first: int
    counts: np.ndarray

    @property
    def width(self) -> float:
        return 2.0**self.exponent

    @property
    def edges(self) -> np.ndarray:
        """Bin edges, float64 [bins + 1]."""
        return np.arange(self.first, self.first + self.counts.size + 1) * self.width

    @property
    def centers(self) -> np.ndarray:
        """Middles of the bins, float64 [bins]."""
        return (np.arange(self.first, self.first + self.counts.size) + 0.5) * self.width

    @property
    def total(self) -> int:
        return int(self.counts.sum())


def exponent_for(minimum: float, maximum: float) -> int:
    """The smallest exponent for which at most BINS bins cover [min(minimum, 0), max(maximum, 0)]."""
    low, high = min(minimum, 0.0), max(maximum, 0.0)
    if high - low == 0.0:
        return LOWEST_EXPONENT
    exponent = max(int(np.floor(np.log2(high - low))) - BINS.bit_length(), LOWEST_EXPONENT)
    while np.floor(np.ldexp(high, -exponent)) - np.floor(np.ldexp(low, -exponent)) >= BINS:
        exponent += 1
    return exponent


def histogram(x: np.ndarray, minimum: float, maximum: float) -> Histogram:
    """Count the finite float32 values of `x`, whose least and greatest are `minimum` and `maximum`."""
    exponent = exponent_for(minimum, maximum)
    scaled = np.ravel(x) * np.float32(2.0**-exponent)  # a power of two: exact
    np.floor(scaled, out=scaled)
    first = int(np.floor(np.ldexp(min(minimum, 0.0), -exponent)))
    last = int(np.floor(np.ldexp(max(maximum, 0.0), -exponent)))
    scaled -= np.float32(first)
    counts = np.bincount(scaled.astype(np.intp), minlength=last - first + 1)
    return Histogram(exponent, first, counts)


def _coarsened(h: Histogram, exponent: int) -> Histogram:
    """`h` with bins of width 2**exponent, by adding up neighbours."""
    shift = exponent - h.exponent
    if shift == 0:
        return h
    indices = np.arange(h.first, h.first + h.counts.size) >> shift
    counts = np.zeros(indices[-1] - indices[0] + 1, np.int64)
    np.add.at(counts, indices - indices[0], h.counts)
    return Histogram(exponent, int(indices[0]), counts)


def merge_histograms(a: Histogram, b: Histogram) -> Histogram:
    """The histogram of the values of both."""
    exponent = max(a.exponent, b.exponent)
    while True:
        a, b = _coarsened(a, exponent), _coarsened(b, exponent)
        first = min(a.first, b.first)
        last = max(a.first + a.counts.size, b.first + b.counts.size)
        if last - first <= BINS:
            break
        exponent += 1
    counts = np.zeros(last - first, np.int64)
    for h in (a, b):
        counts[h.first - first : h.first - first + h.counts.size] += h.counts
    return Histogram(exponent, first, counts)
