"""Assign: choose the formats of every node and the grid of every activation; write them into notes.

Each node whose operator type runs on integers somewhere is eligible and gets a line in the ledger: a Plan, or a
reason why it stays as it is. Cases, in order:
1. inside a control-flow body, or no float work: skipped ("subgraph", "not-float");
2. the user or the target keeps it in float;
3. no statistics, or not finite ones;
4. attention × V: its left input are probabilities, whose uniform 8-bit codes cost 8-10 dB on transformers; they stay in
   higher precision unless `probabilities` is "quantize", or "log": then Softmax and product become one operator on
   logarithmic codes of exp(score − largest), which divides after the product (LogAttention);
5. an operator that the target runs in float still stores its constant weight as integers;
6. otherwise Q/DQ on each activation, integer weights if they are constant, Q/DQ on the output if the target fuses so;
7. operators without weights follow, as the target demands (passes/assign_elementwise.py).

Grids: one a tensor. The runtime fixes some (Softmax, 16-bit Sigmoid and Tanh); node units share that of a tensor with
what only moves it, and that behind a Relu or Clip with what stands before it; tied tensors share one for all.

Ranges: see qonnx.ranges. Outputs that an activation function follows are judged behind it; inputs of matrix products
take `headroom` beyond what calibration saw, since unseen samples exceed it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from qonnx.cpu import has_vnni
from qonnx.custom_ops.log_attention import weight_table
from qonnx.errors import QonnxError
from qonnx.formats import FORMATS, IntFormat
from qonnx.notes import note, skip
from qonnx.passes.assign_elementwise import activations, concerned, elementwise_plan, readers
from qonnx.passes.base import Change, Pass
from qonnx.passes.label import MOVES
from qonnx.passes.rewire import array, integer, is_constant, is_op, only_use
from qonnx.plan import Encoding, LogGrid, Plan, encoding, union
from qonnx.ranges import choose_range, zero_on_code
from qonnx.targets import Target
from qonnx.targets.conditions import holds, sizes

ELIGIBLE = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


@dataclasses.dataclass
class Assign(Pass):
    """Plan static quantization.

    activation, weight: keys of FORMATS; None takes the target's. granularity: of weights. method, percentile, headroom:
    see qonnx.ranges. probabilities: "float" keeps attention × V in higher precision, "quantize" does not, "log" codes
    them with `log_levels` levels, `log_codes_per_octave` for each halving (RepQ-ViT's log2 has 1, log√2 2).
    inner_weight, inner_weight_levels, inner_activation_levels: format (key of FORMATS) and numbers of codes (0: all of
    the type's) for matrix products that do not read an input of the model; the first layer and convolutions keep
    `weight` and `activation`. inner_weight_block: inputs that share a scale in those products where their weights have
    fewer than 8 bits (0: all; ONNX Runtime's integer products of 8 bits take one scale an output) and no granularity
    was asked for.
    inner_headroom: their `headroom`, where it is another; below 1 it clips, which few levels may repay.
    """

    target: Target
    settings: Any = None
    activation: str | None = None
    weight: str | None = None
    granularity: Literal["tensor", "channel"] | None = None
    method: str = "minmax"
    percentile: float = 99.99
    headroom: float = 1.0
    probabilities: Literal["float", "quantize", "log"] = "float"
    log_levels: int = 256
    log_codes_per_octave: float = 16.0
    inner_weight: str | None = None
    inner_weight_levels: int = 0
    inner_weight_block: int = 0
    inner_activation_levels: int = 0
    inner_headroom: float | None = None

    needs = ("observe",)
    tolerance = 0.0

    def __post_init__(self):
        for what, chosen, taken in (
            ("activations", self.activation, self.target.activation_types),
            ("weights", self.weight, self.target.weight_types),
            ("weights", self.inner_weight, self.target.weight_types),
        ):
            if chosen is not None and chosen not in taken:
                raise QonnxError(
                    f"target '{self.target.name}' takes {what} of type {', '.join(taken)}, not {chosen}; "
                    "choose another recipe or target"
                )
        if self.probabilities == "log":
            remedy = 'give probabilities = "quantize" or "float" to \'assign\' in a recipe, or choose another target'
            self.target.demand_library("attention on logarithmic codes", remedy)
            weight_table(self.log_levels, self.log_codes_per_octave)  # says what is wrong with the two

    def changes(self, model: ir.Model) -> Iterator[Change]:
        for graph in model.graphs():
            for node in graph:
                if not is_op(node, *ELIGIBLE) or note(node).fate is not None or note(node).plan is not None:
                    continue
                if graph is not model.graph:
                    skip(node, "subgraph")
                    continue
                reason, detail = self._obstacle(node)
                if reason == "target-float" and is_constant(node.inputs[1]):
                    plan = Plan({}, self._weight())
                elif reason:
                    skip(node, reason, detail)
                    continue
                else:
                    plan = self._plan(node)
                note(node).plan = plan
                headroom = self.inner_headroom if _inner(node) else None
                for index, format in plan.inputs.items():
                    self._encode(node.inputs[index], format, headroom)
                if plan.output:
                    grid = self._encode(output_of(node), self._activation())
                    if self.target.node_units:  # codes of the range behind the Relu do what it does
                        note(node.outputs[0]).encodings[grid.format.name] = grid
                yield Change(node.name or node.outputs[0].name, str(plan))
        yield from self._elementwise(model)

    def _elementwise(self, model: ir.Model) -> Iterator[Change]:
        """Case 7."""
        ties: list[list[ir.Value]] = []
        for graph in model.graphs():
            for node in graph:
                if note(node).fate is not None or note(node).plan is not None or not concerned(node, self.target):
                    continue
                if graph is not model.graph:
                    skip(node, "subgraph")
                    continue
                plan = elementwise_plan(node, self.target, self._activation())
                if plan == "":
                    continue
                reason, detail = (plan, "") if isinstance(plan, str) else self._without_weight(node, plan)
                if reason:
                    skip(node, reason, detail)
                    continue
                note(node).plan = plan
                ties += self._grids(node, plan)
                yield Change(node.name or node.outputs[0].name, str(plan))
        self._tie(ties)

    def _without_weight(self, node: ir.Node, plan: Plan) -> tuple[str, str]:
        """Reason code and detail if an operator without weight must stay as it is, else two empty strings."""
        if self.settings is not None and (why := self.settings.exclusion(node)):
            return "excluded", why
        if self.probabilities == "float" and note(node.outputs[0]).role == "probabilities":
            return "accuracy", "attention probabilities"
        moved = plan.output and node.op_type in self.target.shared_scales
        needed = [x for i in plan.inputs if not is_constant(x := node.inputs[i])]
        for value in [*needed, *(node.outputs if plan.output and not moved else ())]:
            stats = note(value).stats
            if not note(value).encodings and (stats is None or stats.elements == 0):
                return "no-stats", value.name or ""
            if stats is not None and stats.non_finite:
                return "not-finite", value.name or ""
        return "", ""

    def _grids(self, node: ir.Node, plan: Plan) -> list[list[ir.Value]]:
        """Choose the grids of an operator without weight; gives the tensors that must share one in the end."""
        for index, format in plan.inputs.items():
            if not is_constant(node.inputs[index]):
                self._encode(node.inputs[index], format)
        format = self._activation()
        if not plan.output:
            if node.op_type != "Concat":
                return []
            behind = [value for user, value in readers(node.outputs[0]) if note(user).plan is not None]
            return [[*node.inputs, *(value for value in behind if format.name in note(value).encodings)]]
        if node.op_type in self.target.shared_scales:
            grid = note(node.inputs[0]).encodings[format.name]
            for value in node.outputs:
                note(value).encodings[format.name] = grid
        else:
            self._encode(node.outputs[0], format)
        return []

    def _tie(self, groups: list[list[ir.Value]]) -> None:
        """One grid for all tensors of a group, and of groups that share a tensor: it covers what each covers."""
        merged: list[list[ir.Value]] = []
        for group in groups:
            touching = [one for one in merged if any(a is b for a in one for b in group)]
            merged = [one for one in merged if not any(one is other for other in touching)]
            merged.append([*group, *(value for one in touching for value in one)])
        name = self._activation().name
        for group in merged:
            grid = union([note(value).encodings[name] for value in group])
            for value in group:
                note(value).encodings[name] = grid

    def _obstacle(self, node: ir.Node) -> tuple[str, str]:
        """Reason code and detail if the node must stay as it is, else two empty strings."""
        if node.inputs[0].dtype not in _FLOATS:
            return "not-float", str(node.inputs[0].dtype)
        if self.settings is not None and (why := self.settings.exclusion(node)):
            return "excluded", why
        if node.op_type not in self.target.operators:
            return "target-float", f"{node.op_type} on {self.target.title}"
        known = sizes(node) if self.target.exclude else {}
        for row in self.target.exclude:
            if row["op"] == node.op_type and holds(row["when"], known):
                return "target-rule", row["when"]
        if any(_is_dequantized(x) for x in node.inputs[:2]):
            return "already-quantized", ""
        for value in [*activations(node), *([output_of(node)] if self._quantizes_output(node) else [])]:
            stats = note(value).stats
            if stats is None or stats.elements == 0:
                return "no-stats", value.name or ""
            if stats.non_finite:
                return "not-finite", value.name or ""
        attends = any(note(x).role == "probabilities" for x in activations(node))
        if attends and (self.probabilities == "float" or (self.probabilities == "log" and not _logarithmic(node))):
            return "accuracy", "attention probabilities"
        return "", ""

    def _activation(self) -> IntFormat:
        number = self.target.activation
        base = FORMATS[self.activation or number.type]
        return dataclasses.replace(base, symmetric=number.symmetric)

    def _weight(self) -> IntFormat:
        number = self.target.weight
        settings = self.settings
        granularity = self.granularity or number.granularity
        if settings is not None and settings.per_channel is not None:
            granularity = "channel" if settings.per_channel else "tensor"
        base = FORMATS[self.weight or number.type]
        wide = dataclasses.replace(base, symmetric=number.symmetric, granularity=granularity, narrow=number.narrow)
        reduce = self.target.reduce_range == "always" or (self.target.reduce_range == "auto" and not has_vnni())
        if settings is not None and settings.reduce_range is not None:
            reduce = settings.reduce_range
        return dataclasses.replace(wide, levels=2 ** (wide.bits - 1)) if reduce else wide

    def _in_blocks(self, weight: IntFormat) -> bool:
        asked = self.granularity is not None or (self.settings is not None and self.settings.per_channel is not None)
        return self.inner_weight_block > 0 and weight.bits < 8 and not asked

    def _quantizes_output(self, node: ir.Node) -> bool:
        return node.op_type in self.target.outputs

    def _plan(self, node: ir.Node) -> Plan:
        constant = is_constant(node.inputs[1])
        activation = self._activation()
        if inner := _inner(node):
            activation = dataclasses.replace(activation, levels=self.inner_activation_levels)
        if self.probabilities == "log" and note(node.inputs[0]).role == "probabilities":
            value = dataclasses.replace(FORMATS["s8"], symmetric=True, levels=self.inner_activation_levels)
            return Plan({1: value}, attention=LogGrid(self.log_levels, self.log_codes_per_octave))
        inputs = {0: activation} if constant else {0: activation, 1: activation}
        if is_constant(node.inputs[0]):
            del inputs[0]
        weight = self._weight() if constant else None
        if constant and inner:
            chosen = FORMATS[self.inner_weight] if self.inner_weight else weight
            levels = weight.levels if chosen.bits == weight.bits else 0  # a reduced range is one of bytes
            weight = dataclasses.replace(
                weight, bits=chosen.bits, signed=chosen.signed, levels=self.inner_weight_levels or levels
            )
            if self._in_blocks(weight) and len(node.inputs[1].shape) == 2:
                weight = dataclasses.replace(weight, granularity="block", block=self.inner_weight_block)
        if constant and node.op_type == "MatMul" and len(node.inputs[1].shape) != 2 and weight.granularity == "channel":
            weight = dataclasses.replace(weight, granularity="tensor")  # a stack of matrices has no one channel axis
        if constant and node.op_type in self.target.tensor_only:
            weight = dataclasses.replace(weight, granularity="tensor", block=0)
        output = self._quantizes_output(node)
        own = len(node.inputs) > 2 and node.inputs[2] is not None
        bias = (
            self.target.bias == "int32"
            and constant
            and (is_constant(node.inputs[2]) if own else node.op_type == "Conv")
            and weight.granularity != "block"  # an output then has no one scale
        )
        wide = node.inputs[0].dtype == ir.DataType.FLOAT  # products of 16-bit scales leave the range of their type
        return Plan(inputs, weight, 1, output, bias and wide and node.op_type != "MatMul")

    def _encode(self, value: ir.Value, format: IntFormat, headroom: float | None = None) -> Encoding:
        """The grid of a tensor, chosen once; several readers share it. headroom: if not that of the pass."""
        grids = note(value).encodings
        if format.name not in grids:
            maker = value.producer()
            kind = "" if maker is None else maker.op_type
            if fixed := self.target.fixed_scales.get(f"{kind}.{format.name}"):
                grids[format.name] = Encoding(format, float(np.float32(fixed[0])), fixed[1])
            else:
                low, high = self.target.fixed_ranges.get(kind) or self._range(value, format, headroom)
                if high - low < self.target.smallest_range:  # one part in 1024 more, for the rounding of the scale
                    high = low + self.target.smallest_range * (1 + 2**-10)
                grids[format.name] = encoding(format, low, high, value.dtype)
        return grids[format.name]

    def _range(self, value: ir.Value, format: IntFormat, headroom: float | None) -> tuple[float, float]:
        known = note(value)
        method = "mse" if known.after else self.method
        headroom = 1.0 if known.after else headroom or self.headroom
        found = choose_range(
            known.stats, format, method, percentile=self.percentile, after=known.after, headroom=headroom
        )
        return zero_on_code(*found, format) if _reads_input(value) else found


def output_of(node: ir.Node) -> ir.Value:
    """The value whose Q/DQ closes the node's integer unit: its output, or that of the only Relu or Clip behind it."""
    value = node.outputs[0]
    users = value.uses()
    if len(users) == 1 and not value.is_graph_output() and is_op(users[0].node, "Relu", "Clip"):
        bounds = users[0].node.inputs[1:]
        if users[0].idx == 0 and all(x is None or array(x) is not None for x in bounds):
            return users[0].node.outputs[0]
    return value


def _logarithmic(node: ir.Node) -> bool:
    """Whether Softmax and product can become one operator: over the last axis, and nothing else reads between."""
    rows = node.inputs[0]
    softmax = rows.producer()
    if not is_op(node, "MatMul") or not is_op(softmax, "Softmax") or is_constant(node.inputs[1]):
        return False
    axis, alone = integer(softmax, "axis", -1), only_use(rows)
    rank = None if rows.shape is None else len(rows.shape)
    return alone and (axis == -1 or (rank is not None and axis == rank - 1))


def _inner(node: ir.Node) -> bool:
    """Whether it is a matrix product behind the first layer."""
    return is_op(node, "MatMul", "Gemm") and not _reads_input(node.inputs[0])


def _reads_input(value: ir.Value) -> bool:
    """Whether the value is an input of the model, moved at most."""
    node = value.producer()
    while is_op(node, *MOVES):
        value = node.inputs[0]
        node = value.producer()
    return node is None and not is_constant(value)


def _is_dequantized(value: ir.Value | None) -> bool:
    return value is not None and is_op(value.producer(), "DequantizeLinear")
