"""Figures in words, the same in the terminal and on the page: units, few digits, one spelling for infinity."""

from __future__ import annotations

import math

from qonnx.comparison import Comparison


def decibel(value: float | None) -> str:
    """ "34.2 dB"; "exact" without any error, "–" if unknown."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "exact" if value > 0 else "lost"
    return f"{value:.1f} dB"


def size(count: float | None) -> str:
    """Bytes with a decimal unit: "27.2 MB"."""
    if count is None or math.isnan(count):
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return ""


def duration(seconds: float) -> str:
    """ "0.85 ms", "12.3 ms", "1.25 s", "2 min 05 s"."""
    if seconds >= 60:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def percent(share: float | None) -> str:
    return "–" if share is None or math.isnan(share) else f"{share * 100:.1f} %"


def ratio(value: float) -> str:
    """ "0.28×"."""
    return "–" if math.isnan(value) else f"{value:.2f}×"


def plain(value: float) -> str:
    """Four significant digits."""
    return "–" if math.isnan(value) else f"{value:.4g}"


def short(name: str, width: int) -> str:
    """`name` in at most `width` characters, its beginning left out: the ends tell layers apart."""
    name = name.removesuffix("_output_0")
    if len(name) <= width:
        return name
    tail = name[-(width - 1) :]
    cut = tail.find("/")
    return "…" + (tail[cut:] if 0 <= cut < width // 3 else tail)


def verdict(comparison: Comparison) -> str:
    """A few words on how far the result is from the reference."""
    if comparison.broken:
        count = len(comparison.broken)
        return f"{count} bound{'s' if count > 1 else ''} broken"
    worst = comparison.worst_output.figures
    if worst.not_finite:
        return f"{worst.not_finite} output elements are NaN or infinite in one model only"
    if worst.sqnr_db == math.inf:
        return "bit-identical outputs"
    for limit, words in ((60, "indistinguishable for most purposes"), (30, "close"), (20, "visible differences")):
        if worst.sqnr_db >= limit:
            return words
    return "far from the reference"


def tone(comparison: Comparison) -> str:
    """How to colour the verdict: "good", "fair" or "bad"."""
    worst = comparison.worst_output.figures
    if comparison.broken or worst.not_finite or not worst.sqnr_db >= 15:
        return "bad"
    return "good" if worst.sqnr_db >= 30 else "fair"
