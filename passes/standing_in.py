"""Standard nodes in the place of a foreign one: what the spellings of quantized operators are written with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from qonnx.passes.rewire import fresh_name, initializer, new_node, remove_unused, replace


class StandingIn:
    """Builds nodes in front of `node` and, at the end, lets the last one take its place.

    Values are named after the node's output, so that tensors can still be matched with the original.
    """

    def __init__(self, node: ir.Node):
        self.node, self.graph = node, node.graph
        self.stem = node.outputs[0].name or node.name or node.op_type
        self.made: list[ir.Node] = []

    def constant(self, suffix: str, data: np.ndarray, dtype: ir.DataType | None = None) -> ir.Value:
        """An initializer of the graph; `dtype` for number types that numpy stores in bytes (int4, …)."""
        data = np.asarray(data) if dtype is None else np.asarray(data).astype(dtype.numpy())
        return initializer(self.graph, f"{self.stem}_{suffix}", data)

    def add(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        suffix: str,
        attributes: dict[str, Any] | None = None,
        *,
        dtype: ir.DataType | None = None,
        shape: ir.Shape | None = None,
    ) -> ir.Value:
        """A new standard node; its first output."""
        while inputs and inputs[-1] is None:
            inputs = inputs[:-1]
        made = new_node(kind, list(inputs), attributes, like=self.node, suffix=f"{suffix}_{len(self.made)}")
        value = made.outputs[0]
        value.name = fresh_name(self.graph, f"{self.stem}_{suffix}")
        value.type = None if dtype is None else ir.TensorType(dtype)
        value.shape = shape
        self.graph.insert_before(self.node, made)
        self.made.append(made)
        return value

    def finish(self, value: ir.Value) -> None:
        """`value`, of a node made here, is what the foreign node computed; what only that node read goes."""
        producer = value.producer()
        producer.name = self.node.name or producer.name
        producer.meta.update(self.node.meta)
        sources = [v.producer() for v in self.node.inputs if v is not None]
        loose = [v for v in self.node.inputs if v is not None and v.is_initializer()]
        replace(self.node.outputs[0], value)
        remove_unused([self.node, *sources])
        for one in loose:
            remove_loose(one)


def remove_loose(value: ir.Value) -> None:
    """Forget an initializer that nothing reads."""
    if value.graph is not None and not value.uses() and not value.is_graph_output() and not value.is_graph_input():
        value.graph.initializers.pop(value.name, None)
