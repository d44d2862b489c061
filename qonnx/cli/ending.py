"""How convert and check end: the report is shown and written, broken bounds go to stderr and into the exit code."""

from __future__ import annotations

import sys

from qonnx.cli.screen import screen
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
