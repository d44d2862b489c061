"""Prints the table of compiled kernels: `python -m qonnx.custom_ops.cuda.report rows.cu:80 gather.cu:90 …`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from qonnx.custom_ops.cuda.report.compiled import CUDA, KINDS, Kernel, compile_kernels


def table(kernels: Sequence[Kernel]) -> str:
    """A row for each file and architecture, in Markdown: sums of its kernels, and the largest."""
    lines = [
        "| file | architecture | kernels | registers | bytes of local memory | " + " | ".join(KINDS) + " |",
        "|" + "---|" * (5 + len(KINDS)),
    ]
    for source, architecture in dict.fromkeys((k.source, k.architecture) for k in kernels):
        group = [k for k in kernels if (k.source, k.architecture) == (source, architecture)]
        registers = f"{min(k.registers for k in group)} to {max(k.registers for k in group)}"
        mixes = [k.instructions for k in group if k.instructions is not None]
        counts = [str(sum(mix[kind] for mix in mixes)) if mixes else "?" for kind in KINDS]
        cells = [source, f"sm_{architecture}", str(len(group)), registers, str(sum(k.local for k in group)), *counts]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    wanted = [argument.partition(":") for argument in arguments]
    wanted = wanted or [(path.name, ":", "80") for path in sorted(CUDA.glob("*.cu")) if path.name != "runtime.cu"]
    kernels = [k for source, _, architecture in wanted for k in compile_kernels(source, int(architecture or 80))]
    print(table(kernels))


if __name__ == "__main__":
    main(sys.argv[1:])
