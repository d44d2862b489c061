"""qonnx convert."""

from __future__ import annotations

import argparse
import pathlib
import sys

from qonnx.cli.convert_folder import run_folder
from qonnx.cli.ending import finish, show_plan
from qonnx.cli.parser import Parser, add_data, add_settings, given_settings
from qonnx.cli.progress import ticking
from qonnx.conversion import convert
from qonnx.errors import QonnxError
from qonnx.settings import OUTPUT_SUFFIX, Settings

USAGE = "MODEL [options]"
EXAMPLE = """Names take exact values, globs ('*attn*') or 're:EXPRESSION'.
Exit codes: 0 done; 1 a bound does not hold or nothing was quantized; 2 bad input.

Examples:
  qonnx convert model.onnx
  qonnx convert model.onnx --data images/ --preprocess imagenet --target tensorrt -o model.trt.onnx
  qonnx convert model.onnx --data calibration.npz --min-sqnr 30 --report report.html
  qonnx convert model.onnx --data calibration.npz --size 12MB
  qonnx convert exported/ -o quantized/     every model of a folder, and the files beside them"""


def arguments(parser: Parser) -> None:
    parser.add_argument("model", nargs="?", help="the float model, an .onnx file or a folder that holds some")
    add_data(parser)
    add_settings(parser)


def run(options: argparse.Namespace) -> int:
    if options.model is None:
        raise QonnxError("no model given; name it before the options, as in: qonnx convert model.onnx --data images/")
    given = given_settings(options)
    model = pathlib.Path(options.model)
    folder = model.is_dir()
    given.setdefault("output", f"{model.resolve().name}.quant" if folder else model.stem + OUTPUT_SUFFIX)
    settings = Settings(**given)
    alone = options.data is None and settings.stats is None and settings.recipe is None and not settings.budgeted
    if alone and not settings.quiet:
        notice = f"no --data: quantizing weights only, to {settings.bits or 8} bits"
        print(f"{notice} (pass --data for 8-bit activations)", file=sys.stderr)
    if folder:
        return run_folder(model, options.data, settings)
    with ticking(quiet=settings.quiet) as progress:
        result = convert(options.model, data=options.data, settings=settings, progress=progress)
    if settings.dry_run and not settings.quiet:
        show_plan(result.report)
        return 0
    return finish(result.report, settings)
