"""qonnx convert."""

from __future__ import annotations

import argparse
import pathlib
import sys

from rich.markup import escape

from qonnx.cli.ending import finish
from qonnx.cli.parser import Parser, add_data, add_settings, given_settings
from qonnx.cli.progress import ticking
from qonnx.cli.screen import screen, table
from qonnx.conversion import convert
from qonnx.errors import QonnxError
from qonnx.ledger import explain
from qonnx.report import Report
from qonnx.settings import OUTPUT_SUFFIX, Settings

USAGE = "MODEL [options]"
EXAMPLE = """Names take exact values, globs ('*attn*') or 're:EXPRESSION'.
Exit codes: 0 done; 1 a bound does not hold or nothing was quantized; 2 bad input.

Examples:
  qonnx convert model.onnx
  qonnx convert model.onnx --data images/ --preprocess imagenet --target tensorrt -o model.trt.onnx
  qonnx convert model.onnx --data calibration.npz --min-sqnr 30 --report report.html
  qonnx convert model.onnx --data calibration.npz --size 12MB"""


def arguments(parser: Parser) -> None:
    parser.add_argument("model", nargs="?", help="the float model, an .onnx file")
    add_data(parser)
    add_settings(parser)


def run(options: argparse.Namespace) -> int:
    if options.model is None:
        raise QonnxError("no model given; name it before the options, as in: qonnx convert model.onnx --data images/")
    given = given_settings(options)
    given.setdefault("output", pathlib.Path(options.model).stem + OUTPUT_SUFFIX)
    settings = Settings(**given)
    alone = options.data is None and settings.stats is None and settings.recipe is None and not settings.budgeted
    if alone and not settings.quiet:
        notice = f"no --data: quantizing weights only, to {settings.bits or 8} bits"
        print(f"{notice} (pass --data for 8-bit activations)", file=sys.stderr)
    with ticking(quiet=settings.quiet) as progress:
        result = convert(options.model, data=options.data, settings=settings, progress=progress)
    if settings.dry_run and not settings.quiet:
        _show_plan(result.report)
        return 0
    return finish(result.report, settings)


def _show_plan(report: Report) -> None:
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
