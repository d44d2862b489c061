"""Standard observers: operators of ONNX added to a model so that it also computes statistics of chosen tensors.

An observer of a tensor X adds Shape, ReduceMin and ReduceMax (over all of X or over all axes but one), and ReduceSum,
each a small graph output: the sum also tells whether there is a NaN. X itself becomes an output only where a histogram
or a Gram matrix needs the values. Reductions run in float32 whatever the type of X. With
ExecutionOrder.PRIORITY_BASED ONNX Runtime runs them as soon as X exists; its default order runs leaves last and keeps
every activation alive (1.8 GB against 0.65 on a ViT at batch 8).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from qonnx.running import Running
from qonnx.stats import Stats
from qonnx.wishes import Builder, Wish


@dataclasses.dataclass(frozen=True)
class Observer:
    """Names of the outputs that carry one tensor's numbers; None where there is none."""

    channel_axis: int | None
    shape: str
    minimum: str
    maximum: str
    sum: str
    values: str | None

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(n for n in (self.shape, self.minimum, self.maximum, self.sum, self.values) if n is not None)


class StandardObservers:
    """Adds observers to `model` (a clone of the user's) and follows what they say, sample by sample."""

    def __init__(self, model: ir.Model, wishes: Mapping[str, Wish]):
        builder = Builder(model)
        self.observers: dict[str, Observer] = {}
        self.running: dict[str, Running] = {}
        for value, wish in builder.observable(wishes):
            observer = self.observers[value.name] = _observer(builder, value, wish)
            self.running[value.name] = Running(wish, observer.channel_axis)
        self.outputs = tuple(dict.fromkeys(name for o in self.observers.values() for name in o.outputs))

    def __enter__(self) -> StandardObservers:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add(self, arrays: Mapping[str, np.ndarray]) -> list[str]:
        """Take in one sample's outputs; gives the tensors with NaN or infinities, which were counted but not added."""
        faulty = []
        for name, observer in self.observers.items():
            running = self.running[name]
            running.add_shape(arrays[observer.shape])
            parts = arrays[observer.minimum], arrays[observer.maximum], arrays[observer.sum]
            if not all(np.isfinite(part).all() for part in parts):
                faulty.append(name)
                continue
            running.add_ranges(*parts)
            if observer.values is not None:
                running.add_values(arrays[observer.values])
        return faulty

    def add_faulty(self, name: str, values: np.ndarray) -> None:
        """The values of a tensor with NaN or infinities."""
        self.running[name].add_faulty(values)

    def stats(self) -> dict[str, Stats]:
        return {name: running.stats() for name, running in self.running.items()}


def _observer(builder: Builder, value: ir.Value, wish: Wish) -> Observer:
    x = builder.as_float(value)
    view = _channels(builder, x, wish.channel_axis) if wish.channel_axis is not None else None
    seen, axes = view if view is not None else (x, None)
    return Observer(
        channel_axis=wish.channel_axis if view is not None else None,
        shape=builder.shape(value),
        minimum=_reduced(builder, "ReduceMin", seen, axes),
        maximum=_reduced(builder, "ReduceMax", seen, axes),
        sum=_reduced(builder, "ReduceSum", seen, axes),
        values=builder.output(x) if wish.histogram or wish.gram else None,
    )


def _reduced(builder: Builder, op: str, value: ir.Value, axes: list[int] | None) -> str:
    since = 13 if op == "ReduceSum" else 18  # opset from which axes are an input
    if axes is None:
        found = builder.node(op, [value], ir.DataType.FLOAT, keepdims=0)
    elif builder.opset >= since:
        found = builder.node(op, [value, builder.integers(axes)], ir.DataType.FLOAT, keepdims=0)
    else:
        found = builder.node(op, [value], ir.DataType.FLOAT, keepdims=0, axes=axes)
    return builder.output(found)


def _channels(builder: Builder, value: ir.Value, axis: int) -> tuple[ir.Value, list[int]] | None:
    """`value` seen so that the axes to reduce are known, and these; None if that takes a rank that is not known."""
    rank = len(value.shape) if value.shape is not None else None
    if rank is not None and not -rank <= axis < rank:
        return None
    if rank == 1:
        return builder.node("Unsqueeze", [value, builder.integers([0])], ir.DataType.FLOAT), [0]
    if rank is not None and rank <= 2:
        return value, [i for i in range(rank) if i != axis % rank]
    if (axis == -1 or (rank is not None and axis == rank - 1)) and builder.opset >= 11:  # negative axes since 11
        return builder.node("Flatten", [value], ir.DataType.FLOAT, axis=-1), [0]
    if rank is not None:
        return value, [i for i in range(rank) if i != axis % rank]
    if axis == 1:
        return builder.node("Reshape", [value, builder.integers([0, 0, -1])], ir.DataType.FLOAT), [0, 2]
    return None
