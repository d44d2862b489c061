"""Why runtimes disagree, operator by operator: a quantized model cut at every QuantizeLinear into units.

Each unit reads the codes that ONNX Runtime computes node by node and returns its own codes, so that errors do not pass
from one unit to the next. A runtime that is right may still differ by one step where a value lies near the border
between two codes, because it sums in another order or multiplies by a rescaled factor; more than a step is a fault of
that operator there. Many layers of such steps can part two runs of a deep network widely, without any operator wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from qonnx.operators import ELIGIBLE
from qonnx.passes.rewire import array, is_op
from qonnx.probes import tapped
from qonnx.runtime import session

GIVEN = "_given"  # suffix of a cut tensor's name where it goes in again


@dataclasses.dataclass(frozen=True)
class UnitGap:
    """All units of one operator type in one runtime: how many codes differ, and by how many steps at most."""

    operator: str
    units: int
    differing: float  # share of codes
    steps: int
    worst: str  # name of the unit with the largest difference

    def __str__(self) -> str:
        where = f" ({self.worst})" if self.steps > 1 else ""
        count = f"{self.units} {self.operator}"
        if not self.steps:
            return f"{count} equal"
        return f"{count}: {100 * self.differing:.2g} % of codes differ by {self.steps} at most{where}"


@dataclasses.dataclass(frozen=True)
class Cut:
    """The cut model; `operators`: the unit's operator type by the name of the codes that it returns."""

    model: ir.Model
    operators: dict[str, str]
    feed: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]


def cut(model: ir.Model, sample: Mapping[str, np.ndarray], threads: int | None = None) -> Cut | None:
    """Cut `model` (changed in place) at the quantizers of its main graph; None if it has none.

    `sample`: one feed, on which the codes are computed by ONNX Runtime without optimisation.
    """
    quantizers = [n for n in model.graph if is_op(n, "QuantizeLinear") and array(n.inputs[0]) is None]
    names = [node.outputs[0].name for node in quantizers]
    if not names:
        return None
    opened = session(tapped(model, names), optimization="none", threads=threads)
    codes = dict(zip(names, opened.run(names, dict(sample)), strict=True))
    operators, kept = {}, []
    for node in quantizers:
        value = node.outputs[0]
        operators[value.name] = _operator(node)
        twin = ir.Value(
            name=value.name + GIVEN,
            type=ir.TensorType(ir.DataType.from_numpy(codes[value.name].dtype)),
            shape=ir.Shape(codes[value.name].shape),
        )
        value.replace_all_uses_with(twin)
        value.type, value.shape = twin.type, twin.shape
        model.graph.inputs.append(twin)
        kept.append(value)
    model.graph.outputs.clear()
    model.graph.outputs.extend(kept)
    _drop_unread(model)
    there = {value.name for value in model.graph.inputs}
    feed = {name: np.asarray(x) for name, x in sample.items() if name in there}
    feed |= {name + GIVEN: x for name, x in codes.items() if name + GIVEN in there}
    return Cut(model, operators, feed, codes)


def _drop_unread(model: ir.Model) -> None:
    """Nodes behind the last quantizers, and inputs that nothing reads."""
    for node in reversed(list(model.graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            model.graph.remove(node, safe=True)
    for value in [v for v in model.graph.inputs if not v.uses() and not v.is_graph_output()]:
        model.graph.inputs.remove(value)


def _operator(quantize: ir.Node) -> str:
    """The product or convolution that the unit is made of, else the operator in front of its quantizer."""
    value, first = quantize.inputs[0], None
    for _ in range(6):
        node = value.producer()
        if node is None or is_op(node, "DequantizeLinear"):
            break
        first = first or node.op_type
        if node.op_type in ELIGIBLE:
            return node.op_type
        value = node.inputs[0]
    return first or "input"


def gaps(made: Cut, found: Mapping[str, np.ndarray]) -> tuple[UnitGap, ...]:
    """What a runtime's codes `found` say about it, worst operator first."""
    rows = []
    for operator in dict.fromkeys(made.operators.values()):
        names = [name for name, one in made.operators.items() if one == operator and name in found]
        steps = {
            name: np.abs(found[name].astype(np.int64) - made.expected[name].astype(np.int64)).reshape(-1)
            for name in names
        }
        total = sum(x.size for x in steps.values())
        largest = {name: int(x.max(initial=0)) for name, x in steps.items()}
        if not total:
            continue
        differing = sum(int((x > 0).sum()) for x in steps.values()) / total
        worst = max(largest, key=largest.get)
        rows.append(UnitGap(operator, len(names), differing, largest[worst], worst))
    return tuple(sorted(rows, key=lambda row: (-row.steps, -row.differing)))
