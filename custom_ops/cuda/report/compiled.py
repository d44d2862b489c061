"""Kernels as nvcc compiled them: registers and local memory by ptxas, instructions by cuobjdump."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

from qonnx.errors import QonnxError

CUDA = pathlib.Path(__file__).parents[1]
_ENTRY = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores.*?Used (\d+) registers", re.S
)
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.M)
# What is counted, by the beginning of an instruction's name.
KINDS = {
    "tensor core": ("HMMA", "IMMA"),
    "wide copies": ("LDGSTS.E.BYPASS.128", "LDG.E.128"),
    "narrow loads": ("LDG.E.U8", "LDG.E.U16"),
    "shared loads": ("LDS", "LDSM"),
    "local memory": ("LDL", "STL"),
}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kernel for one architecture. local: bytes of stack and spills. instructions: how many of each of KINDS.

    `instructions` is None where cuobjdump is not installed.
    """

    source: str
    name: str
    architecture: int
    registers: int
    local: int
    instructions: dict[str, int] | None


def compile_kernels(source: str, architecture: int, *flags: str) -> list[Kernel]:
    """Every kernel of custom_ops/cuda/`source`, compiled for sm_`architecture` with `flags`.

    Raises:
        QonnxError: nvcc is missing or refuses the file.
    """
    nvcc = shutil.which("nvcc", path=f"{os.environ.get('PATH', '')}:/usr/local/cuda/bin")
    if nvcc is None:
        raise QonnxError("nvcc is not installed; install the CUDA toolkit, or its wheels, and put nvcc on the PATH")
    with tempfile.TemporaryDirectory() as folder:
        made = pathlib.Path(folder) / "kernels.o"
        command = [nvcc, "-std=c++20", "-O3", f"-arch=sm_{architecture}", "-Xptxas", "-v", *flags]
        done = subprocess.run([*command, "-c", "-o", made, CUDA / source], capture_output=True, text=True)
        if done.returncode:
            raise QonnxError(f"nvcc does not compile {source} for sm_{architecture}: {done.stderr.strip()[-500:]}")
        mixes = instruction_mixes(made)
    return kernels_of(source, architecture, done.stderr, mixes)


def kernels_of(source: str, architecture: int, log: str, mixes: dict[str, dict[str, int]] | None) -> list[Kernel]:
    """The kernels that a log of `ptxas -v` speaks of."""
    return [
        Kernel(source, name, architecture, int(registers), int(stack) + int(spills), mixes and mixes.get(name))
        for name, stack, spills, registers in _ENTRY.findall(log)
    ]


def instruction_mixes(made: pathlib.Path) -> dict[str, dict[str, int]] | None:
    """How many instructions of each of KINDS each kernel of an object file has; None without cuobjdump."""
    if shutil.which("cuobjdump") is None:
        return None
    text = subprocess.run(["cuobjdump", "-sass", made], capture_output=True, text=True, check=True).stdout
    _, *parts = re.split(r"^\s*Function : (\w+)$", text, flags=re.M)
    return {name: mix_of(body) for name, body in zip(parts[::2], parts[1::2], strict=True)}


def mix_of(sass: str) -> dict[str, int]:
    """How many instructions of each of KINDS stand in a kernel's SASS, and `all`."""
    counts = collections.Counter(_INSTRUCTION.findall(sass))
    mix = {
        kind: sum(n for name, n in counts.items() if name.startswith(beginnings)) for kind, beginnings in KINDS.items()
    }
    return {"all": counts.total(), **mix}
