"""A Report as one HTML page: no request to anywhere, readable on a phone, in light and in dark, and on paper.

Text order is the order in which people ask: is it good, how good, where does the error come from, how large and how
fast, what was left out. Style and script are files beside this one, put into the page.
"""

from __future__ import annotations

import importlib.resources
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

from qonnx import report_plots as plots
from qonnx.comparison import Comparison
from qonnx.ledger import explain, summary
from qonnx.oracles import ORACLES
from qonnx.report import Report
from qonnx.wording import decibel, duration, percent, plain, ratio, short, size, tone, verdict

WORST_LAYERS, WORST_TENSORS, WORST_NODES = 15, 9, 6


def render(report: Report) -> str:
    """The page, as text."""
    found = report.comparison
    sections = [_header(report)]
    if found:
        sections += [_outputs(found), _layers(found), _tensors(found), _sizes(found), _speed(found), _oracles(found)]
    sections += [_ledger(report), _steps(report), _origin(report)]
    title = f"{report.reference.name} → {report.result.name}" if report.result else report.reference.name
    return page(title, sections)


def page(title: str, sections: Iterable[str]) -> str:
    """A page of these sections, with the report's style and script inside."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>\n{_asset('report_page.css')}</style></head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + f"\n<script>\n{_asset('report_page.js')}</script>\n</body></html>\n"
    )


def _asset(name: str) -> str:
    return importlib.resources.files("qonnx").joinpath(name).read_text(encoding="utf-8")


def _header(report: Report) -> str:
    found = report.comparison
    arrow = f" <i>→</i> {escape(report.result.name)}" if report.result else ""
    parts = [f"<header><h1>{escape(report.reference.name)}{arrow}</h1>"]
    if found:
        parts.append(f'<div class="verdict {tone(found)}">{escape(verdict(found))}</div>')
        parts.append(f'<div class="cards">{"".join(_cards(found))}</div>')
    elif report.result:
        before, after = report.reference.bytes, report.result.bytes
        parts.append(
            f'<div class="cards">{card("size on disk", size(after), f"{ratio(after / before)} of float")}</div>'
        )
    notes = [f'<li class="bad">{escape(sentence)}</li>' for sentence in report.broken]
    notes += [f"<li>{escape(sentence)}</li>" for sentence in (*report.warnings, *(found.warnings if found else ()))]
    parts.append(f'<ul class="notes">{"".join(notes)}</ul>' if notes else "")
    return "".join(parts) + "</header>"


def _cards(found: Comparison) -> Iterable[str]:
    worst, before, after = found.worst_output, found.reference_footprint, found.result_footprint
    if before and after:
        yield card("size on disk", size(after.disk), f"{ratio(after.disk / before.disk)} of {size(before.disk)}")
    if found.latency:
        time = found.latency
        yield card("latency", duration(time.result.median), f"{ratio(time.ratio)} of {duration(time.reference.median)}")
    yield card("signal to error", decibel(worst.figures.sqnr_db), f"worst {decibel(worst.figures.worst_sqnr_db)}")
    if worst.top1 is not None:
        yield card("top-1 agreement", percent(worst.top1), worst.top1_basis)
    if found.metric:
        yield card(found.metric.name, plain(found.metric.result), f"float {plain(found.metric.reference)}")
    if found.fusion and found.fusion.shares:
        nodes = f"{found.fusion.count('integer')} of {len(found.fusion.nodes)} nodes"
        yield card("integer arithmetic", percent(found.fusion.shares["integer"]), nodes)
    if before and after and before.memory and after.memory:
        times = f"{ratio(after.memory / before.memory)} of {size(before.memory)}"
        yield card("weights in memory", size(after.memory), times)
    if after and after.weights:
        yield card("bits per weight", f"{after.bits_per_weight:.2f}", f"{after.weights / 1e6:.1f} M weights")


def card(what: str, value: str, note: str) -> str:
    inside = f'<span class="what">{escape(what)}</span><b>{escape(value)}</b><small>{escape(note)}</small>'
    return f'<div class="card">{inside}</div>'


def _outputs(found: Comparison) -> str:
    heads = ["output", "#SQNR", "#worst sample", "#cosine", "#largest error", "#mean error", "#top-1 agreement"]
    rows = []
    for output in found.outputs:
        f = output.figures
        cells = [decibel(f.sqnr_db), decibel(f.worst_sqnr_db), f"{f.cosine:.6f}", plain(f.max_abs), plain(f.mean_abs)]
        rows.append([f"<code>{escape(output.name)}</code> {escape(output.shape)}", *cells, percent(output.top1)])
    text = f"The result against the float model, both in ONNX Runtime as users run it, over {found.samples} samples."
    bases = {f"Top-1 agreement of {o.name}: {o.top1_basis}." for o in found.outputs if o.top1_basis}
    return f"<section><h2>Outputs</h2><p>{text} {escape(' '.join(sorted(bases)))}</p>{table(heads, rows)}</section>"


def _oracles(found: Comparison) -> str:
    """The gaps between ways to run the result: outputs in full, nodes worst first."""
    if not found.oracles:
        return ""
    gaps = [gap for gap in found.oracles if gap.operator == "output"]
    nodes = [gap for gap in found.oracles if gap.operator != "output"]
    gaps += sorted(nodes, key=lambda gap: gap.figures.sqnr_db)[:WORST_NODES]
    rows = [
        [escape(g.pair), f"<code>{escape(short(g.tensor, 60))}</code>", escape(g.operator),
         decibel(g.figures.sqnr_db), plain(g.figures.max_abs)]
        for g in gaps
    ]  # fmt: skip
    covered = "; ".join(f"{ORACLES[c.oracle]}: {c.checked} of {c.total} {c.unit} ({c.note})" for c in found.coverage)
    text = (
        "How far two ways of running the <em>result</em> are apart: what the runtime's optimiser changes, and what the "
    )
    text += f"runtime's kernels do that the specification does not. {escape(covered)}."
    shown = table(["pair", "tensor or node", "operator", "#SQNR", "#largest error"], rows)
    return f"<section><h2>Three oracles</h2><p>{text}</p>{shown}</section>"


def _layers(found: Comparison) -> str:
    if not found.layers:
        return ""
    blamed, floor = found.blamed[:WORST_LAYERS], 60.0
    rows = []
    for layer in blamed:
        own = layer.isolated.sqnr_db
        width = 100 if math.isnan(own) else min(100.0, max(3.0, (floor - own) / floor * 100))
        cells = [f"<code>{escape(layer.node)}</code>", escape(layer.operator), escape(layer.numbers)]
        cells += [f'<span class="meter"><i style="width:{width:.0f}%"></i></span>', decibel(own)]
        rows.append([*cells, decibel(layer.accumulated.sqnr_db if layer.accumulated else None)])
    missing = sum(not layer.matched for layer in found.layers)
    samples = f"{found.layer_samples} sample{'s' if found.layer_samples > 1 else ''}"
    text = (
        "Isolated: each quantized layer fed with the float model's tensors, so only its own error shows. Accumulated: "
    )
    text += "each model's own run, with the errors of all earlier layers. Both without optimisation, over "
    text += f"{samples}.{f' {missing} layers have no counterpart.' if missing else ''}"
    if found.rescaled:
        text += f" {found.rescaled} tensors are scaled differently in the result, which is undone in the layers behind "
        text += "them; their errors count there."
    legend = '<div class="legend"><span class="one">isolated</span><span class="two">accumulated</span></div>'
    heads = ["layer", "operator", "numbers", "", "#isolated", "#accumulated"]
    worst = f"<h2>Layers to look at first</h2>{table(heads, rows)}" if rows else ""
    plot = plots.layer_errors(found.layers)
    return (
        f'<section><h2>Error by layer</h2><p>{text}</p>{legend}<div class="scroll plot">{plot}</div>{worst}</section>'
    )


def _tensors(found: Comparison) -> str:
    if not found.quantizers:
        return ""
    figures = []
    for trial in found.quantizers[:WORST_TENSORS]:
        caption = f'<code title="{escape(trial.tensor)}">{escape(short(trial.tensor, 42))}</code>'
        caption += f"{escape(trial.type)} · {decibel(trial.figures.sqnr_db)} · {percent(trial.clipped)} clipped"
        caption += f"<br>spans {trial.minimum:.3g} to {trial.maximum:.3g}"
        figures.append(f"<figure><figcaption>{caption}</figcaption>{plots.histogram(trial)}</figure>")
    text = f"""The float model's values (counts on a logarithmic axis) where the quantizer's grid loses most.
    Dashed: the range of its codes. Worst {len(figures)} of {len(found.quantizers)} activation quantizers."""
    return f'<section><h2>Worst tensors</h2><p>{text}</p><div class="grid3">{"".join(figures)}</div></section>'


def _sizes(found: Comparison) -> str:
    plot = plots.layer_sizes(found.layers)
    if not plot:
        return ""
    legend = '<div class="legend"><span class="two">float</span><span class="one square">result</span></div>'
    text = "Stored constants of the largest layers."
    return f'<section><h2>Size by layer</h2><p>{text}</p>{legend}<div class="scroll plot">{plot}</div></section>'


def _speed(found: Comparison) -> str:
    parts = []
    if (time := found.latency) is not None:
        text = f"""One sample, {time.threads} thread{"s" if time.threads > 1 else ""}, {time.provider}; both models in
        turns, {time.rounds} rounds. Ratio {time.ratio:.2f}, from {time.ratio_p10:.2f} to {time.ratio_p90:.2f} (tenth to
        ninetieth percentile)."""
        parts.append(f'<h2>Latency</h2><p>{text}</p><div class="scroll plot">{plots.latency_bars(time)}</div>')
    if found.fusion and found.fusion.nodes:
        counts = Counter((node.kind, node.operator) for node in found.fusion.nodes)
        total = sum(node.macs or 0 for node in found.fusion.nodes)
        rows = []
        for (kind, operator), count in sorted(counts.items(), key=lambda item: (item[0][0] != "integer", -item[1])):
            nodes = [n for n in found.fusion.nodes if (n.kind, n.operator) == (kind, operator)]
            share = percent(sum(n.macs or 0 for n in nodes) / total) if total else "–"
            names = ", ".join(short(n.origin, 48) for n in nodes[:3] if n.origin) if kind == "float" else ""
            rows.append([kind, escape(operator), str(count), share, f"<code>{escape(names)}</code>"])
        heads = ["arithmetic", "kernel", "#nodes", "#multiply-adds", "for example"]
        text = "From the graph that ONNX Runtime made of the result, compute nodes only."
        parts.append(
            f"<h2>What the runtime really runs</h2><p>{text} {escape(found.fusion.note)}</p>{table(heads, rows)}"
        )
    return "<section>" + "".join(parts) + "</section>" if parts else ""


def _ledger(report: Report) -> str:
    if not report.ledger:
        return ""
    chips = []
    for outcome, count in summary(report.ledger):
        words = "quantized" if outcome == "done" else explain(outcome)
        title = escape(words)
        chips.append(f'<button data-word="{escape(outcome)}" title="{title}"><b>{count}</b> {escape(outcome)}</button>')
    rows = []
    for row in report.ledger:
        state = '<span class="done">done</span>' if row.state == "done" else escape(row.reason)
        detail = row.detail if row.state == "done" else "; ".join(filter(None, (explain(row.reason), row.detail)))
        macs = (f"{row.macs / 1e6:.1f} M" if row.macs else "", row.macs or 0)
        rows.append([f"<code>{escape(row.node)}</code>", escape(row.operator), state, escape(detail), macs])
    heads = ["node", "operator", "outcome", "detail", "#multiply-adds"]
    all_rows = table(heads, rows, sortable=True, identifier="ledger")
    hint = "Filter by name, operator or outcome"
    search = f'<input id="filter" type="search" placeholder="{hint}" aria-label="{hint}">'
    text = "Every node that could be quantized, and what became of it."
    return f"""<section><h2>Coverage</h2><p>{text}</p>
