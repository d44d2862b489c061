"""Solve jobs: weights that know nothing of each other, solved here, by worker processes or any executor, kept on disk.

A job holds all that its solution depends on (weight, layout, format, Gram matrix, solver) and nothing of the graph, so
that it travels to another process or machine. With a folder, each solution is written there under the hash of its job
as soon as it is known: a run that was killed goes on where it was, and one with other weights, data or options finds
nothing. At most two jobs a worker are under way, which bounds the memory.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import multiprocessing
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from qonnx.codebooks import CodebookFormat, CodebookTensor, solve_codebook
from qonnx.custom_ops.codebook import CodebookWeight
from qonnx.errors import QonnxError
from qonnx.formats import IntFormat, QuantizedTensor, TableFormat
from qonnx.passes.solve_array import solve_array
from qonnx.solvers import Layout

_FEWEST = 64  # rows of a part: below, a worker spends its time on what all parts need, the factor of the Gram matrix
_SCALES = ("scale", "zero_point")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # of numpy's libraries
_PART = ("indices", "codebooks", "scale", "block")  # fields of a CodebookWeight


@dataclasses.dataclass(frozen=True)
class Job:
    """One weight. dtype: of the float model, which scales must fit. gram: [groups, K, K] in the order of im2col."""

    weight: np.ndarray
    layout: Layout
    format: IntFormat | TableFormat | CodebookFormat
    dtype: ir.DataType
    solver: str
    gram: np.ndarray | None = None

    def run(self) -> QuantizedTensor | CodebookTensor:
        """The solution, in the layout of DequantizeLinear."""
        if isinstance(self.format, CodebookFormat):
            return solve_codebook(self.weight, self.layout, self.format, self.gram, self.solver)
        return solve_array(self.weight, self.layout, self.format, self.dtype, self.solver, self.gram)

    def digest(self) -> str:
        """A hash of everything that the solution depends on."""
        sums = hashlib.sha256(repr((self.layout, self.format, self.dtype, self.solver)).encode())
        for array in (self.weight, self.gram):
            if array is not None:
                sums.update(repr((array.shape, array.dtype.str)).encode())
                sums.update(np.ascontiguousarray(array).tobytes())
        return sums.hexdigest()[:32]


def solved(
    jobs: Iterable[Job],
    executor: concurrent.futures.Executor | None = None,
    *,
    under_way: int = 4,
    folder: str | os.PathLike | None = None,
) -> Iterator[QuantizedTensor | CodebookTensor]:
    """The solutions in the order of `jobs`.

    executor: anything with `submit`, as processes, Dask and Ray offer; None solves here. under_way: jobs submitted and
    not fetched, at most. folder: where solutions are kept.
    """
    kept = None if folder is None else pathlib.Path(folder)
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    waiting: collections.deque = collections.deque()
    for job in jobs:
        file = None if kept is None else kept / f"{job.digest()}.npz"
        found = None if file is None else _read(file, job)
        if found is None and executor is not None:
            waiting.append((executor.submit(Job.run, job), file))
        else:
            waiting.append((job.run() if found is None else found, None if found is not None else file))
        while len(waiting) >= (under_way if executor is not None else 1):
            yield _fetched(*waiting.popleft())
    while waiting:
        yield _fetched(*waiting.popleft())


def in_parts(
    jobs: Iterable[Job], executor: concurrent.futures.Executor | None, workers: int, folder: str | os.PathLike | None
) -> Iterator[QuantizedTensor | CodebookTensor]:
    """`solved`, each job's rows shared out among `workers` where its format lets them."""
    whole: collections.deque[tuple[Job, int]] = collections.deque()

    def parts() -> Iterator[Job]:
        for job in jobs:
            some = split(job, workers if executor is not None else 1)
            whole.append((job, len(some)))
            yield from some

    found = solved(parts(), executor, under_way=2 * workers + 2, folder=folder)
    for first in found:
        job, count = whole.popleft()
        yield joined([first, *itertools.islice(found, count - 1)], job.layout)


