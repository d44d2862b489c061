"""qonnx convert."""

from __future__ import annotations

import argparse
import pathlib
import sys

from qonnx.cli.parser import Parser, add_data, add_settings, given_settings
from qonnx.cli.progress import ticking
from qonnx.cli.screen import screen
from qonnx.convert import convert
from qonnx.errors import QonnxError
from qonnx.report_terminal import print_report
from qonnx.settings import OUTPUT_SUFFIX, Settings

EXAMPLE = """Names take exact values, globs ('*attn*') or 're:EXPRESSION'.
Exit codes: 0 done; 1 a bound does not hold or nothing was quantized; 2 bad input.

Examples:
  qonnx convert model.onnx
  qonnx convert model.onnx --data images/ --preprocess imagenet --target tensorrt -o model.trt.onnx
  qonnx convert model.onnx --data calibration.npz --min-sqnr 30 --report report.html"""


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
    if options.data is None and settings.recipe is None and settings.stats is None and not settings.quiet:
        print("no --data: quantizing weights only, to 8 bits (pass --data for 8-bit activations)", file=sys.stderr)
    with ticking(quiet=settings.quiet) as progress:
        result = convert(options.model, data=options.data, settings=settings, progress=progress)
    for path in (settings.report, settings.json):
        if path is not None and not settings.dry_run:
            result.report.write(path)
    if not settings.quiet:
        print_report(result.report, screen())
    for sentence in result.report.broken:
        print(f"qonnx: {sentence}", file=sys.stderr)
    return 1 if result.report.broken else 0
