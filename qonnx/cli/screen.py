"""What the verbs print with: one console and one kind of table, plain enough to read in a log."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

LOG_WIDTH = 120  # columns where there is no terminal that has a width


def screen() -> Console:
    """A console on stdout, as wide as the terminal."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)


def table(*columns: str, title: str = "") -> Table:
    """An empty table without lines; a column whose name starts with ">" is aligned right."""
    rows = Table(box=None, show_header=any(columns), title=title or None, title_justify="left", pad_edge=False)
    for name in columns:
        rows.add_column(
            name.removeprefix(">"),
            justify="right" if name.startswith(">") else "left",
            header_style="bold",
            overflow="fold",
        )
    return rows
