"""Plots of a report as inline SVG: plain functions from figures to text. Colours come from the page's style sheet.

Every mark carries a <title>, so that a pointer shows its name and value; every plot has a label for screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from qonnx.comparison import Latency, LayerError, QuantizerError
from qonnx.quantizers import histogram_range
from qonnx.wording import decibel, duration, percent, plain, short, size

WIDTH = 1000
_CEILING = 80.0  # dB: better than this is drawn at the top


def layer_errors(layers: Sequence[LayerError]) -> str:
    """SQNR by layer in graph order: a line for the accumulated error, dots for the isolated one. Up is better."""
    layers = [layer for layer in layers if layer.isolated or layer.accumulated]
    if not layers:
        return ""
    height, left, right, top, bottom = 320, 52, 12, 14, 40
    values = [f.sqnr_db for x in layers for f in (x.isolated, x.accumulated) if f and not math.isnan(f.sqnr_db)]
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = min(0.0, math.floor(min(finite) / 10) * 10), min(_CEILING, math.ceil((max(finite) + 1) / 10) * 10)
    step_x = (WIDTH - left - right) / max(1, len(layers))

    def x(index: int) -> float:
        return left + (index + 0.5) * step_x

    def y(value: float) -> float:
        return top + (high - min(max(value, low), high)) / (high - low) * (height - top - bottom)

    parts = []
    for tick in range(int(low), int(high) + 1, 10):
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        beyond = "≥ " if tick == high and max(values) > high else ""  # exact layers are drawn at the top
        parts.append(f'<text class="tick end" x="{left - 8}" y="{y(tick) + 4:.1f}">{beyond}{tick}</text>')
    parts.append(f'<text class="axis" x="{left}" y="{height - 8}">layers in graph order →</text>')
    parts.append(f'<text class="axis" transform="translate(12 {height / 2:.0f}) rotate(-90)" text-anchor="middle">'
                 "SQNR, dB</text>")  # fmt: skip
    path = [(x(i), y(v.accumulated.sqnr_db)) for i, v in enumerate(layers) if _drawable(v.accumulated)]
    parts.append(f'<polyline class="line two" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in path)}"/>')
    radius = max(1.8, min(4.0, step_x * 0.45))
    for i, layer in enumerate(layers):
        if _drawable(layer.isolated):
            title = f"{layer.node} ({layer.operator} {layer.numbers})\nisolated {decibel(layer.isolated.sqnr_db)}"
            title += f", accumulated {decibel(layer.accumulated.sqnr_db)}" if layer.accumulated else ""
            parts.append(f'<circle class="dot one" cx="{x(i):.1f}" cy="{y(layer.isolated.sqnr_db):.1f}" '
                         f'r="{radius:.1f}"><title>{escape(title)}</title></circle>')  # fmt: skip
    return _svg(WIDTH, height, parts, "Signal to quantization noise by layer, isolated and accumulated")


def layer_sizes(layers: Sequence[LayerError], count: int = 14) -> str:
    """Bytes of the largest layers, float above result."""
    rows = sorted((x for x in layers if x.bytes_reference), key=lambda x: -x.bytes_reference)[:count]
    if not rows:
        return ""
    left, right, pitch = 380, 140, 26
    largest = max(max(x.bytes_reference, x.bytes_result) for x in rows)
    scale = (WIDTH - left - right) / largest
    parts = []
    for i, layer in enumerate(rows):
        y = 6 + i * pitch
        parts.append(f'<text class="name end" x="{left - 10}" y="{y + 15}">{escape(short(layer.node, 50))}'
                     f"<title>{escape(layer.node)}</title></text>")  # fmt: skip
        for offset, name, count_bytes in ((0, "two", layer.bytes_reference), (10, "one", layer.bytes_result)):
            width = max(1.0, count_bytes * scale)
            title = f"{'float' if name == 'two' else 'result'} {size(count_bytes)}"
            place = f'x="{left}" y="{y + offset}" width="{width:.1f}" height="9" rx="1.5"'
            parts.append(f'<rect class="bar {name}" {place}>'
                         f"<title>{title}</title></rect>")  # fmt: skip
        both = f"{size(layer.bytes_reference)} → {size(layer.bytes_result)}"
        end = left + max(layer.bytes_reference, layer.bytes_result) * scale
        parts.append(f'<text class="tick" x="{end + 8:.1f}" y="{y + 14}">{both}</text>')
    return _svg(WIDTH, 12 + len(rows) * pitch, parts, "Stored bytes of the largest layers, float and result")


def histogram(trial: QuantizerError) -> str:
    """Counts (logarithmic) of one tensor's values, with the range of its codes as two lines."""
    width, height, bottom, top = 320, 130, 22, 10
    low, high = histogram_range(trial.low, trial.high)
    peak = math.log1p(max(trial.histogram))
    bar = width / len(trial.histogram)

    def x(value: float) -> float:
        return (value - low) / (high - low) * width

    parts = []
    clip_low, clip_high = x(trial.low), x(trial.high)
    for i, count in enumerate(trial.histogram):
        if count:
            tall = math.log1p(count) / peak * (height - bottom - top)
            outside = not clip_low - bar <= i * bar <= clip_high
            series = "bad" if outside else "one"
            parts.append(f'<rect class="bar {series}" x="{i * bar:.2f}" y="{height - bottom - tall:.1f}" '
                         f'width="{bar + 0.1:.2f}" height="{tall:.1f}"/>')  # fmt: skip
    base = height - bottom
    parts.append(f'<line class="base" x1="0" x2="{width}" y1="{base}" y2="{base}"/>')
    for place, value, side in ((clip_low, trial.low, "start"), (clip_high, trial.high, "end")):
        parts.append(f'<line class="clip" x1="{place:.1f}" x2="{place:.1f}" y1="2" y2="{base}"/>')
        parts.append(f'<text class="tick" text-anchor="{"middle" if 30 < place < width - 30 else side}" '
                     f'x="{place:.1f}" y="{height - 6}">{plain(value)}</text>')  # fmt: skip
    return _svg(width, height, parts, f"Histogram of {trial.tensor}; {percent(trial.clipped)} clipped")


