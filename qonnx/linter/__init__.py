"""lint: find what a runtime will not load, will read wrongly or will not run on integers, in models of any tool.

RULES is the table of checks; a target's `forbid` names those that hold on it besides those that hold everywhere.
"""

from __future__ import annotations

import onnx_ir as ir

from qonnx.errors import QonnxError
from qonnx.linter import grids, placement
from qonnx.linter.finding import Finding, Rule
from qonnx.linter.view import View, name_of
from qonnx.options import nearest
from qonnx.targets import Target

RULES: dict[str, Rule] = {
    "bad-scale": Rule(grids.bad_scale, "error", True, "quantize the tensor again: its range was empty or not finite"),
    "scale-count": Rule(grids.scale_count, "error", True, "give one scale for each entry of the axis"),
    "wrong-axis": Rule(grids.wrong_axis, "error", True, "quantize the weight along its output channels"),
    "bias-scale": Rule(
        grids.bias_scale, "error", True, "store the bias as int32 with scale input × weight, or in float"
    ),
    "opset-too-low": Rule(
        grids.opset_too_low, "error", True, "raise the opset: qonnx convert --recipe spell-only --opset N"
    ),
    "opset-too-high": Rule(grids.opset_too_high, "error", True, "export the model with a lower opset"),
    "type-not-taken": Rule(grids.type_not_taken, "error", True, "convert for this target: qonnx convert --target NAME"),
    "float-weight": Rule(
        placement.float_weight, "error", False, "quantize the weight, or take the Q/DQ away on one side"
    ),
    "nonzero-zero-point": Rule(grids.nonzero_zero_point, "error", False, "quantize symmetrically, with signed codes"),
    "blocked-scale": Rule(grids.blocked_scale, "error", False, "quantize by channel: qonnx convert --per-channel"),
    "per-channel-not-taken": Rule(grids.per_channel_not_taken, "error", False, "quantize this weight with one scale"),
    "fixed-scale": Rule(grids.fixed_scale, "error", False, "set the scale that the runtime assumes"),
    "contrib-operator": Rule(placement.contrib_operator, "error", False, "use standard operators (DequantizeLinear)"),
    "integer-operator": Rule(
        placement.integer_operator, "error", False, "quantize statically: qonnx convert --data … --recipe static-w8a8"
    ),
    "unfusable-matmul": Rule(
        placement.unfusable_matmul,
        "warning",
        False,
        "use 8-bit weights, or quantize weights only (--recipe weight-int4)",
    ),
    "unquantized-output": Rule(placement.unquantized_output, "warning", False, "quantize the output as well"),
    "relu-not-absorbed": Rule(
        placement.relu_not_absorbed, "warning", False, "choose the range after Relu: it starts at 0"
    ),
    "output-without-reader": Rule(
        placement.output_without_reader, "warning", False, "take the Q/DQ behind the operator away"
    ),
    "residual-both-branches": Rule(
        placement.residual_both_branches, "warning", False, "keep Q/DQ on the residual branch only"
    ),
    "residual-not-quantized": Rule(
        placement.residual_not_quantized, "warning", False, "put Q/DQ on the residual branch of the Add"
    ),
    "scale-changes": Rule(placement.scale_changes, "warning", False, "give both sides the same scale and zero point"),
    "quantized-bias": Rule(grids.quantized_bias, "warning", False, "leave biases in float for this runtime"),
    "asymmetric-weight": Rule(
        grids.asymmetric_weight, "warning", False, "quantize weights symmetrically (--symmetric)"
    ),
    "small-range": Rule(grids.small_range, "warning", False, "widen the range to the least that the runtime takes"),
    "small-operator": Rule(placement.small_operator, "hint", True, "exclude the node: --nodes-to-exclude"),
    "double-quantization": Rule(
        placement.double_quantization, "warning", True, "remove the pair, or give both the same grid"
    ),
    "dangling": Rule(placement.dangling, "warning", True, "remove the node: qonnx convert --recipe spell-only"),
    "saturating-range": Rule(grids.saturating_range, "hint", False, "use 7-bit weights: --reduce-range"),
    "weight-stored-float": Rule(
        placement.weight_stored_float, "hint", True, "store the codes: DequantizeLinear over an integer weight"
    ),
}
_ORDER = {"error": 0, "warning": 1, "hint": 2}


def lint(model: ir.Model, target: Target) -> list[Finding]:
    """What `target` will not like about `model`: errors first, then warnings, then hints, each in graph order."""
    view = View(model)
    findings = [
        Finding(name, rule.severity, name_of(node), node.op_type, sentence, rule.remedy)
        for name, rule in RULES.items()
        if rule.everywhere or name in target.forbid
        for node, sentence in rule.check(view, target)
    ]
    return sorted(findings, key=lambda finding: _ORDER[finding.severity])


def rule(name: str) -> Rule:
    """The rule of that name; an unknown name is an error that names the nearest."""
    if name not in RULES:
        raise QonnxError(f"unknown rule '{name}'; {nearest(name, RULES)}")
    return RULES[name]
