"""Operator cases as files for tests/native/run_cases.cpp: written, run by a command, read back and judged.

Sanitizer builds and other processors run them without Python.
"""

from __future__ import annotations

import pathlib
import struct
import subprocess
from collections.abc import Iterable, Sequence

import ml_dtypes
import numpy as np
import onnx_ir as ir

from qonnx.custom_ops import ops
from tests.operator_cases import EXAMPLES, Case, Size, disagreement, model_of
from tests.operator_worker import outcome

ROOT = pathlib.Path(__file__).parents[1]

# One panel and several, whole and not; one row, tiles of rows, none; each type; with and without a low-rank branch.
SIZES = (
    Size(rows=32, columns=64, lead=(1,), kind=3),
    Size(rows=70, columns=130, lead=(9,), kind=1, block=48, rank=7),
    Size(rows=33, columns=96, lead=(2, 3), kind=10, dtype=np.float16, wide_bias=False, rank=33),
    Size(rows=40, columns=200, lead=(17,), kind=11, dtype=ml_dtypes.bfloat16, block=16),
    Size(rows=5, columns=1100, lead=(3,), kind=4, block=1100),
    Size(rows=31, columns=64, lead=(0,), kind=5),
    Size(rows=64, columns=160, lead=(4,), kind=12, block=16, rank=16),
    Size(rows=64, columns=128, lead=(70,), kind=2),
    Size(rows=64, columns=256, lead=(5,), kind=6, block=64, seed=3),
    Size(rows=48, columns=192, lead=(8,), kind=7, block=96, seed=4),
    Size(rows=70, columns=130, lead=(9,), kind=8, block=48, seed=1),
    Size(rows=33, columns=96, lead=(1,), kind=11, dtype=np.float16, seed=1),
)


def cases() -> list[Case]:
    """Examples of every operator at every size."""
    return [make(op, size) for op, make in EXAMPLES.items() for size in SIZES]


def write(folder: pathlib.Path, name: str, case: Case) -> None:
    model, feeds = model_of(case)
    ir.save(model, folder / f"{name}.onnx")
    parts = [struct.pack("<q", len(feeds))]
    for array in feeds.values():
        kind = ir.DataType.from_numpy(array.dtype).value
        parts += [struct.pack(f"<{3 + array.ndim}q", kind, array.ndim, *array.shape, array.nbytes), array.tobytes()]
    (folder / f"{name}.in").write_bytes(b"".join(parts))


def read(path: pathlib.Path) -> list[np.ndarray]:
    data, place = path.read_bytes(), 0

    def numbers(count: int) -> Sequence[int]:
        nonlocal place
        place += 8 * count
        return struct.unpack_from(f"<{count}q", data, place - 8 * count)

    arrays = []
    for _ in range(*numbers(1)):
        kind, rank = numbers(2)
        *shape, size = numbers(rank + 1)
        part, place = data[place : place + size], place + size
        dtype = ir.DataType(kind).numpy()
        arrays.append((np.frombuffer(part, dtype) if size else np.zeros(0, dtype)).reshape(shape))
    return arrays


def runner(compiler: Sequence[str], target: pathlib.Path) -> pathlib.Path:
    """tests/native/run_cases.cpp, compiled by `compiler` with its options."""
    source = ROOT / "tests" / "native" / "run_cases.cpp"
    options = [
        "-std=c++20",
        "-O1",
        "-g",
        f"-I{ROOT / 'custom_ops'}",
        str(source),
        "-ldl",
        "-pthread",
        "-o",
        str(target),
    ]
    done = subprocess.run([*compiler, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return target


def judge(folder: pathlib.Path, command: Sequence[str], given: Iterable[Case], **options) -> None:
    """Run the cases by `command` FOLDER and compare each with what its function body computes here.

    Raises:
        AssertionError: the command failed (its last words are in the message) or an output is off.
    """
    given = list(given)
    for index, case in enumerate(given):
        write(folder, f"{index:04}", case)
    threads = [str(options.pop("threads"))] if "threads" in options else []
    done = subprocess.run([*command, str(folder), *threads], capture_output=True, text=True, **options)
    last = given[int(done.stdout.split()[-1])] if done.returncode and done.stdout.split() else ""
    assert done.returncode == 0, f"status {done.returncode} at {last}\n{done.stderr[-6000:]}"
    for index, case in enumerate(given):
        error = folder / f"{index:04}.error"
        assert not error.exists(), f"{case}: {error.read_text()}"
        if ops.OPS[case.op].body is None:
            continue
        right = outcome(case, native=False)
        assert not isinstance(right, str), f"{case}: {right}"
        problem = disagreement(case, read(folder / f"{index:04}.out"), right)
        assert problem is None, problem
