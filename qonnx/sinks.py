"""Native observers: ObserveSink nodes, which gather statistics of tensors where they lie, without any output.

Only shapes are graph outputs, and the values of tensors whose patches or histogram are wished: numpy counts a histogram
in 4 to 5 ns a value, the sink in 10 to 20.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from qonnx.custom_ops import DOMAIN
from qonnx.custom_ops.observe import Observed, free, read, sink
from qonnx.running import Running
from qonnx.stats import Gram, Stats, Window
from qonnx.wishes import Builder, Wish

_NATIVE = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_COUNTER = itertools.count()


class NativeObservers:
    """Adds sinks to `model` (a clone of the user's) and reads them at the end; as a context it frees their memory."""

    def __init__(self, model: ir.Model, wishes: Mapping[str, Wish]):
        builder = Builder(model)
        model.opset_imports.setdefault(DOMAIN, 1)
        self.prefix = f"calibrate/{os.getpid()}/{next(_COUNTER)}/"
        self.keys: dict[str, str] = {}
        self.wishes: dict[str, Wish] = {}
        self.shapes: dict[str, str] = {}
        self.values: dict[str, str] = {}
        self.running: dict[str, Running] = {}
        for value, wish in builder.observable(wishes):
            x = value if value.dtype in _NATIVE else builder.as_float(value)
            rank = None if value.shape is None else len(value.shape)
            axis = wish.channel_axis
            if axis is not None and rank is not None and not -rank <= axis < rank:
                axis = None
            gram = wish.gram and axis is not None and _rows_are_channels(wish, axis, rank)
            key = self.keys[value.name] = f"{self.prefix}{len(self.keys)}/"  # none is the beginning of another
            builder.graph.append(sink(x, key, axis=axis, bins=0, gram=gram))
            self.wishes[value.name] = wish
            self.running[value.name] = Running(dataclasses.replace(wish, gram=wish.gram and not gram), axis)
            self.shapes[value.name] = builder.shape(value)
            if wish.histogram or (wish.gram and not gram):
                self.values[value.name] = builder.output(builder.as_float(value))
        self.outputs = tuple(dict.fromkeys([*self.shapes.values(), *self.values.values()]))

    def __enter__(self) -> NativeObservers:
        return self

    def __exit__(self, *_: object) -> None:
        free(self.prefix)

    def add(self, arrays: Mapping[str, np.ndarray]) -> list[str]:
        """Take in one sample's shapes and values; sinks count NaN and infinities themselves."""
        for name, output in self.shapes.items():
            self.running[name].add_shape(arrays[output])
        for name, output in self.values.items():
            x, running = arrays[output], self.running[name]
            if np.isfinite(x.min(initial=0)) and np.isfinite(x.max(initial=0)):
                running.add_values(x)
            elif running.wish.histogram:
                running.add_finite(x[np.isfinite(x)])
        return []

    def add_faulty(self, name: str, values: np.ndarray) -> None:
        raise AssertionError("sinks find no faults")

    def stats(self) -> dict[str, Stats]:
        """Read everything, once: each sink is emptied as it is read, so that Gram matrices are not held twice."""
        return {name: self._stats(name) for name in self.running}

    def _stats(self, name: str) -> Stats:
        running, seen = self.running[name], read(self.keys[name])
        free(self.keys[name])
        by_channel = seen is not None and seen.channel_minimum is not None and bool((seen.channel_count > 0).all())
        gram = running.gram()
        if by_channel and seen.gram is not None:
            gram = _gram(seen, self.wishes[name].window)
        return Stats(
            samples=running.samples,
            elements=running.elements,
            minimum=seen.minimum if seen else np.inf,
            maximum=seen.maximum if seen else -np.inf,
            non_finite=seen.non_finite if seen else 0,
            shape=running.shape,
            channel_axis=running.axis if by_channel else None,
            channel_minimum=seen.channel_minimum.astype(np.float64) if by_channel else None,
            channel_maximum=seen.channel_maximum.astype(np.float64) if by_channel else None,
            channel_sum=seen.channel_total if by_channel else None,
            histogram=running.histogram,
            gram=gram,
        )


def _rows_are_channels(wish: Wish, axis: int, rank: int | None) -> bool:
    """Whether rows of the Gram matrix are the channels at each place: for a MatMul, or a plain 1×1 convolution."""
    if wish.window is None:
        return axis == -1 or (rank is not None and axis == rank - 1)
    return axis == 1 and _is_pointwise(wish.window)


def _is_pointwise(window: Window) -> bool:
    once = {*window.kernel_shape, *window.strides} == {1}
    return once and not any(window.pads) and window.group == 1


def _gram(seen: Observed, window: Window | None) -> Gram:
    return Gram(seen.gram.astype(np.float32)[None], (seen.channel_total / max(seen.rows, 1))[None], seen.rows, window)
