"""recognise_activations: an elementwise region that computes a known activation becomes that operator."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qonnx.passes.activations import EVALUATE, KNOWN, Activation, evaluate, name_of, region, sources
from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import bodies, initializer, new_node, remove_unused, replace


@dataclasses.dataclass
class RecogniseActivations(Pass):
    """Later steps know an activation by its operator: which range it leaves alone, which table it may use.

    Cases: 1. the opset has the operator: it replaces the region; 2. SiLU and quick GELU have none and become
    x·Sigmoid(x) and x·Sigmoid(1.702·x); 3. the opset is too old for the operator: the region stays as it is.
    """

    def changes(self, model: ir.Model) -> Iterator[Change]:
        opset = model.graph.opset_imports.get("", 0)
        for body in bodies(model):
            for node in list(reversed(list(body))):
                if node.graph is not None and node.domain == "" and node.op_type in EVALUATE:
                    yield from _recognise(node, opset)


def _recognise(node: ir.Node, opset: int) -> Iterator[Change]:
    result = node.outputs[0]
    nodes = region(result)
    if len(nodes) < 2 or nodes[-1] is not node:
        return
    for source, inside in sources(nodes):
        if len(inside) < 2 or source.dtype != result.dtype:
            continue
        name = name_of(evaluate(inside, source))
        if name is None:
            continue
        known = KNOWN[name]
        if known.opset <= opset and not _is_canonical(inside, known):
            _emit(node, source, known)
            yield Change(node.name or result.name or "", f"{len(inside)} nodes are {name}")
        return


def _is_canonical(inside: list[ir.Node], known: Activation) -> bool:
    kinds = [n.op_type for n in inside]
    return known.gate and kinds == (["Sigmoid", "Mul"] if known.factor is None else ["Mul", "Sigmoid", "Mul"])


def _emit(node: ir.Node, source: ir.Value, known: Activation) -> None:
    """Put the canonical spelling in the place of `node`, which computed the result."""
    graph, x, made = node.graph, source, []
    if known.factor is not None:
        kind = (source.dtype or ir.DataType.FLOAT).numpy()
        factor = initializer(graph, f"{node.outputs[0].name}.factor", np.array(known.factor, kind))
        made.append(new_node("Mul", [x, factor], like=node, suffix="factor"))
        x = made[-1].outputs[0]
    made.append(
        new_node(known.operator, [x], dict(known.attributes), like=node, suffix=known.operator if known.gate else "")
    )
    if known.gate:
        made.append(new_node("Mul", [source, made[-1].outputs[0]], like=node))
    graph.insert_before(node, made)
    for new in made:
        new.outputs[0].type, new.outputs[0].shape = node.outputs[0].type, source.shape
    replace(node.outputs[0], made[-1].outputs[0])
    remove_unused([node])