<div class="chips">{"".join(chips)}</div>{search}{all_rows}</section>"""


def _steps(report: Report) -> str:
    if not report.steps:
        return ""
    rows = []
    for step in report.steps:
        more = "".join(f"<li>{escape(line)}</li>" for line in step.details)
        changes = f"<details><summary>{step.changes}</summary><ul>{more}</ul></details>" if more else str(step.changes)
        memory = f"{step.peak_mb:.0f} MB" if step.peak_mb else "–"
        rows.append([escape(step.name), duration(step.seconds), memory, changes])
    return f"<section><h2>Steps</h2>{table(['step', '#time', '#peak memory', 'changes'], rows)}</section>"


def _origin(report: Report) -> str:
    files = [file for file in (report.reference, report.result) if file]
    rows = [[escape(f.name), size(f.bytes), f"<code>{f.sha256}</code>"] for f in files]
    versions = ", ".join(f"{escape(name)} {escape(version)}" for name, version in report.versions.items())
    recipe = json.dumps(report.recipe, indent=1, ensure_ascii=False)
    shown = (
        f"<details><summary>Recipe as resolved</summary><pre>{escape(recipe)}</pre></details>" if report.recipe else ""
    )
    digests = table(["file", "#size", "SHA-256"], rows)
    target = f" for {escape(report.target)}" if report.target else ""
    return f"<section><h2>Made with</h2><p>qonnx {report.verb}{target}; {versions}.</p>{digests}{shown}</section>"


def table(heads: Sequence[str], rows: Sequence[Sequence], *, sortable: bool = False, identifier: str = "") -> str:
    """A table of cells that are HTML already; a head that begins with # is a column of numbers. A cell may be a pair
    (text, value to sort by)."""
    numbers = [head.startswith("#") for head in heads]
    head = "".join(
        f"<th{_kind(number)}{_sort(number) if sortable else ''}>{escape(name.lstrip('#'))}</th>"
        for name, number in zip(heads, numbers, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(_cell(cell, number) for cell, number in zip(row, numbers, strict=True)) + "</tr>"
        for row in rows
    )
    name = f' id="{identifier}"' if identifier else ""
    return f'<div class="scroll"><table{name}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(cell, number: bool) -> str:
    text, value = cell if isinstance(cell, tuple) else (cell, None)
    data = f' data-value="{value}"' if value is not None else ""
    return f"<td{_kind(number)}{data}>{text}</td>"


def _kind(number: bool) -> str:
    return ' class="number"' if number else ""


def _sort(number: bool) -> str:
    return f' data-sort="{"number" if number else "text"}"'
