"""The coverage ledger: every node that could be quantized, and what became of it.

A model that qonnx has just converted carries its fates in notes. Any other model is read instead: a node counts as done
if its constant weight or its data inputs come from integers (through DequantizeLinear, or as an integer operator).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable

import onnx_ir as ir

from qonnx import notes
from qonnx.operators import ELIGIBLE, INTEGER_OPERATORS, WEIGHT_ONLY_OPERATORS, dequantized, quantized_type, weight_bits

LEFT_FLOAT = "left in float by the tool that wrote this model"


@dataclasses.dataclass(frozen=True)
class LedgerRow:
    """One eligible node. `state` is "done" or "skipped"; `reason` a key of notes.REASONS when skipped, `macs` for one
    sample where known."""

    node: str
    operator: str
    state: str
    reason: str = ""
    detail: str = ""
    macs: int | None = None


def ledger(model: ir.Model) -> tuple[LedgerRow, ...]:
    """The rows of `model` in graph order: from notes if any node has a fate, else derived from the graph itself."""
    nodes = [node for graph in _graphs(model) for node in graph]
    fates = [(node, notes.note(node).fate) for node in nodes]
    if any(fate is not None for _, fate in fates):
        return tuple(
            LedgerRow(_name(node), node.op_type, fate.state, fate.reason, fate.detail, notes.note(node).macs)
            for node, fate in fates
            if fate is not None
        )
    return tuple(_derived(node) for node in nodes if eligible(node))


def summary(rows: Iterable[LedgerRow]) -> list[tuple[str, int]]:
    """Counts by outcome: "done" first, then the reasons for skipping, most frequent first."""
    counts = Counter(row.reason if row.state == "skipped" else "done" for row in rows)
    return sorted(counts.items(), key=lambda item: (item[0] != "done", -item[1], item[0]))


def explain(reason: str) -> str:
    """What a reason code means, in words."""
    return LEFT_FLOAT if reason == "left-float" else notes.REASONS.get(reason, reason)


def _graphs(model: ir.Model) -> Iterable[ir.Graph | ir.Function]:
    yield model.graph
    yield from model.graph.subgraphs()
    for function in model.functions.values():
        if not _is_body(function):
            yield function


def _is_body(function: ir.Function) -> bool:
    """Whether it is the portable body of one of our operators: a specification, not a part of the user's network."""
    return function.domain == "ai.qonnx"


def _name(node: ir.Node) -> str:
    return node.name or (node.outputs[0].name if node.outputs else "") or node.op_type


def eligible(node: ir.Node) -> bool:
    """Whether `node` multiplies or looks up enough to be worth quantizing, or is quantized already."""
    if node.op_type == "Gather":  # only look-ups in a table of weights: most Gathers pick dimensions out of shapes
        table = node.inputs[0]
        tensor = table.const_value
        constant = tensor is not None and tensor.dtype.is_floating_point() and len(tensor.shape) > 1
        return constant or dequantized(table) is not None
    return node.op_type in ELIGIBLE or node.op_type in INTEGER_OPERATORS or node.op_type in WEIGHT_ONLY_OPERATORS


def _derived(node: ir.Node) -> LedgerRow:
    if node.op_type in INTEGER_OPERATORS or node.op_type in WEIGHT_ONLY_OPERATORS:
        bits = weight_bits(node)
        detail = f"{bits}-bit weight" if bits else "integer operator"
        return LedgerRow(_name(node), node.op_type, "done", "", detail)
    sources = [dequantized(value) for value in node.inputs[:2]]
    types = [quantized_type(source) for source in sources]
    if any(types):
        return LedgerRow(_name(node), node.op_type, "done", "", " × ".join(t or "float" for t in types))
    if node.domain not in ("", "ai.onnx", "com.microsoft"):
        return LedgerRow(_name(node), node.op_type, "skipped", "custom-domain", node.domain)
    first = node.inputs[0] if node.inputs else None
    if first is not None and first.dtype is not None and not first.dtype.is_floating_point():
        return LedgerRow(_name(node), node.op_type, "skipped", "not-float", str(first.dtype))
    return LedgerRow(_name(node), node.op_type, "skipped", "left-float")
