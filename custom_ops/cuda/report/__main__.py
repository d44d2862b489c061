"""Compiles CUDA kernels and writes the report: `python -m qonnx.custom_ops.cuda.report rows.cu:80 gather.cu:90 …`.

Every FILE:ARCHITECTURE is compiled anew (`all`: each file for each architecture; some ten minutes), its numbers go to
kernels.json; report.md is written from that file.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from qonnx.custom_ops.cuda.report.compiled import (
    ARCHITECTURES,
    KINDS,
    SOURCES,
    USUAL,
    Kernel,
    compile_kernels,
    load,
    store,
)
from qonnx.custom_ops.cuda.report.roofline import (
    CARDS,
    COLUMNS,
    FORMS,
    OUTPUTS,
    ROWS,
    Card,
    estimate,
    executed,
    usual_kernel,
)
from qonnx.custom_ops.cuda.report.work import Packed, Work, resident

WRITTEN = pathlib.Path(__file__).with_name("report.md")
_MOST_MOVED, _LEAST_ARITHMETIC, _FEW, _MANY = 1.1, 0.7, 16, 256


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def registers_table(kernels: Sequence[Kernel]) -> str:
    """A row for each file, a column for each architecture: kernels, their registers, bytes of local memory."""

    def cell(source: str, architecture: int) -> str:
        group = [k for k in kernels if (k.source, k.architecture) == (source, architecture)]
        if not group:
            return "–"
        registers = sorted(k.registers for k in group)
        return f"{len(group)}: {registers[0]}–{registers[-1]}, {sum(k.local for k in group)} B"

    rows = [[source, *(cell(source, a) for a in ARCHITECTURES)] for source in (*SOURCES, USUAL)]
    return _table(["file", *(f"sm_{a}" for a in ARCHITECTURES)], rows)


def instruction_table(kernels: Sequence[Kernel], architecture: int) -> str:
    rows = []
    for source in SOURCES:
        group = [k.instructions for k in kernels if (k.source, k.architecture) == (source, architecture)]
        if group:
            rows.append([source, *(str(sum(mix[kind] for mix in group)) for kind in ("all", *KINDS))])
    return _table(["file", "all", *KINDS], rows)


def loop_table(kernels: Sequence[Kernel]) -> str:
    """The usual products: registers, blocks that a processor holds, and instructions of a round of the main loop."""
    rows = []
    for form in (FORMS[0], FORMS[1], FORMS[4], FORMS[5]):
        for tokens in (1, 16, 256):
            cells = []
            for card in CARDS:
                work = Work(Packed(form, OUTPUTS, COLUMNS), tokens, card.processors, card.block_shared)
                kernel = usual_kernel(list(kernels), work, card.architecture)
                if kernel is None:
                    cells.append("–")
                    continue
                held = resident(kernel.registers, work.threads, work.block_bytes,
                                processor_shared=card.processor_shared, most_threads=card.most_threads)  # fmt: skip
                shared, loop = work.block_bytes / 1024, executed(kernel, work)
                cells.append(f"{kernel.registers} registers, {shared:.0f} KB, {held} blocks, {loop:.0f}")
            rows.append([form.name, str(tokens), *cells])
    return _table(["weight", "M", *(card.name for card in CARDS)], rows)


def roofline_table(card: Card, kernels: Sequence[Kernel]) -> str:
    parts = ("memory", "L2 cache", "shared memory", "tensor cores", "issue")
    rows = []
    for form in FORMS:
        for tokens in ROWS:
            found = estimate(card, form, tokens, list(kernels))
            times = [f"{found.seconds[part] * 1e6:.1f}" if part in found.seconds else "–" for part in parts]
            goal = ""
            if tokens <= _FEW:
                share = found.time / found.seconds["memory"] * found.moved
                goal = f"{share:.2f}× the least" if share <= _MOST_MOVED else f"**{share:.2f}×** the least"
                if share > _MOST_MOVED:
                    goal += f", {found.time / found.least:.2f}× what looking up allows"
            elif tokens == _MANY:
                share = found.arithmetic
                goal = f"{share:.2f} of the peak" if share >= _LEAST_ARITHMETIC else f"**{share:.2f}** of the peak"
                if card.reached < 1:
                    goal += f", {found.issuable:.2f} of what mma.sync can issue"
            rows.append([form.name, str(tokens), f"{found.work.regime}, {found.work.splits}", str(found.work.launches),
                         f"{found.moved:.3f}", *times, found.bound, goal])  # fmt: skip
    return _table(["weight", "M", "regime, splits", "launches", "moved / least", *parts, "bound", "goal"], rows)


def report(kernels: Sequence[Kernel]) -> str:
    """report.md."""
    head = WRITTEN.with_name("report.head.md").read_text(encoding="utf-8").format(columns=COLUMNS, outputs=OUTPUTS)
    parts = [head, "## Registers and local memory", registers_table(kernels)]
    parts += ["## Instructions for sm_80", instruction_table(kernels, 80), "## Main loops of the usual products"]
    parts.append(loop_table(kernels))
    for card in CARDS:
        parts += [f"## {card.name}, estimated", roofline_table(card, kernels)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main(arguments: Sequence[str]) -> None:
    if list(arguments) == ["all"]:
        arguments = [f"{source}:{a}" for source in (*SOURCES, USUAL) for a in ARCHITECTURES]
    for argument in arguments:
        source, _, architecture = argument.partition(":")
        found = compile_kernels(source, int(architecture or 80))
        store(found)
        print(f"{argument}: {len(found)} kernels, {sum(k.local for k in found)} bytes of local memory", flush=True)
    WRITTEN.write_text(report(load()), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
