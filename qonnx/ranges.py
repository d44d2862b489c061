"""Ranges: which interval [low, high] of an activation its integer grid covers.

    min-max     everything that was seen
    percentile  the central share of all values
    mse         least squared error, of the tensor or of the activation that follows it
    entropy     least Kullback-Leibler divergence of the distributions (Migacz, "8-bit inference with TensorRT", 2017)

All methods work on histograms, need no second look at the data, and return a range that includes 0. When an activation
follows, what it flattens is cut off first: that changes nothing behind it and often halves the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from qonnx.activations import activation
from qonnx.errors import QonnxError
from qonnx.formats import IntFormat
from qonnx.histogram import Histogram
from qonnx.stats import Stats

METHODS = ("min-max", "percentile", "mse", "entropy")
CANDIDATES = 48  # for each end of the range, in the coarse and in the fine search
_HALFWAY = 1 / 16  # of a step: how close to the middle between two codes counts as half-way
Function = Callable[[np.ndarray], np.ndarray]


def choose_range(
    stats: Stats,
    format: IntFormat,
    method: str = "min-max",
    *,
    percentile: float = 99.99,
    after: str | None = None,
    headroom: float = 1.0,
) -> tuple[float, float]:
    """The range [low, high] ∋ 0 that `format` should cover.

    percentile: share of the values that stay inside, in percent. after: the activation that all consumers apply (a name
    of qonnx.activations). headroom: the range is widened by this factor, for values that calibration has not seen.
    Raises QonnxError for an unknown method, for one that needs a histogram where there is none, and for a tensor
    without any finite value.
    """
    if not stats.minimum <= stats.maximum:
        raise QonnxError("a tensor without a single finite value has no range; leave its node in float")
    function, (flat_low, flat_high) = _follower(after, format, stats)
    low, high = _within(stats.minimum, stats.maximum, flat_low, flat_high)
    method = "min-max" if method == "minmax" else method
    if method != "min-max":
        if method not in METHODS:
            raise QonnxError(f"unknown calibration method '{method}'; known are {', '.join(METHODS)}")
        if stats.histogram is None:
            raise QonnxError(f"method '{method}' needs histograms; set histogram = true in [options.observe]")
        if low == high:
            return low, high
        if method == "percentile":
            low, high = _within(*_percentile(stats.histogram, format, percentile, low, high), flat_low, flat_high)
        elif method == "mse":
            low, high = _mse(stats, format, low, high, function)
        else:
            low, high = _entropy(stats.histogram, format, low, high)
    low, high = _within(low * headroom, high * headroom, flat_low, flat_high)
    return float(low), float(high)


def zero_on_code(low: float, high: float, format: IntFormat) -> tuple[float, float]:
    """The range of an input of the model, widened until 0 falls on a code where it fell half-way between two.

    Pixels normalised to [−1, 1] are the case: 255 steps of 1/127.5, and a grid of as many, moved by half a step because
    0 is a code. Every pixel then lies half-way between two codes, neighbours merge, and each runtime rounds its own
    way. One step more over the whole range spreads the errors evenly: half the error power for 0.4 % of the step.
    """
    steps = format.maximum - format.minimum
    if format.symmetric or not low < 0 < high:
        return low, high
    below = -low / (high - low) * steps
    if abs(below - math.floor(below) - 0.5) > _HALFWAY:
        return low, high
    below = min(max(round(below), 1), steps - 1)
    step = max(-low / below, high / (steps - below))
    return -below * step, (steps - below) * step


def _follower(after: str | None, format: IntFormat, stats: Stats) -> tuple[Function | None, tuple[float, float]]:
    """The following activation, and the interval outside of which values may be cut off.

    Rounding the zero point moves the grid by up to half a step. Where everything beyond −3 is 0, a grid that ends at
    −2.99 would turn all of that into one wrong constant, so a flat end other than 0 is passed by half a step.
    """
    if after is None:
        return None, (-np.inf, np.inf)
    function, flat = activation(after)
    low, high = _within(stats.minimum, stats.maximum, *flat)
    half = (high - low) / (format.maximum - format.minimum) / 2
    return function, (flat[0] - half * (flat[0] < 0), flat[1] + half * (flat[1] > 0))


def _within(low: float, high: float, flat_low: float, flat_high: float) -> tuple[float, float]:
    """[low, high] without what the following activation flattens, and with 0."""
    return min(max(low, flat_low), flat_high, 0.0), max(min(high, flat_high), flat_low, 0.0)


def _percentile(h: Histogram, format: IntFormat, percentile: float, low: float, high: float) -> tuple[float, float]:
    """Asymmetric grids cut the same share off both ends, symmetric ones cut by absolute value."""
    if not 0 < percentile <= 100:
        raise QonnxError(f"percentile {percentile:g} must lie above 0 and up to 100")
    share = percentile / 100
    if format.symmetric:
        edges = np.abs(h.edges)
        inner, outer = np.minimum(edges[:-1], edges[1:]), np.maximum(edges[:-1], edges[1:])
        order = np.argsort(outer, kind="stable")
        reach = _quantile(h.counts[order], inner[order], outer[order], share)
        return max(-reach, low), min(reach, high)
    cut = (1 - share) / 2
    left, right = h.edges[:-1], h.edges[1:]
    return (
        max(_quantile(h.counts, left, right, cut), low),
        min(_quantile(h.counts, left, right, 1 - cut), high),
    )


def _quantile(counts: np.ndarray, left: np.ndarray, right: np.ndarray, share: float) -> float:
    """The value below which `share` of the counts lie; values are taken as spread evenly over their bin."""
    before = np.cumsum(counts) - counts
    wanted = share * counts.sum()
    k = min(int(np.searchsorted(before + counts, wanted)), counts.size - 1)
    inside = (wanted - before[k]) / counts[k] if counts[k] else 0.0
    return float(left[k] + (right[k] - left[k]) * min(max(inside, 0.0), 1.0))


class _SquaredError:
    """Squared error behind `function` of covering [low, high], for arrays of both ends, from a histogram."""

    def __init__(self, stats: Stats, format: IntFormat, function: Function | None):
        h = stats.histogram
        keep = h.counts > 0
        self.format, self.f = format, function or (lambda values: values)
        self.x = np.clip(h.centers[keep], stats.minimum, stats.maximum)
        self.weight = h.counts[keep].astype(np.float64)
        self.y = self.f(self.x)
        slope = (self.f(self.x + h.width / 2) - self.f(self.x - h.width / 2)) / h.width
        terms = (np.ones_like(self.x), self.y, self.y * self.y, slope * slope)
        self.sums = [np.concatenate([[0.0], np.cumsum(self.weight * term)]) for term in terms]

    def model(self, lows: np.ndarray, highs: np.ndarray) -> np.ndarray:
        """Error [lows, highs]: rounding noise s²/12 times the squared slope inside, values outside moved to the end."""
        first, last = np.searchsorted(self.x, lows), np.searchsorted(self.x, highs)
        step = (highs[None] - lows[:, None]) / (self.format.maximum - self.format.minimum)
        inside = np.maximum(self.sums[3][last][None] - self.sums[3][first][:, None], 0.0)
        below = self._moved(lows, *(s[first] for s in self.sums[:3]))
        above = self._moved(highs, *(s[-1] - s[last] for s in self.sums[:3]))
        return below[:, None] + above[None] + step**2 / 12 * inside

    def _moved(self, ends: np.ndarray, count: np.ndarray, total: np.ndarray, square: np.ndarray) -> np.ndarray:
        """Σ (y − f(end))² over values of which the number, Σ y and Σ y² are given."""
        at = self.f(ends)
        return np.maximum(square - 2 * at * total + at * at * count, 0.0)

    def exact(self, lows: np.ndarray, highs: np.ndarray) -> np.ndarray:
        """Error [candidates] of the real grid at the bins' centres: it knows of zero points and of coarse steps."""
        scale, zero_point = self.format.scale_and_zero_point(lows, highs)
        scale = scale.astype(np.float64)[:, None]
        codes = np.rint(self.x / scale)
        least, most = (self.format.minimum - zero_point)[:, None], (self.format.maximum - zero_point)[:, None]
        error = self.f(np.clip(codes, least, most, out=codes) * scale) - self.y
        return (error * error) @ self.weight


