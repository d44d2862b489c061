"""qonnx inspect."""

from __future__ import annotations

import argparse
import json

from rich.markup import escape

from qonnx.cli.parser import Parser
from qonnx.cli.screen import screen, table
from qonnx.inspect_terminal import render
from qonnx.inspection import inspect
from qonnx.model import load, nodes
from qonnx.selection import check_patterns, first_match, names

USAGE = "MODEL [options]"
EXAMPLE = """Examples:
  qonnx inspect model.onnx
  qonnx inspect model.onnx --nodes '*attn*'      names for --nodes-to-exclude"""


def arguments(parser: Parser) -> None:
    parser.add_argument("model", help="an .onnx file")
    parser.add_argument(
        "--nodes", nargs="?", const="*", metavar="NAME", help="list the nodes (exact name, glob or re:…)"
    )
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON instead of tables")


def run(options: argparse.Namespace) -> int:
    if options.nodes is not None:
        _show_nodes(options.model, options.nodes, options.as_json)
        return 0
    found = inspect(options.model)
    if options.as_json:
        print(found.to_json(), end="")
    else:
        render(found, screen())
    return 0


def _show_nodes(path: str, pattern: str, as_json: bool) -> None:
    """The nodes whose name, or the name of one of their outputs, matches."""
    everyone = list(nodes(load(path)))
    check_patterns("--nodes", [pattern], [name for node in everyone for name in names(node)])
    chosen = [node for node in everyone if first_match([pattern], names(node))]
    if as_json:
        rows = [
            {"name": node.name, "operator": node.op_type, "outputs": [v.name for v in node.outputs]} for node in chosen
        ]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    rows = table("node", "operator", "outputs")
    for node in chosen:
        rows.add_row(
            escape(node.name or ""), node.op_type, escape(", ".join(value.name or "" for value in node.outputs))
        )
    screen().print(rows)
