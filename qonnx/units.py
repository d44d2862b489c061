"""Why runtimes disagree, operator by operator: a quantized model cut at every QuantizeLinear into units.

Each unit reads the codes that ONNX Runtime computes node by node and returns its own codes, so that errors do not pass
from one unit to the next. A runtime that is right may still differ by one step where a value lies near the border
between two codes, because it sums in another order or multiplies by a rescaled factor; more than a step is a fault of
that operator there.

Many layers of such steps can part two runs of a deep network widely, without any operator wrong. Whether they do is
measured: the steps of a runtime's units are put into ONNX Runtime's own run, `shifted`, and what that changes at the
outputs is what these roundings are worth. If it is as much as the runtimes differ, they are the whole reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir

from qonnx.operators import ELIGIBLE
from qonnx.passes.rewire import array, is_op
from qonnx.probes import tapped
from qonnx.runtime import session
from qonnx.wording import decibel

GIVEN = "_given"  # suffix of a cut tensor's name where it goes in again


@dataclasses.dataclass(frozen=True)
class UnitGap:
    """All units of one operator type in one runtime: how many codes differ, and by how many steps at most."""

    operator: str
    units: int
    differing: float  # share of codes
    steps: int
    worst: str  # name of the unit with the largest difference
    alone_db: float | None = None  # SQNR at the worst output of a run with these steps and no other difference

    def __str__(self) -> str:
        where = f" ({self.worst})" if self.steps > 1 else ""
        count = f"{self.units} {self.operator}"
        if not self.steps:
            return f"{count} equal"
        alone = "" if self.alone_db is None else f", which alone leaves {decibel(self.alone_db)}"
        return f"{count}: {100 * self.differing:.2g} % of codes differ by {self.steps} at most{where}{alone}"


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


def shifted(model: ir.Model, made: Cut, found: Mapping[str, np.ndarray], operator: str | None = None) -> ir.Model:
    """A copy of the whole `model` in which each quantizer's codes are moved by the steps that the unit's differ by.

    found: a runtime's codes. operator: units of this type only; None: all.
    """
    copy = model.clone()
    for node in [n for n in copy.graph if is_op(n, "QuantizeLinear")]:
        value = node.outputs[0]
        if value.name not in found or (operator is not None and made.operators[value.name] != operator):
            continue
        right = made.expected[value.name]
        kind = ir.DataType.from_numpy(right.dtype)
        steps = found[value.name].astype(np.int32) - right.astype(np.int32)
        if steps.any() and not kind.is_floating_point():
            _shift(copy.graph, value, steps, kind)
    return copy


def _shift(graph: ir.Graph, codes: ir.Value, steps: np.ndarray, kind: ir.DataType) -> None:
    """Let the readers of `codes` read codes + steps, kept inside the number type."""
    limits = ml_dtypes.iinfo(kind.numpy())
    constants = []
    for name, array_ in (("steps", steps), ("least", np.int32(limits.min)), ("most", np.int32(limits.max))):
        constant = ir.Value(name=f"{codes.name}_{name}", const_value=ir.tensor(np.asarray(array_, np.int32)))
        constant.const_value.name = constant.name
        graph.register_initializer(constant)
        constants.append(constant)
    users = [(use.node, use.idx) for use in codes.uses()]
    wide = ir.node("Cast", [codes], {"to": ir.DataType.INT32})
    moved = ir.node("Add", [wide.outputs[0], constants[0]])
    held = ir.node("Clip", [moved.outputs[0], *constants[1:]])
    narrow = ir.node("Cast", [held.outputs[0]], {"to": kind})
    graph.insert_after(codes.producer(), [wide, moved, held, narrow])
    for index, node in enumerate((wide, moved, held, narrow)):
        node.outputs[0].name = f"{codes.name}_shifted_{index}"
    for node, index in users:
        node.replace_input_with(index, narrow.outputs[0])
