"""qonnx targets."""

from __future__ import annotations

import argparse
import json

from qonnx.cli.parser import Parser
from qonnx.cli.screen import screen, table
from qonnx.linter import RULES
from qonnx.records import to_plain
from qonnx.targets import TARGETS, Target, target
from qonnx.targets.explain import numbers, sentences

USAGE = "[NAME] [options]"
EXAMPLE = "Example: qonnx targets tensorrt"


def arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", help="show what this target demands")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON instead of a table")


def run(options: argparse.Namespace) -> int:
    chosen = [target(options.name)] if options.name else list(TARGETS.values())
    if options.as_json:
        print(json.dumps([to_plain(one) for one in chosen], indent=1, ensure_ascii=False))
    elif options.name:
        _show(chosen[0])
    else:
        rows = table("target", "runtime", "activations", "weights", "bias", "opset")
        for one in chosen:
            opset = f"{one.opset[0]}–{one.opset[1]}"
            rows.add_row(one.name, one.title, numbers(one.activation), numbers(one.weight), one.bias, opset)
        screen().print(rows)
    return 0


def _show(one: Target) -> None:
    console = screen()
    console.print(f"[bold]{one.name}[/]  {one.title}")
    if one.advice:
        console.print(one.advice)
    console.print()
    rows = table("", "")
    for topic, sentence in sentences(one):
        rows.add_row(topic, sentence)
    console.print(rows)
    if one.forbid:
        console.print("\nChecked by [bold]qonnx lint[/], besides what is wrong everywhere:")
        rows = table("", "")
        for name in one.forbid:
            rows.add_row(name, RULES[name].summary)
        console.print(rows)