def _mse(stats: Stats, format: IntFormat, low: float, high: float, function: Function | None) -> tuple[float, float]:
    """Least squared error behind `function`: a coarse and a fine grid by the model, then near the best by the truth."""
    cost = _SquaredError(stats, format, function)
    if format.symmetric:
        return _mse_symmetric(cost, max(-low, high))
    shares = np.linspace(0, 1, CANDIDATES)
    best_low, best_high = _argmin(cost.model, low * shares, high * shares)
    near = np.linspace(-1, 1, CANDIDATES) / (CANDIDATES - 1)
    lows, highs = np.clip(best_low + low * near, low, 0), np.clip(best_high + high * near, 0, high)
    best_low, best_high = _argmin(cost.model, lows, highs)
    tried_low, tried_high = np.array([low, best_low]), np.array([high, best_high])
    for spread in (0.2, 0.05, 0.0125):
        factors = np.linspace(1 - spread, 1 + spread, 5)
        lows, highs = np.meshgrid(np.maximum(best_low * factors, low), np.minimum(best_high * factors, high))
        tried_low = np.concatenate([lows.ravel(), tried_low[-2:]])
        tried_high = np.concatenate([highs.ravel(), tried_high[-2:]])
        k = np.argmin(cost.exact(tried_low, tried_high))
        best_low, best_high = tried_low[k], tried_high[k]
    return float(best_low), float(best_high)


