"""lift_constants: every constant becomes an initializer of its graph, and no initializer is an input.

Older exporters keep all weights in Constant nodes (Paddle) or list them among the graph's inputs (IR version 3, where
the format demanded it). Passes look for weights in one place only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import bodies, is_op


@dataclasses.dataclass
class LiftConstants(Pass):
    """Cases:

    1. a Constant node, whichever attribute holds the value, becomes an initializer of the same name;
    2. a Constant node that is a graph's output stays: an output needs a node;
    3. an initializer that is also a graph input stops being an input (its value can then not be overridden at run
    time).
    """

    tolerance = 0.0

    def changes(self, model: ir.Model) -> Iterator[Change]:
        for body in bodies(model):
            for value in [v for v in body.inputs if v.is_initializer()]:
                body.inputs.remove(value)
                yield Change(value.name, "a default input became a constant")
            for node in list(body):
                if is_op(node, "Constant") and not node.outputs[0].is_graph_output():
                    tensor = constant_tensor(node)
                    if tensor is not None:
                        lift(body, node, tensor)
                        yield Change(node.outputs[0].name or "", "Constant node lifted to an initializer")


def constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """The tensor of a Constant node; None when it is sparse or refers to a function's attribute."""
    name, attribute = next(iter(node.attributes.items()))
    if attribute.is_ref() or name == "sparse_value":
        return None
    if name == "value":
        return attribute.as_tensor()
    if name in ("value_string", "value_strings"):
        return ir.StringTensor(np.array(attribute.value, dtype=np.bytes_))
    dtype = np.int64 if name.startswith("value_int") else np.float32
    return ir.tensor(np.array(attribute.value, dtype=dtype))


def lift(graph: ir.Graph, node: ir.Node, tensor: ir.TensorProtocol) -> None:
    """Replace a Constant node by an initializer."""
    old = node.outputs[0]
    name = old.name
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    value.metadata_props.update(old.metadata_props)
    tensor.name = name
    old.replace_all_uses_with(value)
    graph.remove(node, safe=True)
    if value.uses():
        graph.register_initializer(value)