def split(job: Job, parts: int) -> list[Job]:
    """Jobs for the rows of a matrix, `parts` of them at most, in order; [job] if its rows belong together."""
    rows = job.layout.shape[job.layout.channel_axis]
    parts = min(parts, rows // _FEWEST)
    together = isinstance(job.format, CodebookFormat) or job.format.granularity == "tensor"
    if parts < 2 or together or job.layout.op not in ("MatMul", "Gemm") or len(job.layout.shape) != 2:
        return [job]
    some = np.array_split(job.weight, parts, axis=job.layout.channel_axis)
    return [
        dataclasses.replace(job, weight=one, layout=dataclasses.replace(job.layout, shape=one.shape)) for one in some
    ]


def joined(parts: list[QuantizedTensor | CodebookTensor], layout: Layout) -> QuantizedTensor | CodebookTensor:
    """The solution of a whole matrix from those of its `split` jobs."""
    if len(parts) == 1:
        return parts[0]
    axis = layout.channel_axis if parts[0].format.granularity == "block" else 0
    codes = np.concatenate([part.codes for part in parts], layout.channel_axis)
    scale, zero_point = (np.concatenate([getattr(part, name) for part in parts], axis) for name in _SCALES)
    return QuantizedTensor(parts[0].format, codes, scale, zero_point, parts[0].axis)


def asked(settings: Any, workers: int, folder: str | None) -> tuple[int, str | os.PathLike | None]:
    """Workers and folder as the user's settings say, else as a recipe does: neither is part of the result."""
    given = None if settings is None else settings.workers, None if settings is None else settings.solutions
    return given[0] or workers, given[1] or folder


def check_workers(workers: int) -> None:
    """Raise QonnxError for a number of workers below 1."""
    if workers < 1:
        raise QonnxError(f"{workers} workers solve nothing; give 1 or more in option 'workers'")


def executor_for(workers: int, given: Any) -> contextlib.AbstractContextManager:
    """The user's executor, left open; processes of our own, which end with the context; or none."""
    if given is not None:
        return contextlib.nullcontext(given)
    return contextlib.nullcontext() if workers == 1 else _processes(workers)


@contextlib.contextmanager
def _processes(workers: int) -> Iterator[concurrent.futures.Executor]:
    """Processes whose matrix products run on one thread each: threads of several would wait for each other."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))  # read by a process as it starts, not by this one any more
    try:
        spawn = multiprocessing.get_context("spawn")  # a fork would copy the threads of ONNX Runtime half alive
        with concurrent.futures.ProcessPoolExecutor(workers, mp_context=spawn) as pool:
            yield pool
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _fetched(result, file: pathlib.Path | None) -> QuantizedTensor | CodebookTensor:
    """The solution itself, written to `file` if there is one."""
    tensor = result.result() if hasattr(result, "result") else result
    if file is not None:
        unfinished = file.with_suffix(f".{os.getpid()}.part")
        with unfinished.open("wb") as handle:  # a file cut short must never carry the name
            np.savez(handle, **_arrays(tensor))
        unfinished.replace(file)
    return tensor


def _arrays(tensor: QuantizedTensor | CodebookTensor) -> dict[str, np.ndarray]:
    """All of a solution that its job does not say."""
    if isinstance(tensor, QuantizedTensor):
        arrays = {name: getattr(tensor, name) for name in (*_SCALES, "axis")}
        return {"codes": tensor.codes.astype(np.int32), **arrays}
    arrays = {f"{name}{i}": getattr(part, name) for i, part in enumerate(tensor.parts) for name in _PART}
    return arrays if tensor.order is None else {**arrays, "order": tensor.order}


def _read(file: pathlib.Path, job: Job) -> QuantizedTensor | CodebookTensor | None:
    if not file.exists():
        return None
    with np.load(file) as arrays:
        if isinstance(job.format, CodebookFormat):
            count = sum(name.startswith(_PART[0]) for name in arrays)
            parts = [[arrays[f"{name}{i}"] for name in _PART] for i in range(count)]
            books = tuple(CodebookWeight(*three, int(block)) for *three, block in parts)
            return CodebookTensor(job.format, books, job.layout, arrays.get("order"))
        codes = arrays["codes"].astype(job.format.numpy_dtype)
        return QuantizedTensor(job.format, codes, *(arrays[name] for name in _SCALES), int(arrays["axis"]))
