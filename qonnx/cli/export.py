"""qonnx export."""

from __future__ import annotations

import argparse
import json
import pathlib

from rich.markup import escape

from qonnx.cli.parser import Parser
from qonnx.cli.screen import screen, table
from qonnx.encodings import VERSIONS, encode
from qonnx.exports import VARIANTS, export
from qonnx.records import to_plain
from qonnx.wording import size

USAGE = "MODEL [-o FOLDER] [options]"
EXAMPLE = """Exit code 1 when a variant that was asked for cannot be.

Examples:
  qonnx export model.quant.onnx                          every variant, beside the model
  qonnx export model.quant.onnx --variant inlined -o deploy/
  qonnx export model.quant.onnx --encodings -o qnn/       then: qairt-converter --quantization_overrides …"""


def arguments(parser: Parser) -> None:
    parser.add_argument("model", help="a converted model, an .onnx file")
    parser.add_argument("-o", "--output", type=pathlib.Path, metavar="FOLDER", help="where to (default: beside it)")
    parser.add_argument("--variant", action="append", choices=list(VARIANTS), help="only this one; may be repeated")
    parser.add_argument(
        "--encodings",
        nargs="?",
        const=VERSIONS[0],
        choices=VERSIONS,
        help="write a float model and its grids as AIMET and QNN read them, in place of variants",
    )
    parser.add_argument("-f", "--force", action="store_true", help="overwrite files that exist")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON instead of a table")


def run(options: argparse.Namespace) -> int:
    folder = options.output or pathlib.Path(options.model).parent
    if options.encodings:
        return _encodings(options, folder)
    rows = export(options.model, folder, options.variant, force=options.force)
    if options.as_json:
        print(json.dumps(to_plain(rows), indent=1, ensure_ascii=False))
    else:
        shown = table("variant", "file", ">size", ">in memory", ">elsewhere", "for", "price")
        for row in rows:
            told = [size(count) for count in (row.bytes, row.memory, row.memory_portable)]
            price = f"[red]not written: {escape(row.refused)}[/]" if row.refused else escape("; ".join(row.prices))
            shown.add_row(row.variant, escape(row.file), *told, VARIANTS[row.variant].readers, price)
        console = screen()
        console.print(shown)
        console.print("[dim]in memory: weights in ONNX Runtime with our library; elsewhere: without it[/]")
    return 1 if options.variant and any(row.refused for row in rows) else 0


def _encodings(options: argparse.Namespace, folder: pathlib.Path) -> int:
    made = encode(options.model, folder, version=options.encodings, force=options.force)
    if options.as_json:
        print(json.dumps(to_plain(made), indent=1, ensure_ascii=False))
        return 0
    console = screen()
    console.print(f"{escape(str(made.file))}: grids of {made.activations} activations and {made.weights} weights")
    console.print(f"{escape(str(made.model))}: the float model that they speak of")
    for name in made.missing[:20]:
        console.print(f"[yellow]! no grid for '{escape(name)}', which a product or convolution reads[/]")
    return 0
