"""Reads what the native `ObserveSink` operator gathered: ranges, sums, histograms and Gram matrices by key.

`ObserveSink(x)` has no output: adding a node changes nothing else in the graph. Its state lives in the process, in a
table ordered by key, and survives the session. Several sessions and threads may feed one key.

The native histogram has `bins` counts (a power of two) over [−range, range); bin b holds
−range + b·w ≤ x < −range + (b+1)·w with w = 2·range/bins. `range` is a power of two that doubles when a larger number
comes, merging neighbouring bins in pairs around zero. So counts are exact and do not depend on the order of the data,
and zero is always the edge between bins/2 − 1 and bins/2. With twice `qonnx.histogram.BINS` bins it is never coarser
than the Histogram of qonnx.histogram, and `read` returns exactly that one. Non-finite numbers are left out of
everything but `non_finite`; in the Gram matrix they count as zero.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools

import numpy as np
import onnx_ir as ir

from qonnx.custom_ops import DOMAIN, library_path
from qonnx.errors import QonnxError
from qonnx.histogram import BINS, Histogram, exponent_for


@dataclasses.dataclass(frozen=True)
class Observed:
    """What one ObserveSink saw.

    Attributes:
        calls: number of times the node ran. rows: vectors of channels seen (elements, without an axis).
        count, non_finite: finite numbers, and the others.
        minimum, maximum, total: of the finite numbers; +inf, −inf, 0 when there were none.
        channel_minimum, channel_maximum: float32 [C]; channel_total: float64 [C]; channel_count: int64 [C].
            None without an axis, and when the number of channels varied.
        histogram: of all finite numbers, or None.
        gram: float64 [C, C], Σ x xᵀ over rows, or None.
    """

    calls: int
    rows: int
    count: int
    non_finite: int
    minimum: float
    maximum: float
    total: float
    histogram: Histogram | None
    channel_minimum: np.ndarray | None
    channel_maximum: np.ndarray | None
    channel_total: np.ndarray | None
    channel_count: np.ndarray | None
    gram: np.ndarray | None


class _Summary(ctypes.Structure):
    """Mirrors `qonnx_observe_summary` of cpu/observe_state.cc."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("calls", "rows", "channels", "count", "non_finite", "bins", "gram")),
        *((name, ctypes.c_double) for name in ("minimum", "maximum", "sum", "range")),
    ]


def available() -> bool:
    """True when the native library is installed."""
    return library_path() is not None


def sink(
    value: ir.Value,
    key: str,
    *,
    axis: int | None = None,
    bins: int = 2 * BINS,
    gram: bool = False,
    name: str | None = None,
) -> ir.Node:
    """An ObserveSink node on `value`; insert it in the graph and add domain `ai.qonnx` version 1 to the opset imports.

    Open the session with `execution_order = ExecutionOrder.PRIORITY_BASED`: by default ONNX Runtime runs nodes without
    consumers last, which keeps every observed tensor alive until the end.
    """
    attributes = [ir.AttrString("key", key), ir.AttrInt64("bins", bins), ir.AttrInt64("gram", int(gram))]
    if axis is not None:
        attributes.append(ir.AttrInt64("axis", axis))
    return ir.Node(DOMAIN, "ObserveSink", [value], attributes, num_outputs=0, name=name or f"observe/{key}")


def read(key: str) -> Observed | None:
    """What was gathered under `key`, or None if nothing was."""
    library, name = _library(), key.encode()
    summary = _Summary()
    if not library.qonnx_observe_read(name, ctypes.byref(summary)):
        return None
    histogram = channels = gram = None
    if summary.bins:
        counts = np.empty(summary.bins, np.int64)
        _must(library.qonnx_observe_histogram(name, summary.bins, _pointer(counts)), key)
        histogram = _histogram(counts, summary)
    if summary.channels > 0:
        size = summary.channels
        channels = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size), np.empty(size, np.int64)
        _must(library.qonnx_observe_channels(name, size, *map(_pointer, channels)), key)
        if summary.gram:
            gram = np.empty((size, size))
            _must(library.qonnx_observe_gram(name, size, _pointer(gram)), key)
    minimum, maximum, total, count = channels or (None,) * 4
    return Observed(
        calls=summary.calls,
        rows=summary.rows,
        count=summary.count,
        non_finite=summary.non_finite,
        minimum=summary.minimum,
        maximum=summary.maximum,
        total=summary.sum,
        histogram=histogram,
        channel_minimum=minimum,
        channel_maximum=maximum,
        channel_total=total,
        channel_count=count,
        gram=gram,
    )


def _histogram(counts: np.ndarray, summary: _Summary) -> Histogram | None:
    """Native counts in the bins of `qonnx.histogram`: those that cover zero and every number, at most BINS."""
    if not summary.count:
        return None
    native = int(np.log2(2 * summary.range / counts.size))
    exponent = max(exponent_for(summary.minimum, summary.maximum), native)
    bins = np.arange(-(counts.size // 2), counts.size // 2) >> (exponent - native)
    first = int(np.floor(np.ldexp(min(summary.minimum, 0.0), -exponent)))
    last = int(np.floor(np.ldexp(max(summary.maximum, 0.0), -exponent)))
    kept = np.zeros(last - first + 1, np.int64)
    used = (bins >= first) & (bins <= last)
    np.add.at(kept, bins[used] - first, counts[used])
    return Histogram(exponent, first, kept)


def keys(prefix: str = "") -> list[str]:
    """The keys that begin with `prefix`, in order."""
    library = _library()
    size = library.qonnx_observe_keys(prefix.encode(), None, 0)
    buffer = ctypes.create_string_buffer(max(size, 1))
    size = library.qonnx_observe_keys(prefix.encode(), buffer, size)
    return [key.decode() for key in buffer.raw[:size].split(b"\0")[:-1]]


def free(prefix: str = "") -> int:
    """Forget what was gathered under keys that begin with `prefix` and return how many there were."""
    return _library().qonnx_observe_free(prefix.encode())


def _library() -> ctypes.CDLL:
    path = library_path()
    if path is None:
        raise QonnxError("the native operators are not installed; install a C++ compiler and reinstall qonnx-toolkit")
    return _load(path)


@functools.cache
def _load(path: str) -> ctypes.CDLL:
    """The library that ONNX Runtime loads too: one handle, one state. Held for the life of the process."""
    library = ctypes.CDLL(path)
    text, integer, pointer = ctypes.c_char_p, ctypes.c_int64, ctypes.c_void_p
    signatures = {
        "qonnx_observe_read": (ctypes.c_int, [text, pointer]),
        "qonnx_observe_histogram": (ctypes.c_int, [text, integer, pointer]),
        "qonnx_observe_channels": (ctypes.c_int, [text, integer, pointer, pointer, pointer, pointer]),
        "qonnx_observe_gram": (ctypes.c_int, [text, integer, pointer]),
        "qonnx_observe_keys": (integer, [text, pointer, integer]),
        "qonnx_observe_free": (integer, [text]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _pointer(array: np.ndarray) -> int:
    return array.ctypes.data


def _must(done: int, key: str) -> None:
    if not done:
        raise QonnxError(
            f"the statistics of '{key}' changed while they were read; read them after the sessions are done"
        )
