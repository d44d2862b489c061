"""Kernels as the CUDA toolkit compiles them: registers and local memory by ptxas, instructions by cuobjdump."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

from qonnx.errors import QonnxError

CUDA = pathlib.Path(__file__).parents[1]
STORED = pathlib.Path(__file__).with_name("kernels.json")
ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100, 120)
SOURCES = sorted(path.name for path in CUDA.glob("*.cu") if path.name != "runtime.cu")
USUAL = "report/usual.cu"  # products whose main loops hold only what they execute

_ENTRY = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores.*?Used (\d+) registers", re.S
)
_INSTRUCTION = re.compile(r"^ +/\*([0-9a-f]{4,})\*/ +(?:@!?U?P\w+ +)?([A-Z][\w.]*) *([^;]*);")
# What is counted, by the beginning of an instruction's name.
KINDS = {
    "tensor core": ("HMMA", "IMMA"),
    "16-byte copies": ("LDGSTS.E.BYPASS.128", "LDG.E.128"),
    "other global loads": ("LDG.E",),
    "shared loads": ("LDS",),
    "local memory": ("LDL", "STL"),
}
_REGIMES = {  # template arguments of Tile behind the codes
    "lowbit": {(1, 4, 4, 1, 4): "few", (1, 4, 4, 2, 4): "some", (4, 1, 2, 8, 3): "many"},
    "codebook": {(2, 4, 4, 1, 4): "few", (2, 4, 4, 2, 3): "some", (4, 2, 2, 8, 3): "many", (2, 2, 1, 2, 2): "lean"},
}
_MATH = ("float16", "bfloat16", "int8")
_ELEMENTS = ("float32", "float16", "bfloat16", "uint8", "int8", "uint4", "int4")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kernel for one architecture.

    Attributes:
        local: bytes of stack and spills. instructions: how many of each of KINDS, and of `all`.
        loop: instructions of the main loop, each inner one once; 0 without one.
        inner: of them in loops inside of it that read code books; of sums, in the loop that makes them.
        rare: of them those that a warp skips but at the end of a group of columns: scales, and sums into memory.
        twice: of them those of which a round executes one half or the other: products that begin anew or go on.
        copying: of them in loops over scales and the like, which only the first warps have something to do in.
    """

    source: str
    name: str
    architecture: int
    registers: int
    local: int
    instructions: dict[str, int]
    loop: int = 0
    inner: int = 0
    rare: int = 0
    twice: int = 0
    copying: int = 0


