"""The machine's limits as the kernels could reach them: multiply-adds of int8 and reading of memory, by threads."""

from __future__ import annotations

import ctypes
import dataclasses
import threading
import time

import numpy as np

from qonnx.custom_ops import library_path
from qonnx.custom_ops.bench.turns import evict

_READ_BYTES = 8 << 20  # about the weights of a layer
_ROUNDS = 200_000


@dataclasses.dataclass(frozen=True)
class Limits:
    """multiply_adds: a second, of int8. bytes_cold: a second, read after the caches were filled with other data."""

    multiply_adds: float
    bytes_cold: float


def tier() -> str:
    """The instruction-set tier whose kernels run."""
    library = ctypes.CDLL(library_path())
    library.qonnx_cpu_tier.restype = ctypes.c_char_p
    return library.qonnx_cpu_tier().decode()


def measure(threads: int, repeats: int = 15) -> Limits:
    """Medians over `repeats`; with one thread by its own CPU time, with more by the wall clock."""
    library = ctypes.CDLL(library_path())
    library.qonnx_multiply.restype = ctypes.c_uint64
    library.qonnx_multiply.argtypes = [ctypes.c_uint64, ctypes.POINTER(ctypes.c_int32)]
    library.qonnx_read.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
    data = np.ones(threads * _READ_BYTES, np.uint8)

    def multiply(_: int) -> None:
        library.qonnx_multiply(_ROUNDS, ctypes.byref(ctypes.c_int32()))

    def read(thread: int) -> None:
        share = _READ_BYTES // threads
        library.qonnx_read(data.ctypes.data + thread * share, share)

    multiply_adds = library.qonnx_multiply(1, ctypes.byref(ctypes.c_int32())) * _ROUNDS * threads
    return Limits(
        multiply_adds / float(np.median([_seconds(multiply, threads, cold=False) for _ in range(repeats)])),
        _READ_BYTES / float(np.median([_seconds(read, threads, cold=True) for _ in range(repeats)])),
    )


def greater(old: Limits | None, new: Limits) -> Limits:
    """What the machine did at its best: neighbours take of a shared one, and a limit is an upper bound."""
    if old is None:
        return new
    return Limits(max(old.multiply_adds, new.multiply_adds), max(old.bytes_cold, new.bytes_cold))


def _seconds(work, threads: int, cold: bool) -> float:
    if cold:
        evict()
    if threads == 1:
        begin = time.thread_time()
        work(0)
        return time.thread_time() - begin
    ready = threading.Barrier(threads)
    begun, ended = [0.0] * threads, [0.0] * threads

    def run(thread: int) -> None:
        ready.wait()
        begun[thread] = time.perf_counter()
        work(thread)
        ended[thread] = time.perf_counter()

    workers = [threading.Thread(target=run, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(ended) - min(begun)
