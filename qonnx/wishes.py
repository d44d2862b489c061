"""Wish: what to gather about a tensor; and the part of a graph that all ways of gathering build on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

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


def values_by_name(model: ir.Model) -> dict[str, ir.Value]:
    """Every value of the main graph that is computed or fed; those inside bodies and functions cannot be observed."""
    found = {v.name: v for v in model.graph.inputs if v.name}
    for node in model.graph:
        found.update({v.name: v for v in node.outputs if v.name})
    return found


class Builder:
    """Adds nodes of the model's own opset to its main graph, with names that no other value has."""

    def __init__(self, model: ir.Model):
        self.graph = model.graph
        self.opset = model.opset_imports.get("", 1)
        self.values = values_by_name(model)
        self.taken = set(self.values) | set(model.graph.initializers)
        self.count = 0
        self.floats: dict[str, ir.Value] = {}
        self.outputs = {v.name for v in model.graph.outputs}

    def observable(self, wishes: Mapping[str, Wish]) -> Iterator[tuple[ir.Value, Wish]]:
        """The wished tensors that are in the main graph and of a float type (or of one that is not known)."""
        for name, wish in wishes.items():
            value = self.values.get(name)
            if value is not None and (value.dtype is None or value.dtype in FLOATS):
                yield value, wish

    def name(self) -> str:
        """A new name."""
        while True:
            self.count += 1
            name = f"observer/{self.count}"
            if name not in self.taken:
                self.taken.add(name)
                return name

    def node(self, op: str, inputs: list[ir.Value], dtype: ir.DataType, **attributes) -> ir.Value:
        """The only output of a new node."""
        output = ir.Value(name=self.name(), type=ir.TensorType(dtype))
        self.graph.append(ir.node(op, inputs, attributes, outputs=[output], name=output.name))
        return output

    def integers(self, numbers: list[int]) -> ir.Value:
        """A new int64 initializer."""
        name = self.name()
        value = ir.Value(name=name, const_value=ir.tensor(np.array(numbers, np.int64), name=name))
        self.graph.initializers[name] = value
        return value

    def output(self, value: ir.Value) -> str:
        """Make `value` a graph output and give its name."""
        if value.name not in self.outputs:
            self.graph.outputs.append(value)
            self.outputs.add(value.name)
        return value.name

    def as_float(self, value: ir.Value) -> ir.Value:
        """`value` in float32."""
        if value.dtype is ir.DataType.FLOAT:
            return value
        if value.name not in self.floats:
            self.floats[value.name] = self.node("Cast", [value], ir.DataType.FLOAT, to=ir.DataType.FLOAT.value)
        return self.floats[value.name]

    def shape(self, value: ir.Value) -> str:
        """Make the shape of `value` a graph output (int64) and give its name."""
        return self.output(self.node("Shape", [value], ir.DataType.INT64))
