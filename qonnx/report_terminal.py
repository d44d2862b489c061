"""A Report for the terminal: the headline first, then the worst layers, the ledger in brief, and where to read on."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from qonnx.comparison import Comparison
from qonnx.differences import Figures
from qonnx.ledger import explain, summary
from qonnx.report import Report
from qonnx.wording import decibel, duration, percent, plain, ratio, short, size, verdict

WORST = 8  # layers shown


def render(report: Report, console: Console | None = None, written: tuple[str, ...] = ()) -> None:
    """Print `report` on `console` (the standard output by default). written: the files that hold it in full."""
    (console or Console()).print(renderable(report, written))


def renderable(report: Report, written: tuple[str, ...] = ()) -> RenderableType:
    parts: list[RenderableType] = [_title(report)]
    if report.comparison:
        parts += [
            _headline(report.comparison),
            _verdict(report.comparison),
            _outputs(report.comparison),
            *_layers(report.comparison),
        ]
    elif report.result:
        parts.append(_sizes_only(report))
    if report.ledger:
        parts.append(_ledger(report))
    parts += [Text(f"! {sentence}", style="yellow") for sentence in (*report.warnings, *_warnings(report))]
    parts += [Text(f"✗ {sentence}", style="bold red") for sentence in report.broken]
    if report.steps:
        steps = ", ".join(f"{step.name} {duration(step.seconds)}" for step in sorted(report.steps, key=_slow)[:4])
        parts.append(Text(f"{duration(report.seconds)} in all; longest steps: {steps}", style="dim"))
    where = " and ".join(written) or "add --report report.html (a page) or --json report.json (data)"
    parts.append(Text(f"Everything: {where}", style="dim"))
    return Group(*parts)


def _slow(step) -> float:
    return -step.seconds


def _warnings(report: Report) -> tuple[str, ...]:
    return report.comparison.warnings if report.comparison else ()


def _title(report: Report) -> Text:
    title = Text(report.reference.name, style="bold")
    if report.result:
        title.append(" → ", style="dim").append(report.result.name)
    if report.target:
        title.append(f"   for {report.target}", style="dim not bold")
    return title


def _sizes_only(report: Report) -> Text:
    before, after = report.reference.bytes, report.result.bytes
    return Text(f"{size(before)} → {size(after)} ({ratio(after / before)})")


def _headline(found: Comparison) -> Table:
    """Size, memory, latency, error: float, result, ratio."""
    table = _table("", ("float", "right"), ("result", "right"), ("ratio", "right"), ("", "left"))
    before, after = found.reference_footprint, found.result_footprint
    if before and after:
        bits = f"{after.bits_per_weight:.2f} bits per weight"
        table.add_row("size on disk", size(before.disk), size(after.disk), ratio(after.disk / before.disk), bits)
        if before.memory and after.memory:
            times = ratio(after.memory / before.memory)
            table.add_row("weights in memory", size(before.memory), size(after.memory), times, "in the runtime")
    if (time := found.latency) is not None:
        note = f"p10–p90 {time.ratio_p10:.2f}–{time.ratio_p90:.2f}"
        table.add_row(
            f"latency, {time.threads} threads",
            duration(time.reference.median),
            duration(time.result.median),
            ratio(time.ratio),
            note,
        )
    if found.metric:
        metric = found.metric
        table.add_row(metric.name, plain(metric.reference), plain(metric.result), "", f"drop {metric.drop:.4f}")
    if found.fusion and found.fusion.nodes:
        share = percent(found.fusion.shares["integer"]) if found.fusion.shares else ""
        nodes = f"{found.fusion.count('integer')} of {len(found.fusion.nodes)} nodes"
        if weight_only := found.fusion.count("weight-only"):
            nodes += f", {weight_only} more with integer weights"
        table.add_row("integer arithmetic", "", share, "", nodes)
    return table


def _verdict(found: Comparison) -> Text:
    words = Text("Verdict: ", style="bold").append(verdict(found), style="red" if found.broken else "")
    return words.append(f" (SQNR {decibel(found.worst_output.figures.sqnr_db)})\n", style="dim not bold")


def _outputs(found: Comparison) -> Table:
    title = f"Outputs over {found.samples} sample{'s' if found.samples > 1 else ''}"
    scored = any(output.top1 is not None for output in found.outputs)
    columns = [("SQNR", "right"), ("worst", "right"), ("cosine", "right"), ("max error", "right")]
    table = _table(title, *columns, *([("top-1", "right")] if scored else []), width=24)
    for output in found.outputs:
        table.add_row(short(output.name, 40), *_cells(output.figures), *([percent(output.top1)] if scored else []))
    for gap in found.oracles:
        if gap.operator == "output":
            table.add_row(f"  {gap.pair}", *_cells(gap.figures), style="dim")
    nodes = [gap for gap in found.oracles if gap.operator != "output"]
    if nodes:
        worst = min(nodes, key=lambda gap: gap.figures.sqnr_db)
        table.add_row("  unoptimized − reference", *_cells(worst.figures), style="dim")
    return table


def _cells(figures: Figures) -> list[str]:
    decibels = [decibel(figures.sqnr_db), decibel(figures.worst_sqnr_db)]
    return [*decibels, f"{figures.cosine:.6f}", plain(figures.max_abs)]


def _layers(found: Comparison) -> list[RenderableType]:
    worst = found.blamed[:WORST]
    if not worst:
        return []
    title = f"Layers with the largest error of their own ({len(found.blamed)} of {len(found.layers)} have one)"
    table = _table("", ("operator", "left"), ("numbers", "left"), ("isolated", "right"), ("accumulated", "right"))
    for layer in worst:
        accumulated = layer.accumulated.sqnr_db if layer.accumulated else None
        table.add_row(
            short(layer.node, 36), layer.operator, layer.numbers, decibel(layer.isolated.sqnr_db), decibel(accumulated)
        )
    return [Text(title, style="bold"), table]  # a table's own title would wrap at the width of the table


def _ledger(report: Report) -> Table:
    table = _table("Coverage", ("nodes", "right"), ("", "left"))
    for outcome, count in summary(report.ledger):
        words = "quantized" if outcome == "done" else explain(outcome)
        example = next((row.node for row in report.ledger if row.reason == outcome), "")
        table.add_row("done" if outcome == "done" else f"skipped: {outcome}", str(count), words)
        if example:
            table.add_row("", "", Text(f"e.g. {short(example, 56)}", style="dim"))
    return table


def _table(title: str, *columns: tuple[str, str], width: int | None = None) -> Table:
    """A plain table: a rule under the headings, no frame; the first column is for names."""
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", pad_edge=False)
    table.show_header = any(heading for heading, _ in columns)
    table.add_column("", min_width=width)
    for heading, side in columns:
        table.add_column(heading, justify=side, no_wrap=side == "right")
    return table
