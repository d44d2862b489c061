"""Assign: choose the formats of every node and the grid of every activation; write them into notes.

Each node whose operator type runs on integers somewhere is eligible and gets a line in the ledger: a Plan, or a
reason why it stays as it is. Cases, in order:
1. inside a control-flow body, or no float work: skipped ("subgraph", "not-float");
2. the user or the target keeps it in float;
3. no statistics, or not finite ones;
4. attention × V: its left input are probabilities, whose uniform 8-bit codes cost 8-10 dB on transformers; they stay in
   higher precision unless `probabilities` is "quantize";
5. an operator that the target runs in float still stores its constant weight as integers;
6. otherwise Q/DQ on each activation, integer weights if they are constant, Q/DQ on the output if the target fuses so.

Ranges: see qonnx.ranges. Outputs that an activation function follows are judged behind it; inputs of matrix products
take `headroom` beyond what calibration saw, since unseen samples exceed it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import onnx_ir as ir

from qonnx.cpu import has_vnni
from qonnx.errors import QonnxError
from qonnx.formats import FORMATS, IntFormat
from qonnx.notes import note, skip
from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import array, is_constant, is_op
from qonnx.plan import Encoding, Plan, encoding
from qonnx.ranges import choose_range
from qonnx.targets import Target
from qonnx.targets.conditions import holds, sizes

ELIGIBLE = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


@dataclasses.dataclass
class Assign(Pass):
    """Plan static quantization.

    activation, weight: keys of FORMATS; None takes the target's. granularity: of weights. method, percentile, headroom:
    see qonnx.ranges. probabilities: "float" keeps attention × V in higher precision, "quantize" does not.
    """

    target: Target
    settings: Any = None
    activation: str | None = None
    weight: str | None = None
    granularity: Literal["tensor", "channel"] | None = None
    method: str = "minmax"
    percentile: float = 99.99
    headroom: float = 1.0
    probabilities: Literal["float", "quantize"] = "float"

    needs = ("observe",)
    tolerance = 0.0

    def __post_init__(self):
        for what, chosen, taken in (
            ("activations", self.activation, self.target.activation_types),
            ("weights", self.weight, self.target.weight_types),
        ):
            if chosen is not None and chosen not in taken:
                raise QonnxError(
                    f"target '{self.target.name}' takes {what} of type {', '.join(taken)}, not {chosen}; "
                    "choose another recipe or target"
                )

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
                for index, format in plan.inputs.items():
                    self._encode(node.inputs[index], format)
                if plan.output:
                    self._encode(output_of(node), self._activation())
                yield Change(node.name or node.outputs[0].name, str(plan))

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
        for value in [*_activations(node), *([output_of(node)] if self._quantizes_output(node) else [])]:
            stats = note(value).stats
            if stats is None or stats.elements == 0:
                return "no-stats", value.name or ""
            if stats.non_finite:
                return "not-finite", value.name or ""
        if self.probabilities == "float" and any(note(x).role == "probabilities" for x in _activations(node)):
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

    def _quantizes_output(self, node: ir.Node) -> bool:
        return node.op_type in self.target.outputs

    def _plan(self, node: ir.Node) -> Plan:
        constant = is_constant(node.inputs[1])
        activation = self._activation()
        inputs = {0: activation} if constant else {0: activation, 1: activation}
        if is_constant(node.inputs[0]):
            del inputs[0]
        weight = self._weight() if constant else None
        if constant and node.op_type == "MatMul" and len(node.inputs[1].shape) != 2 and weight.granularity == "channel":
            weight = dataclasses.replace(weight, granularity="tensor")  # a stack of matrices has no one channel axis
        if constant and node.op_type in self.target.tensor_only:
            weight = dataclasses.replace(weight, granularity="tensor")
        output = self._quantizes_output(node)
        own = len(node.inputs) > 2 and node.inputs[2] is not None
        bias = (
            self.target.bias == "int32"
            and constant
            and (is_constant(node.inputs[2]) if own else node.op_type == "Conv")
        )
        return Plan(inputs, weight, 1, output, bias and node.op_type != "MatMul")

    def _encode(self, value: ir.Value, format: IntFormat) -> Encoding:
        """The grid of a tensor, chosen once; several readers share it."""
        grids = note(value).encodings
        if format.name not in grids:
            source = note(value)
            fixed = value.producer() and self.target.fixed_ranges.get(value.producer().op_type)
            if fixed:
                low, high = fixed
            else:
                method = "mse" if source.after else self.method
                headroom = 1.0 if source.after else self.headroom
                low, high = choose_range(
                    source.stats, format, method, percentile=self.percentile, after=source.after, headroom=headroom
                )
            grids[format.name] = encoding(format, low, high)
        return grids[format.name]


def output_of(node: ir.Node) -> ir.Value:
    """The value whose Q/DQ closes the node's integer unit: its output, or that of the only Relu or Clip behind it."""
    value = node.outputs[0]
    users = value.uses()
    if len(users) == 1 and not value.is_graph_output() and is_op(users[0].node, "Relu", "Clip"):
        bounds = users[0].node.inputs[1:]
        if users[0].idx == 0 and all(x is None or array(x) is not None for x in bounds):
            return users[0].node.outputs[0]
    return value


def _activations(node: ir.Node) -> list[ir.Value]:
    return [x for x in node.inputs[:2] if x is not None and not is_constant(x)]


def _is_dequantized(value: ir.Value | None) -> bool:
    return value is not None and is_op(value.producer(), "DequantizeLinear")
