"""Solve jobs: weights that know nothing of each other, solved here, by worker processes or any executor, kept on disk.

A job holds all that its solution depends on (weight, layout, format, Gram matrix, solver) and nothing of the graph, so
that it travels to another process or machine. With a folder, each solution is written there under the hash of its job
as soon as it is known: a run that was killed goes on where it was, and one with other weights, data or options finds
nothing. At most two jobs a worker are under way, which bounds the memory.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from qonnx.codebooks import CodebookFormat, CodebookTensor, solve_codebook
from qonnx.formats import IntFormat, QuantizedTensor, TableFormat
from qonnx.passes.solve_array import solve_array
from qonnx.solvers import Layout


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
    not fetched, at most. folder: where solutions are kept; code books are not.
    """
    kept = None if folder is None else pathlib.Path(folder)
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    waiting: collections.deque = collections.deque()
    for job in jobs:
        file = None if kept is None or isinstance(job.format, CodebookFormat) else kept / f"{job.digest()}.npz"
        found = None if file is None else _read(file, job)
        if found is None and executor is not None:
            waiting.append((executor.submit(Job.run, job), file))
        else:
            waiting.append((job.run() if found is None else found, None if found is not None else file))
        while len(waiting) >= (under_way if executor is not None else 1):
            yield _fetched(*waiting.popleft())
    while waiting:
        yield _fetched(*waiting.popleft())


def _fetched(result, file: pathlib.Path | None) -> QuantizedTensor | CodebookTensor:
    """The solution itself, written to `file` if there is one."""
    tensor = result.result() if hasattr(result, "result") else result
    if file is not None:
        unfinished = file.with_suffix(f".{os.getpid()}.part")
        with unfinished.open("wb") as handle:  # a file cut short must never carry the name
            arrays = {name: getattr(tensor, name) for name in ("scale", "zero_point", "axis")}
            np.savez(handle, codes=tensor.codes.astype(np.int32), **arrays)
        unfinished.replace(file)
    return tensor


def _read(file: pathlib.Path, job: Job) -> QuantizedTensor | None:
    if not file.exists():
        return None
    with np.load(file) as arrays:
        codes = arrays["codes"].astype(job.format.numpy_dtype)
        return QuantizedTensor(job.format, codes, arrays["scale"], arrays["zero_point"], int(arrays["axis"]))
