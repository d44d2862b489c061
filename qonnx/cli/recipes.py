"""qonnx recipes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys

from qonnx.cli.parser import Parser
from qonnx.cli.screen import screen, table
from qonnx.passes import PASSES
from qonnx.recipe import INJECTED, RECIPES, Recipe, recipe

USAGE = "[NAME] [options]"
EXAMPLE = "Example: qonnx recipes static-w8a8 --toml > mine.toml, then edit it and pass --recipe mine.toml to convert"


def arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", help="show this recipe (a preset, or a .toml file)")
    parser.add_argument("--toml", action="store_true", help="print the recipe as TOML, to start one of your own")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON instead of a table")


def run(options: argparse.Namespace) -> int:
    chosen = [recipe(options.name)] if options.name else [recipe(name) for name in RECIPES]
    if options.as_json:
        print(json.dumps({one.name: one.to_dict() for one in chosen}, indent=1, ensure_ascii=False))
    elif options.toml:
        print("\n".join(one.to_toml() for one in chosen), end="")
    elif options.name:
        _show(chosen[0])
    else:
        rows = table("recipe", "what it makes", "data")
        for one in chosen:
            rows.add_row(one.name, one.title, "needed" if one.needs_data else "not needed")
        screen().print(rows)
    return 0


def _show(one: Recipe) -> None:
    console = screen()
    console.print(f"[bold]{one.name}[/]  {one.title}; {'needs' if one.needs_data else 'needs no'} data\n")
    rows = table("pass", "what it does", "options")
    for step in one.steps:
        rows.add_row(step.name, first_line(step.name), _options(step.name, step.options))
    console.print(rows)


def first_line(name: str) -> str:
    """What a pass does: the first line of its file, without the pass's name in front ("Tidy: sort the graph …")."""
    line = (sys.modules[PASSES[name].__module__].__doc__ or "").strip().partition("\n")[0]
    head, _, rest = line.partition(": ")
    if rest and re.split("[_ ]", head.lower())[0] == name.split("_")[0]:
        line = rest
    return line[:1].upper() + line[1:]


def _options(name: str, given: dict) -> str:
    """`option=value` for every option of the pass, those that the recipe sets in bold."""
    shown = []
    for field in dataclasses.fields(PASSES[name]):
        if field.name in given:
            shown.append(f"[bold]{field.name}={given[field.name]}[/]")
        elif field.name not in INJECTED and field.default is not dataclasses.MISSING:
            shown.append(f"[dim]{field.name}={field.default}[/]")
    return "  ".join(shown)
