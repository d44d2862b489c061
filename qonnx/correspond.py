"""Which tensor of one model is which tensor of the other: by name, then producer, then shape and order.

Tools that quantize keep most names, rename some, and fuse others away. A wrong pair would blame an innocent layer, so
each step asks for equal shapes, and the last one for equal counts: a guess is worse than a gap.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping

import onnx_ir as ir

from qonnx.operators import base_operator
from qonnx.probes import Shapes

# Integer operators whose output is codes: where they keep the scale and zero point of that output.
OUTPUT_SCALE = {
    "QuantizeLinear": (1, 2),
    "QLinearConv": (6, 7),
    "QLinearMatMul": (6, 7),
    "QLinearAdd": (6, 7),
    "QLinearMul": (6, 7),
    "QGemm": (7, 8),
    "QLinearSigmoid": (3, 4),
    "QLinearLeakyRelu": (3, 4),
    "QLinearSoftmax": (3, 4),
    "QLinearGlobalAveragePool": (3, 4),
    "QLinearAveragePool": (3, 4),
    "QLinearConcat": (0, 1),
}


@dataclasses.dataclass(frozen=True)
class Match:
    """The counterpart of a tensor: a value of the result, and how it was found. If `codes`, the value is integers.

    A tensor that is read only through its quantizer is matched behind it. So each quantizer belongs to one layer, which
    makes the tensor, and a ReLU that a tool has dropped in favour of the quantizer's clipping is no error.
    """

    value: str
    how: str  # "name", "producer" or "order"
    codes: bool = False


def correspond(
    reference: ir.Graph, result: ir.Graph, tensors: Iterable[str], shapes: tuple[Shapes, Shapes]
) -> dict[str, Match]:
    """A Match for each of `tensors` (names of values in `reference`) that has a counterpart in `result`; no value of
    the result is the counterpart of two tensors.

    Tools drop a ReLU whose work the clipping of the next quantizer does. The tensor before such a ReLU has no
    counterpart then, and the one behind it is what the node before it makes.
    """
    candidates = _Candidates(result, shapes[1])
    known = {value.name: value for node in reference for value in (*node.inputs, *node.outputs) if value is not None}
    found: dict[str, Match] = {}
    taken: set[str] = set()
    names = [name for name in tensors if name in known]
    lost = {name for name in names if _swallowed(known[name], candidates)}
    for step in (candidates.by_name, candidates.by_producer, candidates.by_dropped):
        for name in names:
            if name in found or name in lost:
                continue
            match = step(known[name], shapes[0].get(name))
            if match is not None and match.value not in taken:
                found[name] = match
                taken.add(match.value)
    left = [name for name in names if name not in found]
    found.update(_by_order(left, known, candidates, shapes, taken))
    return {name: found[name] for name in names if name in found}


def _swallowed(value: ir.Value, candidates: _Candidates) -> bool:
    """Whether the only reader of `value` is an activation that the result does without."""
    readers = {use.node for use in value.uses()}
    return len(readers) == 1 and candidates.lacks(next(iter(readers)))


class _Candidates:
    """Values of the result, looked up in several ways."""

    def __init__(self, graph: ir.Graph, shapes: Shapes) -> None:
        self.shapes = shapes
        self.values = {value.name: value for value in graph.inputs}
        self.nodes: dict[str, ir.Node] = {}
        self.by_weight: dict[str, list[ir.Node]] = defaultdict(list)
        self.order: list[ir.Node] = []
        for node in graph:
            self.values.update((value.name, value) for value in node.outputs if value.name)
            self.nodes[node.name or ""] = node
            self.order.append(node)
            for weight in weight_names(node):
                self.by_weight[_stem(weight)].append(node)

    def by_name(self, wanted: ir.Value, shape: tuple[int, ...] | None) -> Match | None:
        """The value of the same name and shape, unless it holds codes."""
        value = self.values.get(wanted.name)
        if value is not None and self.shapes.get(value.name) == shape and not is_codes(value):
            return self.match(value, "name")
        return None

    def by_producer(self, wanted: ir.Value, shape: tuple[int, ...] | None) -> Match | None:
        """A node of the same kind with the same name (`_quant` and the like appended), or reading the same weight."""
        node = wanted.producer()
        if node is None or node.outputs[0] is not wanted:
            return None
        kind = base_operator(node.op_type)
        names = [f"{node.name}{suffix}" for suffix in ("", "_quant", "_Q4", "_Q8", "_Q2", "_DQ")] if node.name else []
        nodes = [self.nodes[n] for n in names if n in self.nodes]
        for weight in weight_names(node):
            same = [n for n in self.by_weight.get(_stem(weight), []) if base_operator(n.op_type) == kind]
            nodes += same if len(same) == 1 else []
        for candidate in nodes:
            output = candidate.outputs[0]
            if base_operator(candidate.op_type) == kind and self.shapes.get(output.name) == shape:
                return self.match(output, "producer")
        return None

    def by_dropped(self, wanted: ir.Value, shape: tuple[int, ...] | None) -> Match | None:
        """What stands before the activation that makes `wanted`, if the result does without it."""
        node = wanted.producer()
        if node is None or not self.lacks(node):
            return None
        return self.by_name(node.inputs[0], shape) or self.by_producer(node.inputs[0], shape)

    def lacks(self, node: ir.Node) -> bool:
        """Whether `node` is an activation that clips, and the result has none in its place."""
        if node.op_type not in ("Relu", "Clip"):
            return False
        same = [self.nodes.get(node.name or ""), self.nodes.get(f"{node.name}_quant")]
        value = self.values.get(node.outputs[0].name)
        same.append(value.producer() if value is not None else None)
        return not any(other is not None and other.op_type in ("Relu", "Clip", "LeakyRelu") for other in same)

    def match(self, value: ir.Value, how: str) -> Match | None:
        """What readers of `value` see of it: itself, or behind the Q/DQ pair if all read it through one."""
        uses = [use.node for use in value.uses()]
        if not is_codes(value):
            if len(uses) != 1 or uses[0].op_type != "QuantizeLinear" or value.is_graph_output():
                return Match(value.name, how)
            value = uses[0].outputs[0]
        for use in value.uses():
            if use.node.op_type == "DequantizeLinear" and use.idx == 0:
                return Match(use.node.outputs[0].name, how)
        return Match(value.name, how, codes=True)


def _by_order(left: list[str], known: Mapping, candidates: _Candidates, shapes: tuple, taken: set) -> dict:
    """Pairs the n-th unmatched tensor of a kind and shape with the n-th of the result, where both have as many."""
    wanted, offered = defaultdict(list), defaultdict(list)
    for name in left:
        if (node := known[name].producer()) is not None and node.outputs[0].name == name:
            wanted[base_operator(node.op_type), shapes[0].get(name)].append(name)
    for node in candidates.order:
        value = node.outputs[0] if node.outputs else None
        match = candidates.match(value, "order") if value is not None and value.name else None
        if match and match.value not in taken and value.name not in taken:
            offered[base_operator(node.op_type), shapes[1].get(value.name)].append(match)
    return {
        name: match
        for key, names in wanted.items()
        if key[1] is not None and len(names) == len(offered[key])
        for name, match in zip(names, offered[key], strict=True)
    }


def is_codes(value: ir.Value) -> bool:
    """Whether the value holds quantized codes: made by a quantizing or integer operator."""
    node = value.producer()
    return node is not None and node.op_type in OUTPUT_SCALE


def weight_names(node: ir.Node) -> list[str]:
    """Names of the constant matrices and kernels that a node reads, looking through DequantizeLinear."""
    found = []
    for value in node.inputs:
        if value is not None and (maker := value.producer()) is not None and maker.op_type == "DequantizeLinear":
            value = maker.inputs[0]
        if value is not None and value.const_value is not None and len(value.const_value.shape) > 1 and value.name:
            found.append(value.name)
    return found


def _stem(name: str) -> str:
    """A weight's name without what quantizing tools append to it."""
    for suffix in ("_quantized", "_Q4", "_Q8", "_Q2", "_DQ_Q4", "_DQ_Q8", "_q", "_codes"):
        name = name.removesuffix(suffix)
    return name