def latency_bars(latency: Latency) -> str:
    """Median time of both models, with tenth and ninetieth percentile as a whisker."""
    left, right, pitch = 90, 110, 40
    longest = max(latency.reference.p90, latency.result.p90)
    scale = (WIDTH - left - right) / longest
    parts = []
    for i, (name, series, t) in enumerate((("float", "two", latency.reference), ("result", "one", latency.result))):
        y = 8 + i * pitch
        parts.append(f'<text class="name end" x="{left - 10}" y="{y + 17}">{name}</text>')
        parts.append(
            f'<rect class="bar {series}" x="{left}" y="{y}" width="{t.median * scale:.1f}" height="24" rx="2"/>'
        )
        a, b = left + t.p10 * scale, left + t.p90 * scale
        parts.append(f'<path class="whisker" d="M{a:.1f} {y + 12}H{b:.1f}M{a:.1f} {y + 7}v10M{b:.1f} {y + 7}v10"/>')
        parts.append(f'<text class="value" x="{b + 8:.1f}" y="{y + 17}">{duration(t.median)}</text>')
    return _svg(WIDTH, 2 * pitch + 2, parts, "Latency of both models, median with tenth and ninetieth percentile")


def curves(series: Sequence[Sequence[tuple[float, float, str]]], across: str, up: str) -> str:
    """Lines through points (x, y, title): the first series in the first colour with dots, the second in the second.

    Points whose y is not finite are left out. across, up: what the axes count.
    """
    finite = [point for points in series for point in points if math.isfinite(point[1])]
    if not finite:
        return ""
    height, left, right, top, bottom = 320, 60, 24, 14, 44
    highest_x, lowest_y, highest_y = max(p[0] for p in finite), min(p[1] for p in finite), max(p[1] for p in finite)
    step_x, step_y = _step(highest_x, 8), _step(max(highest_y - min(lowest_y, 0.0), 1e-9), 6)
    low, high = math.floor(min(lowest_y, 0.0) / step_y) * step_y, math.ceil(highest_y / step_y) * step_y
    wide = math.ceil(highest_x / step_x) * step_x

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + x / wide * (WIDTH - left - right),
            top + (high - y) / (high - low or 1) * (height - top - bottom),
        )

    parts = []
    for index in range(round((high - low) / step_y) + 1):
        y = place(0, low + index * step_y)[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick end" x="{left - 8}" y="{y + 4:.1f}">{plain(low + index * step_y)}</text>')
    for index in range(round(wide / step_x) + 1):
        x = place(index * step_x, low)[0]
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 26}" text-anchor="middle">'
                     f"{plain(index * step_x)}</text>")  # fmt: skip
    parts.append(f'<text class="axis" x="{left}" y="{height - 6}">{escape(across)} →</text>')
    parts.append(f'<text class="axis" transform="translate(12 {height / 2:.0f}) rotate(-90)" text-anchor="middle">'
                 f"{escape(up)}</text>")  # fmt: skip
    for kind, points in zip(("one", "two"), series, strict=False):
        drawn = [(*place(x, y), title) for x, y, title in points if math.isfinite(y)]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b, _ in drawn)
        parts.append(f'<polyline class="line {kind}" points="{line}"/>')
        parts += [f'<circle class="dot {kind}" cx="{a:.1f}" cy="{b:.1f}" r="4"><title>{escape(title)}</title></circle>'
                  for a, b, title in drawn]  # fmt: skip
    return _svg(WIDTH, height, parts, f"{up} against {across}")


def _step(span: float, most: int) -> float:
    """The smallest round step (1, 2 or 5 times a power of ten) of which `most` cover `span`."""
    power = 10.0 ** math.floor(math.log10(span / most))
    return next(power * m for m in (1, 2, 5, 10) if power * m * most >= span * (1 - 1e-9))


def _drawable(figures) -> bool:
    return figures is not None and not math.isnan(figures.sqnr_db)


def _svg(width: int, height: float, parts: Sequence[str], label: str) -> str:
    body = "".join(parts)
    return f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{escape(label)}">{body}</svg>'
