"""Calibration: run a model over data once and gather Stats of chosen tensors; memory does not grow with the data.

Two ways give the same statistics: the native operator ObserveSink (qonnx.sinks), which works on tensors where they
lie, and standard operators (qonnx.observers) where the native library is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from qonnx.custom_ops.observe import available
from qonnx.errors import QonnxError
from qonnx.lean import lean_session
from qonnx.observers import StandardObservers
from qonnx.probes import tapped
from qonnx.runtime import RUN_ERRORS
from qonnx.sinks import NativeObservers
from qonnx.stats import Stats, Window
from qonnx.wishes import Wish

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
    native: bool | None = None,
) -> dict[str, Stats]:
    """Statistics of the tensors named in `wishes` over all of `data`, from one run.

    `model` is not changed and its weights are not copied. Names missing from the result are of tensors that cannot
    be observed: inside bodies of If/Loop/Scan or local functions, or not floating point. Shapes may differ between
    samples. `progress` is called with the number of samples done; `native` chooses the way, None takes the native one
    where it is installed. Raises QonnxError if there is no data, or if a sample does not run.
    """
    clone = model.clone()
    kind = NativeObservers if (available() if native is None else native) else StandardObservers
    observers = kind(clone, wishes)
    session = lean_session(clone, threads=threads, libraries=libraries, options=_options())
    again = _Again(model, threads, libraries)
    done = 0
    with observers:
        for feeds in data:
            arrays = dict(zip(observers.outputs, run(session, observers.outputs, feeds, done), strict=True))
            for name in observers.add(arrays):
                observers.add_faulty(name, again.values(name, feeds))
            done += 1
            if progress is not None:
                progress(done)
        if not done:
            raise QonnxError("the calibration data has no samples; give at least one")
        return observers.stats()


def _options() -> ort.SessionOptions:
    """Nodes run as soon as they can, so that observers free their tensors at once."""
    options = ort.SessionOptions()
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    return options


def run(session: ort.InferenceSession, outputs: Sequence[str], feeds: Feeds, sample: int) -> list[np.ndarray]:
    """Run one sample; a failure is a sentence that names the sample and the shapes that it had."""
    try:
        # ONNX Runtime takes an empty list of outputs for "all of them".
        return session.run(list(outputs) or None, feeds)[: len(outputs)]
    except (*RUN_ERRORS, ValueError) as error:
        shapes = ", ".join(f"{name} {list(np.shape(x))}" for name, x in feeds.items())
        raise QonnxError(f"sample {sample} ({shapes}) does not run: {str(error).splitlines()[0]}") from error


class _Again:
    """Values of single tensors, for samples in which an observer found NaN or infinities: they are run once more."""

    def __init__(self, model: ir.Model, threads: int | None, libraries: Sequence[str]):
        self.model, self.threads, self.libraries = model, threads, libraries
        self.sessions: dict[str, ort.InferenceSession] = {}

    def values(self, name: str, feeds: Feeds) -> np.ndarray:
        if name not in self.sessions:
            probe = tapped(self.model, [name])
            self.sessions[name] = lean_session(probe, threads=self.threads, libraries=self.libraries)
        return self.sessions[name].run(None, feeds)[0].astype(np.float32)
