"""Place code books: products and look-ups whose weights are solved in code books become operators of `ai.qonnx`.

1. Vectors along inputs: MatMul or Gemm becomes MatMulCodebook, with the bias of a Gemm, or of the Add behind a MatMul,
   as the operator's own.
2. Embedding tables: Gather becomes GatherCodebook, which decodes only the rows asked for.
3. Vectors along outputs (VPTQ): the weight's rows, one for each input, come out of GatherCodebook and are multiplied as
   they are; parts with books of their own are concatenated and put in order.

A weight that several nodes read is stored once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qonnx.codebooks import CodebookTensor
from qonnx.custom_ops import codebook, ops
from qonnx.custom_ops.codebook import CodebookWeight
from qonnx.notes import done, note
from qonnx.passes.base import Change, Pass
from qonnx.passes.linear import add_to_bias
from qonnx.passes.rewire import (
    array,
    bodies,
    initializer,
    is_op,
    new_node,
    only_use,
    remove_unused,
    replace,
)
from qonnx.passes.stored_weights import bias_of

GATHER = "GatherCodebook"


@dataclasses.dataclass
class PlaceCodebooks(Pass):
    """Write the operators; each node ends `done` in the ledger. int8: round activations to 8 bits by row inside the
    product, which then sums integers."""

    int8: bool = False

    needs = ("assign_codebooks | allocate", "solve_in_turn | solve_weights")
    tolerance = None

    def changes(self, model: ir.Model) -> Iterator[Change]:
        stored: dict[tuple[int, int], list[ir.Value]] = {}
        for graph in bodies(model):
            for node in list(graph):
                solved = note(node).solved
                if not isinstance(solved, CodebookTensor) or note(node).fate is not None:
                    continue
                weight = node.inputs[note(node).plan.weight_index]
                if note(node).mean_error is not None:
                    add_to_bias(node, -note(node).mean_error, weight.dtype.numpy())
                arrays = _arrays(weight, solved, stored)
                place = _table if is_op(node, "Gather") else _decoded if solved.format.along == "outputs" else None
                detail, name = str(note(node).plan), node.name or node.outputs[0].name
                new = place(model, node, solved, arrays) if place else self._product(model, node, solved, arrays)
                done(new, detail)
                yield Change(name, detail)

    def _product(self, model: ir.Model, node: ir.Node, solved: CodebookTensor, arrays: list) -> ir.Node:
        """Case 1."""
        operator = codebook.INT8 if self.int8 else codebook.EXACT
        last, bias = _with_bias(node, solved.parts[0].shape[0])
        kind = (node.inputs[0].dtype or ir.DataType.FLOAT).numpy()
        zero = np.zeros(1, kind) if bias is None else bias.astype(kind)
        bias_value = initializer(node.graph, f"{node.outputs[0].name}_bias", zero)
        inputs = [node.inputs[0], *arrays[0], bias_value]
        new = ops.node(operator, inputs, node_name=node.name, **solved.parts[0].attributes())
        ops.add_to_model(model, operator)
        _stand_in(node, last, new)
        return new


def _arrays(weight: ir.Value, solved: CodebookTensor, stored: dict) -> list[list[ir.Value]]:
    """Initializers of every part, in the graph that owns the weight; those of one solved weight are made once."""
    graph = weight.graph if weight.is_initializer() else weight.producer().graph
    key = (id(solved), id(graph))
    if key not in stored:
        stored[key] = [
            [initializer(graph, f"{weight.name}_{name}{index or ''}", data) for name, data in part.arrays().items()]
            for index, part in enumerate(solved.parts)
        ]
    return stored[key]


def _with_bias(node: ir.Node, outputs: int) -> tuple[ir.Node, np.ndarray | None]:
    """The node behind which the operator ends, and the bias that it takes over; None if there is none to take."""
    if is_op(node, "Gemm"):
        bias = bias_of(node, outputs)
        return node, bias if bias.size else None
    output = node.outputs[0]
    if only_use(output):
        use = next(iter(output.uses()))
        if is_op(use.node, "Add") and use.node.graph is node.graph:
            bias = array(use.node.inputs[1 - use.idx])
            if bias is not None and bias.ndim >= 1 and bias.size == bias.shape[-1] == outputs:
                return use.node, bias.reshape(-1)
    return node, None


def _table(model: ir.Model, node: ir.Node, solved: CodebookTensor, arrays: list) -> ir.Node:
    """Case 2."""
    made = _rows(model, node, node.inputs[1], solved.parts[0], arrays[0], "")
    _finish(node, made)
    return made[-1]


def _decoded(model: ir.Model, node: ir.Node, solved: CodebookTensor, arrays: list) -> ir.Node:
    """Case 3."""
    graph, made, tables = node.graph, [], []
    for index, (part, values) in enumerate(zip(solved.parts, arrays, strict=True)):
        rows = initializer(graph, f"{node.outputs[0].name}_inputs{index or ''}", np.arange(part.shape[0]))
        made += _rows(model, node, rows, part, values, f"weight{index or ''}")
        tables.append(made[-1].outputs[0])
    if len(tables) > 1:
        made.append(new_node("Concat", tables, {"axis": 0}, like=node, suffix="parts"))
        back = initializer(graph, f"{node.outputs[0].name}_order", np.argsort(solved.order))
        made.append(new_node("Gather", [made[-1].outputs[0], back], {"axis": 0}, like=node, suffix="order"))
    attributes = {key: value for key, value in node.attributes.items() if key != "transB"}
    inputs = [node.inputs[0], made[-1].outputs[0], *node.inputs[2:]]
    made.append(new_node(node.op_type, inputs, attributes, like=node))
    _finish(node, made)
    return made[-1]


def _rows(
    model: ir.Model, node: ir.Node, rows: ir.Value, part: CodebookWeight, values: list[ir.Value], suffix: str
) -> list[ir.Node]:
    """GatherCodebook, and a Cast where the books' type is not the weight's."""
    kind = node.inputs[note(node).plan.weight_index].dtype
    name = f"{node.name or node.outputs[0].name}.{suffix}" if suffix else node.name
    made = [ops.node(GATHER, [rows, *values], node_name=name, **part.attributes())]
    ops.add_to_model(model, GATHER)
    made[0].outputs[0].type = ir.TensorType(values[1].dtype)
    if values[1].dtype != kind:
        made.append(new_node("Cast", [made[0].outputs[0]], {"to": int(kind)}, like=node, suffix=f"{suffix}cast"))
    base = node.outputs[0].name
    for one in made:
        one.outputs[0].name = f"{base}_{suffix}_{one.op_type}"
    return made


def _finish(node: ir.Node, made: list[ir.Node]) -> None:
    """Insert `made`, whose last node takes the place of `node`."""
    for one in made[:-1]:
        node.graph.insert_before(node, one)
    _stand_in(node, node, made[-1])


def _stand_in(node: ir.Node, last: ir.Node, new: ir.Node) -> None:
    """Put `new` in the place of the nodes from `node` to `last`, with the notes of `node`; what is dead then goes."""
    node.graph.insert_before(node, new)
    new.metadata_props.update(node.metadata_props)
    new.meta.update(node.meta)
    replace(last.outputs[0], new.outputs[0])
    remove_unused([last, node])