def _mse_symmetric(cost: _SquaredError, most: float) -> tuple[float, float]:
    """The same for ranges [−reach, reach] up to `most`."""
    reach = np.linspace(0, 1, CANDIDATES * 2 + 1)[1:] * most
    best = reach[np.argmin(np.diagonal(cost.model(-reach, reach)))]
    for spread in (0.2, 0.05, 0.0125):
        tried = np.minimum(best * np.linspace(1 - spread, 1 + spread, 9), most)
        best = tried[np.argmin(cost.exact(-tried, tried))]
    return -float(best), float(best)


def _argmin(cost: Callable, lows: np.ndarray, highs: np.ndarray) -> tuple[float, float]:
    i, j = np.unravel_index(np.argmin(cost(lows, highs)), (lows.size, highs.size))
    return lows[i], highs[j]


def _entropy(h: Histogram, format: IntFormat, low: float, high: float) -> tuple[float, float]:
    """Least divergence of the histogram from what the codes keep of it; one end is searched, then the other.

    P: the histogram with everything outside the range added to its end bins. Q: the bins inside, merged into as many
    groups as there are codes, each group spread evenly over its occupied bins. Symmetric grids look at absolute values.
    """
    levels = format.maximum - format.minimum + 1
    h = _without_spike(h)
    if format.symmetric:
        counts = _absolute(h)
        stop = _search_end(counts, max(levels // 2, 1))
        reach = stop * h.width
        return max(-reach, low), min(reach, high)
    zero = -h.first  # bins below 0
    if high <= 0 or low >= 0:
        counts = h.counts[::-1] if high <= 0 else h.counts
        reach = _search_end(counts, levels) * h.width
        return (max(-reach, low), 0.0) if high <= 0 else (0.0, min(reach, high))
    stop = _search_end(h.counts, levels, least=zero + 1)
    start = h.counts[:stop].size - _search_end(h.counts[:stop][::-1], levels, least=stop - zero + 1)
    edges = h.edges
    return max(float(edges[start]), low), min(float(edges[stop]), high)


def _without_spike(h: Histogram) -> Histogram:
    """Zeros are coded exactly whatever the range, so the many of a Relu must not decide: level with the neighbours."""
    zero = -h.first
    counts = h.counts.copy()
    around = counts[max(zero - 1, 0) : zero + 2]
    counts[zero] = min(counts[zero], np.delete(around, min(zero, 1)).max(initial=1))
    return Histogram(h.exponent, h.first, counts)


def _absolute(h: Histogram) -> np.ndarray:
    """Counts by absolute value, in bins of the same width."""
    zero = -h.first
    negative, positive = h.counts[:zero][::-1], h.counts[zero:]
    counts = np.zeros(max(negative.size, positive.size), np.int64)
    counts[: negative.size] += negative
    counts[: positive.size] += positive
    return counts


def _search_end(counts: np.ndarray, levels: int, least: int = 1) -> int:
    """Where to end the range of bins [0, end) for the least divergence; at least `levels` bins, coarse then fine."""
    least = max(least, levels)
    if counts.size <= least:
        return counts.size
    stride = max(1, (counts.size - least) // CANDIDATES)
    coarse = np.unique(np.append(np.arange(least, counts.size, stride), counts.size))
    best = min(coarse, key=lambda end: _divergence(counts, end, levels))
    fine = np.arange(max(best - stride, least), min(best + stride, counts.size) + 1, max(1, stride // 8))
    return int(min([best, *fine], key=lambda end: _divergence(counts, end, levels)))


def _divergence(counts: np.ndarray, end: int, levels: int) -> float:
    """KL(P ‖ Q) for the range of the first `end` bins."""
    inside = counts[:end].astype(np.float64)
    p = inside.copy()
    p[-1] += counts[end:].sum()
    group = np.arange(end) * levels // end
    occupied = inside > 0
    mass = np.bincount(group, inside, levels)
    members = np.bincount(group, occupied, levels)
    q = np.where(occupied, (mass / np.maximum(members, 1))[group], 0.0)
    total = q.sum()
    if total == 0:
        return np.inf
    p, q = p / p.sum(), q / total
    smallest = 1e-4 / end  # where outliers meet an empty end bin
    seen = p > 0
    return float(np.sum(p[seen] * np.log(p[seen] / np.maximum(q[seen], smallest))))
