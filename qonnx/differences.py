"""How far one run is from another: streamed sums over samples, turned into the figures that reports show.

With r the reference and s the result, e = s − r, all sums over every element of every sample, in float64:
  SQNR = 10·log10(Σr² / Σe²) dB (∞ where e is 0),   cosine = Σrs / √(Σr²·Σs²),   mean = Σ|e| / count,   max = max |e|.
Elements where either run is NaN or infinite are left out of the sums and counted; two equal infinities agree.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

# Elements turned to float64 at a time. They fit the first cache, and OpenBLAS splits dot products from 10,000 elements
# up: larger chunks were 3 to 10 times slower on a busy machine, where its threads wait for each other.
_CHUNK = 1 << 13


@dataclasses.dataclass(frozen=True)
class Figures:
    """Error of one tensor over all samples. `sqnr_db` and `worst_sqnr_db` (the worst single sample) in decibels."""

    sqnr_db: float
    worst_sqnr_db: float
    cosine: float
    max_abs: float
    mean_abs: float
    rms_reference: float
    count: int
    not_finite: int


def decibels(signal: float, noise: float) -> float:
    """10·log10(signal / noise) of two powers; ∞ without noise, −∞ for noise on a signal of zeros."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


class Difference:
    """Running sums over samples; memory does not depend on their number."""

    def __init__(self) -> None:
        self._sums = np.zeros(5)  # Σr², Σs², Σrs, Σe², Σ|e|
        self._max = 0.0
        self._count = self._not_finite = 0
        self._worst = math.inf

    def add(self, reference: np.ndarray, result: np.ndarray) -> None:
        """Add one sample; both arrays have one shape."""
        if reference.shape != result.shape:
            raise ValueError(f"shapes differ: {reference.shape} and {result.shape}")
        before = self._sums.copy()
        r_flat, s_flat = np.asarray(reference).reshape(-1), np.asarray(result).reshape(-1)
        for start in range(0, r_flat.size, _CHUNK):
            self._add_chunk(r_flat[start : start + _CHUNK], s_flat[start : start + _CHUNK])
        signal, noise = (self._sums - before)[[0, 3]]
        self._worst = min(self._worst, decibels(signal, noise))

    def _add_chunk(self, r: np.ndarray, s: np.ndarray) -> None:
        r, s = r.astype(np.float64), s.astype(np.float64)
        rr, ss = r @ r, s @ s
        if not math.isfinite(rr + ss):  # squares of float32 numbers do not overflow float64: something is not finite
            good = np.isfinite(r) & np.isfinite(s)
            self._not_finite += int((~good & (r != s)).sum())
            r, s = r[good], s[good]
            rr, ss = r @ r, s @ s
        if not r.size:
            return
        rs = r @ s
        s -= r
        ee = s @ s
        np.abs(s, out=s)
        self._sums += [rr, ss, rs, ee, s.sum()]
        self._max = max(self._max, float(s.max()))
        self._count += r.size

    @property
    def figures(self) -> Figures:
        """The figures so far; NaN where nothing finite was seen."""
        rr, ss, rs, ee, absolute = self._sums
        if not self._count:
            nan = math.nan
            return Figures(nan, nan, nan, nan, nan, nan, 0, self._not_finite)
        cosine = rs / math.sqrt(rr * ss) if rr > 0 and ss > 0 else float(rr == ss)
        return Figures(
            sqnr_db=decibels(rr, ee),
            worst_sqnr_db=self._worst,
            cosine=1.0 if ee == 0 else float(min(1.0, max(-1.0, cosine))),
            max_abs=self._max,
            mean_abs=float(absolute / self._count),
            rms_reference=math.sqrt(rr / self._count),
            count=self._count,
            not_finite=self._not_finite,
        )
