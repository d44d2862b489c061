"""A Pareto front as one HTML page in the style of the reports: a plot and a table, no request to anywhere."""

from __future__ import annotations

import math
from html import escape

from qonnx import report_plots as plots
from qonnx.pareto import Front, Point
from qonnx.report_html import card, page, table
from qonnx.wording import decibel, percent, ratio, size


def render(front: Front) -> str:
    """The page, as text."""
    title = f"{front.model}: size against error"
    return page(title, [_header(front), _plot(front), _points(front)])


def words(point: Point) -> str:
    """The formats of a point, the most frequent first: "12 × u4.block32, …"."""
    ordered = sorted(point.formats.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} × {name}" for name, count in ordered)


def _header(front: Front) -> str:
    smallest, largest = front.points[0], front.points[-1]
    cards = [
        card("float file", size(front.bytes), f"{front.layers} layers up for choice"),
        card("smallest", size(smallest.size), f"{ratio(smallest.size / front.bytes)} of float"),
        card("least harmful", size(largest.size), f"{ratio(largest.size / front.bytes)} of float"),
    ]
    return f'<header><h1>{escape(front.model)}</h1><div class="cards">{"".join(cards)}</div></header>'


def _plot(front: Front) -> str:
    series = [
        [(p.size / 1e6, db, f"{size(p.size)}, {p.bits:.2f} bits: {decibel(db)}") for p, db in pairs]
        for pairs in ([(p, p.measured) for p in front.points], [(p, p.predicted) for p in front.points])
    ]
    legend = '<div class="legend"><span class="one">measured together</span><span class="two">predicted</span></div>'
    text = f"""For every size the formats that harm the worst output least, an exact choice over all layers. Predicted:
    the sum of what single layers do. Measured: all together. Plain rounding on {front.samples} samples; the solvers of
    recipe {escape(front.recipe)} gain on both."""
    plot = plots.curves(series, "file size, MB", "signal to error at the worst output, dB")
    return f'<section><h2>The front</h2><p>{text}</p>{legend}<div class="scroll plot">{plot}</div></section>'


def _points(front: Front) -> str:
    heads = ["#file", "#bits a weight", "#predicted", "#measured", "#same largest output", "formats"]
    rows = [
        [size(p.size), f"{p.bits:.2f}", decibel(p.predicted), decibel(p.measured),
         percent(p.agreement if math.isfinite(p.agreement) else None), escape(words(p))]
        for p in front.points
    ]  # fmt: skip
    text = "Any of these is one option away: qonnx convert --size takes a file size, --bits the average of a weight."
    return f"<section><h2>Points</h2><p>{text}</p>{table(heads, rows)}</section>"
