"""Observers: standard operators added to a model so that it also computes statistics of chosen tensors.

An observer of a tensor X adds Shape, ReduceMin and ReduceMax (over all of X or over all axes but one), and ReduceSum
where means of channels are wanted, each a small graph output. X itself becomes an output only where a histogram, a Gram
matrix or a count of NaN needs the values. Reductions run in float32 whatever the type of X. With
ExecutionOrder.PRIORITY_BASED ONNX Runtime runs them as soon as X exists; its default order runs leaves last and keeps
every activation alive (1.8 GB against 0.65 on a ViT at batch 8).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from qonnx.stats import Window

FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}


@dataclasses.dataclass(frozen=True)
class Wish:
    """What to gather about a tensor, besides minimum and maximum.

    channel_axis: also minimum, maximum and sum for each index of this axis. histogram: counts over the values' range.
    gram: second moments of the rows (last axis), or of the patches under `window` when the tensor feeds a convolution.
    """

    channel_axis: int | None = None
    histogram: bool = False
    gram: bool = False
    window: Window | None = None


@dataclasses.dataclass(frozen=True)
class Observer:
    """Names of the outputs that carry one tensor's numbers; None where there is none."""

    name: str
    wish: Wish
    channel_axis: int | None
    shape: str
    minimum: str
    maximum: str
    sum: str | None
    values: str | None

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(n for n in (self.shape, self.minimum, self.maximum, self.sum, self.values) if n is not None)


def values_by_name(model: ir.Model) -> dict[str, ir.Value]:
    """Every value of the main graph that is computed or fed; those inside bodies and functions cannot be observed."""
    found = {v.name: v for v in model.graph.inputs if v.name}
    for node in model.graph:
        found.update({v.name: v for v in node.outputs if v.name})
    return found


def expose(model: ir.Model, names: Iterable[str]) -> dict[str, str]:
    """Make tensors graph outputs, in float32; gives name of the tensor -> name of the output."""
    builder = _Builder(model)
    values = values_by_name(model)
    return {n: builder.output(builder.as_float(values[n])) for n in names if n in values}


def expose_shapes(model: ir.Model, names: Iterable[str]) -> dict[str, str]:
    """Make shapes of tensors graph outputs (int64); gives name of the tensor -> name of the output."""
    builder = _Builder(model)
    values = values_by_name(model)
    return {n: builder.output(builder.node("Shape", [values[n]], ir.DataType.INT64)) for n in names if n in values}


def add_observers(model: ir.Model, wishes: Mapping[str, Wish]) -> list[Observer]:
    """Add observers to `model` (a clone of the user's); tensors not in its main graph, or not float, get none."""
    builder = _Builder(model)
    values = values_by_name(model)
    wanted = ((values.get(name), wish) for name, wish in wishes.items())
    return [builder.observer(v, w) for v, w in wanted if v is not None and (v.dtype is None or v.dtype in FLOATS)]


class _Builder:
    """Adds nodes of the model's own opset, with names that no other value has."""

    def __init__(self, model: ir.Model):
        self.graph = model.graph
        self.opset = model.opset_imports.get("", 1)
        self.count = 0
        self.taken = set(values_by_name(model)) | set(model.graph.initializers)
        self.floats: dict[str, ir.Value] = {}
        self.outputs = {v.name for v in model.graph.outputs}

    def name(self) -> str:
        while True:
            self.count += 1
            name = f"observer/{self.count}"
            if name not in self.taken:
                self.taken.add(name)
                return name

    def node(self, op: str, inputs: list[ir.Value], dtype: ir.DataType, **attributes) -> ir.Value:
        output = ir.Value(name=self.name(), type=ir.TensorType(dtype))
        self.graph.append(ir.node(op, inputs, attributes, outputs=[output], name=output.name))
        return output

    def integers(self, numbers: list[int]) -> ir.Value:
        name = self.name()
        value = ir.Value(name=name, const_value=ir.tensor(np.array(numbers, np.int64), name=name))
        self.graph.initializers[name] = value
        return value

    def output(self, value: ir.Value) -> str:
        if value.name not in self.outputs:
            self.graph.outputs.append(value)
            self.outputs.add(value.name)
        return value.name

    def as_float(self, value: ir.Value) -> ir.Value:
        if value.dtype is ir.DataType.FLOAT:
            return value
        if value.name not in self.floats:
            self.floats[value.name] = self.node("Cast", [value], ir.DataType.FLOAT, to=ir.DataType.FLOAT.value)
        return self.floats[value.name]

    def reduced(self, op: str, value: ir.Value, axes: list[int] | None) -> str:
        since = 13 if op == "ReduceSum" else 18  # opset from which axes are an input
        if axes is None:
            return self.output(self.node(op, [value], ir.DataType.FLOAT, keepdims=0))
        if self.opset >= since:
            return self.output(self.node(op, [value, self.integers(axes)], ir.DataType.FLOAT, keepdims=0))
        return self.output(self.node(op, [value], ir.DataType.FLOAT, keepdims=0, axes=axes))

    def channels(self, value: ir.Value, axis: int) -> tuple[ir.Value, list[int]] | None:
        """`value` seen so that the axes to reduce are known, and these; None if that takes a rank that is not known."""
        rank = len(value.shape) if value.shape is not None else None
        if rank is not None and not -rank <= axis < rank:
            return None
        if rank is not None and rank <= 2:
            return value, [i for i in range(rank) if i != axis % rank]
        if (axis == -1 or (rank is not None and axis == rank - 1)) and self.opset >= 11:  # negative axes since 11
            return self.node("Flatten", [value], ir.DataType.FLOAT, axis=-1), [0]
        if rank is not None:
            return value, [i for i in range(rank) if i != axis % rank]
        if axis == 1:
            return self.node("Reshape", [value, self.integers([0, 0, -1])], ir.DataType.FLOAT), [0, 2]
        return None

    def observer(self, value: ir.Value, wish: Wish) -> Observer:
        x = self.as_float(value)
        view = self.channels(x, wish.channel_axis) if wish.channel_axis is not None else None
        seen, axes = view if view is not None else (x, None)
        return Observer(
            name=value.name,
            wish=wish,
            channel_axis=wish.channel_axis if view is not None else None,
            shape=self.output(self.node("Shape", [value], ir.DataType.INT64)),
            minimum=self.reduced("ReduceMin", seen, axes),
            maximum=self.reduced("ReduceMax", seen, axes),
            sum=self.reduced("ReduceSum", seen, axes) if view is not None else None,
            values=self.output(x) if wish.histogram or wish.gram else None,
        )
