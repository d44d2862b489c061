"""qonnx demo."""

from __future__ import annotations

import argparse
import pathlib

from rich.markup import escape

from qonnx.cli.parser import Parser, add_data
from qonnx.cli.screen import screen
from qonnx.data import open_data
from qonnx.demo_folder import SAMPLES, photograph, write_demo
from qonnx.errors import QonnxError
from qonnx.model import load
from qonnx.preprocess import preprocess
from qonnx.wording import decibel, size

USAGE = "FLOAT RESULT --data PATH -o FOLDER [options]"
EXAMPLE = """Example:
  qonnx demo model.onnx model.quant.onnx --data images/ --preprocess imagenet -o demo/ --screenshot demo.png
  python -m http.server -d demo/       then open http://localhost:8000"""


def arguments(parser: Parser) -> None:
    parser.add_argument("reference", help="the float model")
    parser.add_argument("result", help="the quantized model")
    add_data(parser)
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument("-f", "--force", action="store_true", help="write into a folder that is not empty")
    parser.add_argument("--preprocess", metavar="NAME", help="how images become inputs; lets visitors choose images")
    parser.add_argument("--labels", type=pathlib.Path, metavar="FILE", help="names of classes, one a line")
    parser.add_argument("--vocabulary", type=pathlib.Path, metavar="FILE", help="tokens of a text model, one a line")
    parser.add_argument("--node-modules", type=pathlib.Path, metavar="FOLDER", help="where npm packages are")
    parser.add_argument("--screenshot", type=pathlib.Path, metavar="FILE", help="run it headless, save a picture")


def run(options: argparse.Namespace) -> int:
    if options.data is None:
        raise QonnxError("the page starts with samples; give --data")
    data = open_data(options.data, load(options.reference), preprocess=options.preprocess, limit=SAMPLES)
    made = write_demo(
        options.reference,
        options.result,
        data,
        options.output,
        preprocess=preprocess(options.preprocess) if options.preprocess else None,
        labels=_lines(options.labels),
        vocabulary=_lines(options.vocabulary),
        node_modules=options.node_modules,
        force=options.force,
    )
    console = screen()
    console.print(f"{escape(str(made.folder))}: {size(made.bytes)}, outputs shown as {made.view}")
    if options.screenshot:
        found = photograph(options.output, options.screenshot)
        times = " and ".join(f"{row['name'].lower()} {row['ms']:.0f} ms" for row in found["rows"])
        apart = "equal" if found["sqnr_db"] is None else f"{decibel(found['sqnr_db'])} apart"
        console.print(f"in the browser: {times}, outputs {apart}; picture in {escape(str(options.screenshot))}")
    console.print(f"[dim]python -m http.server -d {escape(str(made.folder))}[/]")
    return 0


def _lines(file: pathlib.Path | None) -> tuple[str, ...]:
    return () if file is None else tuple(file.read_text(encoding="utf-8").splitlines())
