"""qonnx doctor."""

from __future__ import annotations

import argparse
import json

from rich.markup import escape

from qonnx.cli.parser import Parser
from qonnx.cli.screen import screen, table
from qonnx.doctor import diagnose
from qonnx.records import to_plain

USAGE = "[options]"
EXAMPLE = "Exit code 1 when something is broken."
_MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "broken": "[red]broken[/]"}


def arguments(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON instead of a table")


def run(options: argparse.Namespace) -> int:
    lines = diagnose()
    if options.as_json:
        print(json.dumps(to_plain(lines), indent=1, ensure_ascii=False))
    else:
        rows = table("", "", "")
        for line in lines:
            remedy = f"\n[dim]→ {escape(line.remedy)}[/]" if line.remedy else ""
            rows.add_row(_MARKS[line.state], line.subject, escape(line.found) + remedy)
        screen().print(rows)
    return 1 if any(line.state == "broken" for line in lines) else 0
