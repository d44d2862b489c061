"""qonnx check --runtime: the table of runtimes, and the bounds on it."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Sequence

from rich.markup import escape

from qonnx.cli.screen import screen, table
from qonnx.everywhere import RuntimeRow
from qonnx.records import to_plain
from qonnx.wording import decibel, duration, percent, plain, size


def show(rows: Sequence[RuntimeRow]) -> None:
    """Print one line a runtime; what is missing or failed, with the remedy or the reason."""
    shown = table("runtime", "loads", ">SQNR", ">max error", ">top-1", ">vs float", ">latency", ">memory", "made of it")
    for row in rows:
        if row.state != "ran":
            colour = "red" if row.state == "failed" else "yellow"
            shown.add_row(row.runtime, f"[{colour}]{row.state}[/]", *[""] * 6, escape(row.note))
            continue
        figures = [decibel(row.agreement.sqnr_db), plain(row.agreement.max_abs), percent(row.top1)]
        figures += [decibel(row.float_sqnr_db), duration(row.seconds), size(row.memory)]
        shown.add_row(row.runtime, "yes", *figures, escape(row.fused) or "[dim]it does not tell[/]")
    console = screen()
    console.print(shown)
    for row in (row for row in rows if row.reason):
        console.print(f"{row.runtime}, every operator on its own: {escape(str(row.reason))}.")
    console.print("[dim]SQNR, max error, top-1: against ONNX Runtime node by node; latency: median of one sample[/]")


def broken(rows: Sequence[RuntimeRow], least: float | None, largest_drop: float | None) -> list[str]:
    """Sentences: runtimes that fail, differ by more than `least` dB, or choose differently more often than allowed."""
    found = [f"{row.runtime} does not run the model: {row.note}" for row in rows if row.state == "failed"]
    for row in rows:
        if row.state != "ran":
            continue
        if least is not None and not row.agreement.sqnr_db >= least:
            found.append(f"{row.runtime}: SQNR is {row.agreement.sqnr_db:.2f} dB; the bound is {least:g} dB")
        if largest_drop is not None and row.top1 is not None and not 1 - row.top1 <= largest_drop:
            found.append(f"{row.runtime}: top-1 disagreement is {1 - row.top1:.4f}; the bound is {largest_drop:g}")
    return found


def finish(rows: Sequence[RuntimeRow], sentences: Sequence[str], file: pathlib.Path | None, quiet: bool) -> int:
    """Show, write, and say what is broken; the exit code."""
    if file is not None:
        file.write_text(json.dumps(to_plain(rows), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if not quiet:
        show(rows)
    for sentence in sentences:
        print(f"qonnx: {sentence}", file=sys.stderr)
    return 1 if sentences else 0
