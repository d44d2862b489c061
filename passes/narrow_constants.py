"""Narrow constants: scales and zero points of packed weights in the fewest bits that hold them exactly.

1. Scales of at most 256 different values: indices of 8 bits or fewer, Cast, and Gather from the table of the values.
2. Zero points below 16 or 4: uint4 or uint2, and Cast.

The numbers that an operator reads are the same, bit for bit: a runtime folds constants when it loads the model, and a
kernel packs what comes out of that. Which types there are depends on the opset (custom_ops/narrow.py). Constants that
anything else reads, and those too small to pay for the nodes, stay.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import onnx_ir as ir

from qonnx.custom_ops import DOMAIN
from qonnx.custom_ops.narrow import Narrow, narrow
from qonnx.custom_ops.ops import OPS
from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import array, fresh_name, initializer, set_input

_PORTS = ("scale", "zero_point")
_KINDS = (np.dtype(np.uint8), np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


@dataclasses.dataclass
class NarrowConstants(Pass):
    """Store scales and zero points of the operators of `ai.qonnx` in fewer bits where that is exact."""

    tolerance = 0.0
    recurses = False  # constants of the main graph, read by nodes there

    def changes(self, model: ir.Model) -> Iterator[Change]:
        opset = model.graph.opset_imports.get("", 1)
        for value in list(model.graph.initializers.values()):
            uses = value.uses()
            if not uses or value.is_graph_output() or not all(_parameter(model.graph, use) for use in uses):
                continue
            data = array(value)
            found = narrow(data, opset) if data.dtype in _KINDS else None
            if found is not None:
                yield _narrowed(model.graph, value, found)


def _parameter(graph: ir.Graph, use: ir.Usage) -> bool:
    """Whether an operator of ours reads its scale or zero point there."""
    node = use.node
    if node.graph is not graph or node.domain != DOMAIN or node.op_type not in OPS:
        return False
    ports = OPS[node.op_type].inputs
    return use.idx < len(ports) and ports[use.idx].endswith(_PORTS)


def _narrowed(graph: ir.Graph, value: ir.Value, found: Narrow) -> Change:
    readers = [(use.node, use.idx) for use in value.uses()]
    stored = initializer(graph, f"{value.name}_stored", found.stored)
    made = [ir.node("Cast", [stored], {"to": int(ir.DataType.UINT8 if found.table is None else ir.DataType.INT32)})]
    if found.table is not None:
        table = initializer(graph, f"{value.name}_table", found.table)
        made.append(ir.node("Gather", [table, made[0].outputs[0]], {"axis": 0}))
    first = min((node for node, _ in readers), key=list(graph).index)
    for node in made:
        node.name = f"{value.name}_{node.op_type}"
        output = node.outputs[0]
        output.name = fresh_name(graph, f"{value.name}_{node.op_type.lower()}")
        output.shape = value.shape
        output.type = ir.TensorType(ir.DataType(node.attributes.get_int("to", ir.DataType.FLOAT)))
        graph.insert_before(first, node)
    for node, index in readers:
        set_input(node, index, made[-1].outputs[0])
    return Change(value.name, f"{stored.dtype.name.lower()}, {found.nbytes} bytes")