def compile_kernels(source: str, architecture: int) -> list[Kernel]:
    """Every kernel of custom_ops/cuda/`source`, compiled for sm_`architecture`.

    The kernels ask only whether tensor cores are of compute capability 8.0: PTX for 7.5 and 8.0 serves all.

    Raises:
        QonnxError: nvcc, ptxas or cuobjdump is missing or refuses the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        ptx, made = pathlib.Path(folder) / "kernels.ptx", pathlib.Path(folder) / "kernels.cubin"
        ptx.write_text(_ptx(source, min(architecture, 80)), encoding="utf-8")
        log = _run(["ptxas", "-v", "-O3", f"-arch=sm_{architecture}", "-o", made, ptx]).stderr
        return kernels_of(source, architecture, log, _run(["cuobjdump", "-sass", made]).stdout)


@functools.lru_cache(2)  # of one file: its architectures come one after the other
def _ptx(source: str, virtual: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        made = pathlib.Path(folder) / "kernels.ptx"
        _run(["nvcc", "-std=c++20", "-O3", f"-arch=compute_{virtual}", "-ptx", "-o", made, CUDA / source])
        return made.read_text(encoding="utf-8")


def _run(command: list) -> subprocess.CompletedProcess[str]:
    tool = shutil.which(command[0], path=f"{os.environ.get('PATH', '')}:/usr/local/cuda/bin")
    if tool is None:
        raise QonnxError(f"{command[0]} is not installed; install the CUDA toolkit and put it on the PATH")
    done = subprocess.run([tool, *command[1:]], capture_output=True, text=True)
    if done.returncode:
        raise QonnxError(f"{command[0]} does not take {command[-1]}: {done.stderr.strip()[-500:]}")
    return done


def kernels_of(source: str, architecture: int, log: str, sass: str) -> list[Kernel]:
    """The kernels that a log of `ptxas -v` speaks of, with their SASS as cuobjdump prints it."""
    bodies: dict[str, list[tuple[int, str, str]]] = collections.defaultdict(list)
    name = ""
    for line in sass.splitlines():
        if "Function :" in line:
            name = line.split(":")[1].strip()
        elif found := _INSTRUCTION.match(line):
            bodies[name].append((int(found[1], 16), found[2], found[3]))
    return [
        Kernel(source, name_of(entry), architecture, int(registers), int(stack) + int(spills), mix_of(bodies[entry]),
               *loop_of(bodies[entry], "CodebookCodes" in entry))
        for entry, stack, spills, registers in _ENTRY.findall(log)
    ]  # fmt: skip


def mix_of(body: list[tuple[int, str, str]]) -> dict[str, int]:
    """How many instructions of each of KINDS stand in a kernel, and `all`; each is counted once."""
    counts = dict.fromkeys(("all", *KINDS), 0)
    for _, instruction, _ in body:
        counts["all"] += 1
        kind = next((kind for kind, beginnings in KINDS.items() if instruction.startswith(beginnings)), None)
        if kind:
            counts[kind] += 1
    return counts


def loop_of(body: list[tuple[int, str, str]], books: bool = False) -> tuple[int, int, int, int, int]:
    """Kernel.loop, inner, rare, twice and copying; with `books` the first loop that copies is all warps' own.

    The main loop is the largest with tensor-core instructions, or, of sums that are looked up, the largest.
    """
    place = {address: i for i, (address, _, _) in enumerate(body)}
    jumps = []
    for i, (_, instruction, arguments) in enumerate(body):
        target = re.search(r"0x([0-9a-f]+)", arguments)
        if instruction.startswith("BRA") and target and int(target[1], 16) in place:
            jumps.append((i, place[int(target[1], 16)]))

    def has(span: tuple[int, int], *names: str) -> bool:
        return any(name.startswith(names) for _, name, _ in body[span[0] : span[1] + 1])

    tensor = KINDS["tensor core"]
    back = [(to, i) for i, to in jumps if to < i]
    loops = [span for span in back if has(span, *tensor)]
    looked_up = not loops
    if looked_up:
        loops = [span for span in back if has(span, "LDS") and has(span, "STG")]
    if not loops:
        return 0, 0, 0, 0, 0
    begin, end = max(loops, key=lambda span: span[1] - span[0])
    within = [(a, b) for a, b in back if begin <= a and b <= end and (a, b) != (begin, end)]
    copies = sorted(span for span in within if has(span, "LDGSTS"))[books:]
    inner = [span for span in within if (has(span, "STS") if looked_up else has(span, "LDS") and span not in copies)]
    inner = [span for span in inner if not has(span, "LDGSTS")]
    mark = "STG" if looked_up else "FFMA"  # in the main loop, these stand in what ends a group alone
    skipped = [(i + 1, to - 1) for i, to in jumps if begin < i < to <= end]
    ends = [span for span in skipped if has(span, mark) and not has(span, "LDSM", "LDGSTS", "PRMT", *tensor)]
    other = {i: (i + 1, to - 1) for i, to in jumps if i < to <= end}  # what a jump at the end of a span leaves out
    halves = [(a, other[b][1]) for a, b in skipped if b in other and has((a, b), *tensor) and has(other[b], *tensor)]
    if halves:  # each with its own end, of which one is enough
        ends = [(a, b) for a, b in ends if any(a >= (c + d) // 2 and b <= d for c, d in halves)]
    return (end - begin + 1, *(_length(spans) for spans in (inner, ends, halves, copies)))


def _length(spans: list[tuple[int, int]]) -> int:
    """Instructions in any of them."""
    return sum(b - a + 1 for a, b in _outermost(spans))


def _outermost(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    spans = list(dict.fromkeys(spans))
    return [(a, b) for a, b in spans if not any(c <= a and b <= d and (a, b) != (c, d) for c, d in spans)]


def name_of(mangled: str) -> str:
    """A kernel's name and what it is compiled for, in words."""
    low = re.search(r"LowBitCodesILi(\d+)ELb([01])ELNS\w*?4MathE(\d)E+((?:Li\d+E)+)", mangled)
    book = re.search(r"CodebookCodesILi(\d+)ELNS\w*?4MathE(\d)E+((?:Li\d+E)+)", mangled)
    sums = re.search(r"SumsShapeILi(\d+)ELNS\w*?4MathE(\d)ELi(\d)ELi(\d+)E", mangled)
    if sums:
        return f"vectors of {sums[1]}, {_MATH[int(sums[2])]}, sums of {sums[4]} bytes, M = {sums[3]}"
    if low:
        form = "16-entry table" if low[2] == "1" else f"{low[1]} bits"
        return f"{form}, {_MATH[int(low[3])]}, {_regime('lowbit', low[4])}"
    if book:
        kind = re.search(r"5BooksE(\d)E", mangled)
        of = ("", ", wide", ", cached")[int(kind[1]) if kind else 0]
        return f"vectors of {book[1]}, {_MATH[int(book[2])]}, {_regime('codebook', book[3])}{of}"
    name = re.search(r"\d([a-z][a-z_]*_kernel)", mangled)
    if name is None:
        raise QonnxError(f"'{mangled}' is no kernel of this folder")
    elements = [_ELEMENTS[int(i)] for i in re.findall(r"7ElementE(\d)E", mangled)]
    flags = re.findall(r"Lb([01])E|(?:Math|Rounding)E(\d)E", mangled)
    return " ".join([name[1].removesuffix("_kernel"), *elements, *("".join(flag) for flag in flags)])


def _regime(weights: str, arguments: str) -> str:
    return _REGIMES[weights][tuple(int(number) for number in re.findall(r"\d+", arguments))]


def load(path: pathlib.Path = STORED) -> list[Kernel]:
    if not path.exists():
        return []
    return [Kernel(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def store(kernels: list[Kernel], path: pathlib.Path = STORED) -> None:
    """Add kernels to those on file; a kernel compiled again takes the place of the old one."""
    kept = {(k.source, k.architecture, k.name): k for k in load(path)}
    again = {(k.source, k.architecture) for k in kernels}
    kept = {key: k for key, k in kept.items() if key[:2] not in again}
    kept |= {(k.source, k.architecture, k.name): k for k in kernels}
    rows = [json.dumps(dataclasses.asdict(kept[key])) for key in sorted(kept)]
    path.write_text("[\n" + ",\n".join(rows) + "\n]\n", encoding="utf-8")
