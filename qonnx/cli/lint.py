"""qonnx lint."""

from __future__ import annotations

import argparse
import json
from collections import Counter

from rich.markup import escape

from qonnx.cli.parser import Parser
from qonnx.cli.screen import screen, table
from qonnx.errors import QonnxError
from qonnx.linter import RULES, Finding, lint, rule
from qonnx.model import load
from qonnx.records import to_plain
from qonnx.targets import TARGETS, target

USAGE = "MODEL [--target NAME] [options]"
EXAMPLE = """Exit code 1 when there are errors. The model may come from any tool.

Examples:
  qonnx lint model.onnx --target tensorrt
  qonnx lint --rules"""
SHOWN = 5  # findings of one rule that the table lists; --all lists every one
_COLOUR = {"error": "red", "warning": "yellow", "hint": "cyan"}


def arguments(parser: Parser) -> None:
    parser.add_argument("model", nargs="?", help="an .onnx file")
    parser.add_argument("--target", default="ort-cpu", metavar="NAME", help="the runtime (default: ort-cpu)")
    parser.add_argument(
        "--ignore", nargs="+", action="extend", default=[], metavar="RULE", help="leave these rules out"
    )
    parser.add_argument("--all", action="store_true", help=f"list every finding, not the first {SHOWN} of each rule")
    parser.add_argument("--rules", action="store_true", help="list the rules and the targets that they hold on")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON instead of a table")


def run(options: argparse.Namespace) -> int:
    if options.rules:
        _show_rules()
        return 0
    if options.model is None:
        raise QonnxError("no model given; name it, as in: qonnx lint model.onnx --target tensorrt")
    ignored = [name for name in options.ignore if rule(name)]
    where = target(options.target)
    findings = [one for one in lint(load(options.model), where) if one.rule not in ignored]
    if options.as_json:
        print(json.dumps([to_plain(one) for one in findings], indent=1, ensure_ascii=False))
    else:
        _show(findings, where.title, options.all)
    return 1 if any(one.severity == "error" for one in findings) else 0


def _show(findings: list[Finding], title: str, everything: bool) -> None:
    console = screen()
    counts = Counter(one.rule for one in findings)
    for name in dict.fromkeys(one.rule for one in findings):
        mine = [one for one in findings if one.rule == name]
        colour = _COLOUR[mine[0].severity]
        console.print(f"[bold {colour}]{mine[0].severity}[/] [bold]{name}[/]  {RULES[name].summary}")
        rows = table("", "", "")
        for one in mine if everything else mine[:SHOWN]:
            rows.add_row("  " + one.operator, escape(one.node), escape(one.sentence))
        console.print(rows)
        if len(mine) > SHOWN and not everything:
            console.print(f"  [dim]… and {len(mine) - SHOWN} more (--all)[/]")
        console.print(f"  [dim]→ {mine[0].remedy}[/]\n")
    levels = Counter(one.severity for one in findings)
    said = ", ".join(f"{count} {level}{'s' if count > 1 else ''}" for level, count in levels.items())
    console.print(f"{title}: {said or 'nothing found'}" + (f" ({len(counts)} rules)" if len(counts) > 1 else ""))


def _show_rules() -> None:
    rows = table("rule", "severity", "holds on", "what it finds")
    for name, one in RULES.items():
        targets = [where.name for where in TARGETS.values() if name in where.forbid]
        rows.add_row(
            name,
            f"[{_COLOUR[one.severity]}]{one.severity}[/]",
            "all" if one.everywhere else ", ".join(targets),
            one.summary,
        )
    screen().print(rows)
