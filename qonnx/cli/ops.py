"""qonnx ops."""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil

from rich.markup import escape

import qonnx.custom_ops
from qonnx.cli.parser import Parser
from qonnx.cli.screen import screen, table
from qonnx.custom_ops import library_path
from qonnx.custom_ops.ops import OPS
from qonnx.errors import QonnxError
from qonnx.wording import size

USAGE = "[--copy DIR] [options]"
EXAMPLE = """Example:
  qonnx ops --copy deploy/     the library for session_options.register_custom_ops_library, and the header for C++"""
HEADER = pathlib.Path(qonnx.custom_ops.__file__).with_name("ort_abi.h")


def arguments(parser: Parser) -> None:
    parser.add_argument("--copy", type=pathlib.Path, metavar="DIR", help="copy the native library and its C++ header")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON instead of a table")


def run(options: argparse.Namespace) -> int:
    library = library_path()
    if options.copy is not None:
        return _copy(library, options.copy)
    operators = [op for op in OPS.values() if op.body is not None]
    if options.as_json:
        rows = [{"name": op.name, "inputs": op.inputs, "attributes": op.attributes} for op in operators]
        print(json.dumps({"library": library, "operators": rows}, indent=1, ensure_ascii=False))
        return 0
    rows = table("operator of ai.qonnx", "inputs")
    for op in operators:
        rows.add_row(op.name, ", ".join(op.inputs))
    console = screen()
    console.print(rows)
    console.print(f"native library: {escape(library or 'none; models run by the functions that they carry')}")
    return 0


def _copy(library: str | None, folder: pathlib.Path) -> int:
    """Library and header into `folder`; each is renamed into place, so that a running program keeps its old one."""
    if library is None:
        raise QonnxError("there is no native library to copy; install a C++ compiler and qonnx again (qonnx doctor)")
    folder.mkdir(parents=True, exist_ok=True)
    for source in (pathlib.Path(library), HEADER):
        target = folder / source.name
        temporary = folder / f".{source.name}.new"
        shutil.copyfile(source, temporary)
        temporary.replace(target)
        print(f"{target} ({size(target.stat().st_size)})")
    return 0
