"""fold_constants: what does not depend on the input is computed once, here.

Two kinds: nodes whose inputs are all constants, run in ONNX Runtime (so that the numbers are those that it would
compute); and shape arithmetic, which can be known although the batch size is open.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from qonnx.errors import QonnxError
from qonnx.passes.base import Change, Pass
from qonnx.passes.infer_shapes import infer
from qonnx.passes.rewire import bodies, initializer, integer, is_constant, is_op, remove_unused, set_input
from qonnx.passes.shape_values import ShapeValues, is_known

# Operators that stay although their inputs are constant. DequantizeLinear keeps a weight small: folding it would turn a
# quantized model back into a float one.
BARRIERS = ("DequantizeLinear", "Constant", "RandomNormal", "RandomUniform", "If", "Loop", "Scan", "Optional")
_RANDOM = ("RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout", "SequenceConstruct")
_ROUNDS = 20  # each round makes new shapes known; real models need three


@dataclasses.dataclass
class FoldConstants(Pass):
    """Cases:

    1. shape arithmetic whose numbers are all known becomes a constant;
    2. the shape of a Reshape that is known but for one number gets −1 there, and 0 where it copies an open dimension;
    3. nodes with only constant inputs become constants, unless the file would grow by more than `growth` bytes for one;
    4. DequantizeLinear over a constant is a barrier and stays.
    """

    growth: int = 1 << 20

    tolerance = 1e-6

    def changes(self, model: ir.Model) -> Iterator[Change]:
        for _ in range(_ROUNDS):
            made = 0
            for body in bodies(model):
                for change in (*_shape_arithmetic(body), *_reshapes(body), *_constants(body, model, self.growth)):
                    made += 1
                    yield change
            if not made:
                break
            infer(model)


def _shape_arithmetic(body: ir.Graph) -> list[Change]:
    """Case 1."""
    known, made = ShapeValues(), []
    for node in list(body):
        value = node.outputs[0] if len(node.outputs) == 1 else None
        if node.graph is None or value is None or value.is_graph_output() or is_op(node, *BARRIERS):
            continue
        elements = known(value)
        if elements is None or not is_known(elements) or value.dtype is None or not value.uses():
            continue
        data = np.array(elements.tolist(), dtype=value.dtype.numpy()).reshape(elements.shape)
        made.append((node, value, data))
    changes = []
    inside = {node for node, _, _ in made}
    for node, value, data in made:
        if any(use.node not in inside for use in value.uses()):
            _become_constant(body, node, value, data)
            changes.append(Change(value.name or "", f"{node.op_type} of known shapes folded"))
    return changes


def _become_constant(body: ir.Graph, node: ir.Node, value: ir.Value, data: np.ndarray) -> None:
    """Replace one output of a node by an initializer that takes over its name."""
    name = value.name
    value.name = f"{name}.computed"
    constant = initializer(body, name, data)
    value.replace_all_uses_with(constant)
    remove_unused([node])


def _reshapes(body: ir.Graph) -> list[Change]:
    """Case 2."""
    known, changes = ShapeValues(), []
    for node in list(body):
        if not is_op(node, "Reshape") or is_constant(node.inputs[1]) or integer(node, "allowzero", 0):
            continue
        wanted = known(node.inputs[1])
        shape = None if wanted is None or wanted.ndim != 1 else _with_placeholders(wanted, node.inputs[0].shape)
        if shape is not None:
            set_input(node, 1, initializer(body, f"{node.outputs[0].name}.shape", shape))
            changes.append(Change(node.name or "", f"Reshape to {shape.tolist()}"))
    return changes


def _with_placeholders(wanted: np.ndarray, source: ir.Shape | None) -> np.ndarray | None:
    """The shape as constants: numbers, 0 for an open dimension of that place in `source`, at most one −1."""
    result = []
    for place, element in enumerate(wanted):
        if isinstance(element, np.generic):
            if element == 0:
                return None
            result.append(int(element))
            continue
        dim = source[place] if source is not None and place < len(source) else None
        copies = isinstance(element, str) and isinstance(dim, ir.SymbolicDim) and dim.value == element
        result.append(0 if copies else -1)
    if result.count(-1) > 1:
        return None
    if result.count(-1) == 0 and result.count(0) == 1:
        result[result.index(0)] = -1  # the more general of two equal spellings
    return np.array(result, np.int64)


def _constants(body: ir.Graph, model: ir.Model, growth: int) -> list[Change]:
    """Case 3."""
    folded: set[ir.Value] = set()
    nodes: list[ir.Node] = []
    for node in body:
        fits = node.domain == "" and not is_op(node, *BARRIERS, *_RANDOM) and not _returns(node) and node.inputs
        constant = fits and all(v is None or v in folded or is_constant(v) for v in node.inputs)
        if constant and _growth(node, folded) <= growth:
            nodes.append(node)
            folded.update(node.outputs)
    wanted = [v for node in nodes for v in node.outputs if any(use.node not in nodes for use in v.uses())]
    if not wanted:
        return []
    results = _evaluate(nodes, wanted, model)
    changes = []
    for value, data in zip(wanted, results, strict=True):
        if data is not None:
            node = value.producer()
            _become_constant(body, node, value, data)
            changes.append(Change(value.name or "", f"{node.op_type} of constants folded"))
    return changes


def _returns(node: ir.Node) -> bool:
    return any(o.is_graph_output() for o in node.outputs)


def _growth(node: ir.Node, folded: set[ir.Value]) -> int:
    """Bytes that the file grows by if this node's outputs are stored instead of its inputs."""
    sizes = [_bytes(v) for v in node.outputs]
    if None in sizes:
        return 1 << 62 if is_op(node, "ConstantOfShape", "Expand", "Tile", "Range") else 0
    replaced = {v for v in node.inputs if v is not None and len(v.uses()) == 1 and (v in folded or is_constant(v))}
    return sum(sizes) - sum(_bytes(v) or 0 for v in replaced)


