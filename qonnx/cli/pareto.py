"""qonnx pareto."""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib

from rich.markup import escape

from qonnx.cli.parser import Parser, add_data, add_settings, given_settings
from qonnx.cli.progress import ticking
from qonnx.cli.screen import screen, table
from qonnx.errors import QonnxError
from qonnx.pareto import Front, front
from qonnx.pareto_page import render, words
from qonnx.settings import Settings
from qonnx.wording import decibel, percent, size

USAGE = "MODEL --data PATH [options]"
EXAMPLE = """Examples:
  qonnx pareto model.onnx --data calibration.npz
  qonnx pareto model.onnx --data calibration.npz --points 20 --report front.html
  qonnx convert model.onnx --data calibration.npz --size 12MB       # then take a point of it"""
_TAKEN = (
    "target", "recipe", "preprocess", "samples", "seed", "input_shapes", "nodes_to_quantize", "nodes_to_exclude",
    "op_types_to_quantize", "op_types_to_exclude", "block_size", "symmetric", "threads", "custom_op_library", "report",
    "json", "force", "quiet",
)  # fmt: skip


def arguments(parser: Parser) -> None:
    parser.add_argument("model", help="the float model, an .onnx file")
    add_data(parser)
    parser.add_argument("--points", type=int, default=12, metavar="N", help="budgets to solve for (default: 12)")
    add_settings(parser, _TAKEN)


def run(options: argparse.Namespace) -> int:
    settings = Settings(**given_settings(options))
    for path in (settings.report, settings.json):
        if path is not None and path.exists() and not settings.force:
            raise QonnxError(f"'{path}' exists; pass --force to overwrite it or choose another name")
    with ticking(quiet=settings.quiet) as progress:
        found = front(options.model, data=options.data, settings=settings, points=options.points, progress=progress)
    _write(settings.report, render(found))
    _write(settings.json, json.dumps(dataclasses.asdict(found), indent=1, ensure_ascii=False) + "\n")
    if not settings.quiet:
        _show(found)
    return 0


def _show(found: Front) -> None:
    rows = table("file", "bits a weight", "predicted", "measured", "same largest", "formats")
    for point in found.points:
        figures = [size(point.size), f"{point.bits:.2f}", decibel(point.predicted), decibel(point.measured)]
        rows.add_row(*figures, percent(point.agreement), escape(words(point)))
    console = screen()
    console.print(rows)
    console.print(
        f"{found.layers} layers, {found.samples} samples, plain rounding; the float file has {size(found.bytes)}. "
        "Take a point with: qonnx convert --size"
    )


def _write(path: pathlib.Path | None, text: str) -> None:
    if path is not None:
        path.write_text(text, encoding="utf-8")
