"""How convert and check end: report or plan are shown and written, broken bounds go to stderr and the exit code."""

from __future__ import annotations

import sys

from rich.markup import escape

from qonnx.cli.screen import screen, table
from qonnx.ledger import explain
from qonnx.report import Report
from qonnx.report_terminal import render
from qonnx.settings import Settings


def finish(report: Report, settings: Settings) -> int:
    """Show and write the report as the settings ask; the exit code."""
    written = [path for path in (settings.report, settings.json) if path is not None and not settings.dry_run]
    for path in written:
        report.write(path)
    if not settings.quiet:
        render(report, screen(), tuple(map(str, written)))  # says what is broken too
    else:
        for sentence in report.broken:
            print(f"qonnx: {sentence}", file=sys.stderr)
    return 1 if report.broken else 0


def show_plan(report: Report) -> None:
    """Every node that could be quantized and what would become of it."""
    rows = table("node", "operator", "plan")
    for row in report.ledger:
        why = f" ({row.detail})" if row.detail else ""
        stays = f"[dim]stays: {explain(row.reason)}{escape(why)}[/]"
        rows.add_row(escape(row.node), row.operator, row.detail if row.state == "done" else stays)
    console = screen()
    console.print(rows)
    done = sum(row.state == "done" for row in report.ledger)
    console.print(f"\n{done} of {len(report.ledger)} nodes would be quantized for {report.target}; nothing was written")