def _bytes(value: ir.Value) -> int | None:
    if value.shape is None or value.dtype is None or not value.shape.is_static():
        return None
    return math.prod(value.shape.numpy()) * value.dtype.bitwidth // 8


def _evaluate(nodes: Sequence[ir.Node], wanted: Sequence[ir.Value], model: ir.Model) -> list[np.ndarray | None]:
    """The values of constant nodes; one session for all, or one each if ONNX Runtime cannot run them all."""
    from qonnx.runtime import RUN_ERRORS, session

    def run(some: Sequence[ir.Node], outputs: Sequence[ir.Value]) -> list[np.ndarray]:
        return session(_extract(some, outputs, model), optimization="none", threads=1).run(None, {})

    try:
        return run(nodes, wanted)
    except (QonnxError, *RUN_ERRORS) as error:
        logging.getLogger(__name__).debug("folding one by one: %s", error)
    results: list[np.ndarray | None] = []
    for value in wanted:
        node = value.producer()
        try:
            results.append(
                run([node], [value])[0] if all(is_constant(v) for v in node.inputs if v is not None) else None
            )
        except (QonnxError, *RUN_ERRORS):
            results.append(None)
    return results


def _extract(nodes: Sequence[ir.Node], outputs: Sequence[ir.Value], model: ir.Model) -> ir.Model:
    """A model of copies of the nodes, sharing the constants' data."""
    copies: dict[ir.Value, ir.Value] = {}
    graph = ir.Graph([], [], nodes=[], opset_imports=dict(model.graph.opset_imports), name="constants")
    for node in nodes:
        for value in node.inputs:
            if value is not None and value not in copies:
                tensor = ir.convenience.get_const_tensor(value)
                copy = ir.Value(
                    name=value.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
                )
                graph.register_initializer(copy)
                copies[value] = copy
        inputs = [None if v is None else copies[v] for v in node.inputs]
        twin = ir.Node("", node.op_type, inputs, list(node.attributes.values()), num_outputs=len(node.outputs))
        for value, copy in zip(node.outputs, twin.outputs, strict=True):
            copy.name, copy.type, copy.shape = value.name, value.type, value.shape
            copies[value] = copy
        graph.append(twin)
    graph.outputs.extend(copies[v] for v in outputs)
    return ir.Model(graph, ir_version=model.ir_version)
