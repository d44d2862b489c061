"""Calibration: run a model over data once and gather Stats of chosen tensors; memory does not grow with the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from qonnx.errors import QonnxError
from qonnx.histogram import histogram, merge_histograms
from qonnx.lean import lean_session
from qonnx.observers import Observer, Wish, add_observers, expose
from qonnx.patches import add_gram, gram_width, mirrored, patches
from qonnx.stats import Gram, Stats, Window

__all__ = ["Window", "Wish", "observe"]

Feeds = dict[str, np.ndarray]


def observe(
    model: ir.Model,
    data: Iterable[Feeds],
    wishes: Mapping[str, Wish],
    *,
    threads: int | None = None,
    libraries: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
) -> dict[str, Stats]:
    """Statistics of the tensors named in `wishes` over all of `data`, from one run.

    `model` is not changed and its weights are not copied. Names missing from the result are of tensors that cannot
    be observed: inside bodies of If/Loop/Scan or local functions, or not floating point. Shapes may differ between
    samples. `progress` is called with the number of samples done. Raises QonnxError if there is no data, or if a sample
    does not run.
    """
    clone = model.clone()
    observers = add_observers(clone, wishes)
    session = lean_session(clone, threads=threads, libraries=libraries, options=_options())
    wanted = [name for observer in observers for name in observer.outputs]
    running = {observer.name: Running(observer) for observer in observers}
    faults = _Faults(model, threads, libraries)
    done = 0
    for feeds in data:
        arrays = dict(zip(wanted, run(session, wanted, feeds, done), strict=True))
        for observer in observers:
            if running[observer.name].add(arrays):
                faults.add(running[observer.name], feeds)
        done += 1
        if progress is not None:
            progress(done)
    if not done:
        raise QonnxError("the calibration data has no samples; pass at least one with --data")
    return {name: r.stats() for name, r in running.items()}


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    return options


def run(session: ort.InferenceSession, outputs: Sequence[str], feeds: Feeds, sample: int) -> list[np.ndarray]:
    """Run one sample; a failure is a sentence that names the sample and the shapes that it had."""
    try:
        return session.run(outputs, feeds)
    except Exception as error:  # the runtime's exceptions share no narrower base class
        shapes = ", ".join(f"{name} {list(np.shape(x))}" for name, x in feeds.items())
        raise QonnxError(f"sample {sample} ({shapes}) does not run: {str(error).splitlines()[0]}") from error


class Running:
    """Statistics of one tensor while the data streams by; arrays are updated in place."""

    def __init__(self, observer: Observer):
        self.observer = observer
        self.samples = self.elements = self.non_finite = 0
        self.minimum, self.maximum = np.inf, -np.inf
        self.shape: tuple[int, ...] | None = None
        self.axis = observer.channel_axis
        self.low = self.high = self.sum = None
        self.histogram = None
        self.matrix = self.row_sum = None
        self.rows = 0

    def add(self, arrays: Mapping[str, np.ndarray]) -> bool:
        """Take in one sample's outputs. True if it has NaN or infinities: then only its shape was counted."""
        observer = self.observer
        shape = tuple(int(n) for n in arrays[observer.shape])
        self.samples += 1
        self.elements += int(np.prod(shape))
        self.shape = self.shape or shape
        low, high = arrays[observer.minimum], arrays[observer.maximum]
        total = arrays[observer.sum] if observer.sum else None
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (total is None or np.isfinite(total).all())):
            return True
        self.add_ranges(low, high, total)
        if observer.values:
            self.add_values(arrays[observer.values])
        return False

    def add_ranges(self, low: np.ndarray, high: np.ndarray, total: np.ndarray | None) -> None:
        """Minimum, maximum (and sum) of one sample: scalars, or float32 [C]."""
        self.minimum = min(self.minimum, float(low.min()))
        self.maximum = max(self.maximum, float(high.max()))
        if self.axis is None:
            return
        if self.low is None:
            self.low, self.high = low.astype(np.float64), high.astype(np.float64)
            self.sum = total.astype(np.float64)
        elif self.low.shape == low.shape:
            np.minimum(self.low, low, out=self.low)
            np.maximum(self.high, high, out=self.high)
            self.sum += total
        else:  # the number of channels changes between samples: nothing to keep
            self.axis = self.low = self.high = self.sum = None

    def add_values(self, x: np.ndarray) -> None:
        """Histogram and Gram matrix of one sample's finite values `x`."""
        wish = self.observer.wish
        if wish.histogram and x.size:
            more = histogram(x, float(x.min()), float(x.max()))
            self.histogram = more if self.histogram is None else merge_histograms(self.histogram, more)
        if wish.gram:
            rows = patches(x, wish.window, self.samples)
            if self.matrix is None:
                groups, width = gram_width(rows)
                self.matrix = np.zeros((groups, width, width), np.float32)
                self.row_sum = np.zeros((groups, width))
            if rows.shape[-1] == self.matrix.shape[-1]:
                add_gram(self.matrix, self.row_sum, rows)
                self.rows += rows.shape[1]

    def add_faulty(self, x: np.ndarray) -> None:
        """One sample's values with NaN or infinities: these are counted and left out of everything else."""
        finite = np.isfinite(x)
        self.non_finite += int(x.size - finite.sum())
        if not finite.any():
            return
        axes = None
        if self.axis is not None and finite.any(axis=tuple(i for i in range(x.ndim) if i != self.axis % x.ndim)).all():
            axes = tuple(i for i in range(x.ndim) if i != self.axis % x.ndim)
        low = np.where(finite, x, np.inf).min(axis=axes)
        high = np.where(finite, x, -np.inf).max(axis=axes)
        if self.axis is not None and axes is None:  # a channel without a single finite value
            self.axis = self.low = self.high = self.sum = None
        self.add_ranges(low, high, np.where(finite, x, 0).sum(axis=axes, dtype=np.float64))
        if self.observer.wish.histogram:
            kept = x[finite]
            more = histogram(kept, float(kept.min()), float(kept.max()))
            self.histogram = more if self.histogram is None else merge_histograms(self.histogram, more)

    def stats(self) -> Stats:
        gram = None
        if self.matrix is not None and self.rows:
            gram = Gram(mirrored(self.matrix), self.row_sum / self.rows, self.rows, self.observer.wish.window)
        return Stats(
            samples=self.samples,
            elements=self.elements,
            minimum=self.minimum,
            maximum=self.maximum,
            non_finite=self.non_finite,
            shape=self.shape,
            channel_axis=self.axis if self.low is not None else None,
            channel_minimum=self.low,
            channel_maximum=self.high,
            channel_sum=self.sum,
            histogram=self.histogram,
            gram=gram,
        )


class _Faults:
    """The slow way for samples with NaN or infinities: run them again and look at the values themselves."""

    def __init__(self, model: ir.Model, threads: int | None, libraries: Sequence[str]):
        self.model, self.threads, self.libraries = model, threads, libraries
        self.sessions: dict[str, tuple[ort.InferenceSession, str]] = {}

    def add(self, running: Running, feeds: Feeds) -> None:
        name = running.observer.name
        if name not in self.sessions:
            clone = self.model.clone()
            output = expose(clone, [name])[name]
            opened = lean_session(clone, threads=self.threads, libraries=self.libraries, options=_options())
            self.sessions[name] = opened, output
        session, output = self.sessions[name]
        running.add_faulty(session.run([output], feeds)[0])
