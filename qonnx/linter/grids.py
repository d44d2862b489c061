"""Rules about grids: types, opsets, scales, zero points, axes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qonnx.linter.view import WEIGHTED, Linear, View, channel_axis, is_constant
from qonnx.model import constant
from qonnx.targets import Target

Found = Iterator[tuple[ir.Node, str]]
# Opset of the default domain in which QuantizeLinear and DequantizeLinear took each type (ONNX's Operators changelog).
TYPE_OPSET = {
    "u8": 10, "s8": 10, "s32": 10, "f8e4m3": 19, "f8e5m2": 19, "u16": 21, "s16": 21, "u4": 21, "s4": 21, "f4e2m1": 23,
    "u2": 25, "s2": 25,
}  # fmt: skip
_SCALE_OPSET = {ir.DataType.FLOAT16: 19, ir.DataType.BFLOAT16: 19, ir.DataType.FLOAT8E8M0: 24}
_CONTRIB_TYPES = ("u8", "s8", "s32", "u16", "s16", "u4", "s4", "f8e4m3", "f8e5m2")
_BITS = {"u2": 2, "s2": 2, "u4": 4, "s4": 4, "u8": 8, "s8": 8, "u16": 16, "s16": 16}


def opset_too_low(view: View, target: Target) -> Found:
    """A number type, block or axis that the model's opset does not have yet.

    Source: versions of QuantizeLinear and DequantizeLinear in the ONNX operator changelog; com.microsoft takes 4- and
    16-bit types at any opset but no blocks (measured, ONNX Runtime 1.32).
    """
    for node, linear in view.linears.items():
        if node.domain == "com.microsoft":
            if linear.block:
                yield node, "block_size is not known to com.microsoft's operator"
            if linear.type not in _CONTRIB_TYPES:
                yield node, f"type {linear.type} is not known to com.microsoft's operator"
            continue
        opset = view.opset(node)
        scale_type = node.inputs[1].dtype or ir.DataType.FLOAT
        for what, needed in (
            (f"type {linear.type}", TYPE_OPSET.get(linear.type, 0)),
            (f"a scale of type {scale_type.name.lower()}", _SCALE_OPSET.get(scale_type, 0)),
            ("block_size", 21 if linear.block else 0),
            ("a scale for each channel", 13 if linear.per_channel else 0),
        ):
            if needed > opset:
                yield node, f"{what} needs opset {needed}; the model has {opset}"


def opset_too_high(view: View, target: Target) -> Found:
    """An opset above what the runtime reads."""
    opset = view.model.graph.opset_imports.get("", 0)
    if opset > target.opset[1]:
        first = next(iter(view.model.graph), None)
        if first is not None:
            yield first, f"the model has opset {opset}; {target.title} reads up to {target.opset[1]}"


def type_not_taken(view: View, target: Target) -> Found:
    """A number type that the runtime has no kernels for."""
    for node, linear in view.linears.items():
        if linear.quantizes and not is_constant(linear.input):
            taken, what = target.activation_types, "activations"
        elif not linear.quantizes and view.weight(linear.output) is not None and linear.type != "s32":
            taken, what = target.weight_types, "weights"
        else:
            continue
        if linear.type not in taken:
            yield node, f"{target.title} takes {what} of type {', '.join(taken)}, not {linear.type}"


def bad_scale(view: View, target: Target) -> Found:
    """A scale that is zero, negative, infinite or not a number."""
    for node, linear in view.linears.items():
        if linear.scale is not None:
            scale = linear.scale.astype(np.float32)
            if not (np.isfinite(scale) & (scale > 0)).all():
                yield node, f"its scale has the value {scale[~(np.isfinite(scale) & (scale > 0))].flat[0]}"


def wrong_axis(view: View, target: Target) -> Found:
    """A weight whose scales do not run along its output channels.

    ONNX Runtime 1.32 fuses such a convolution all the same and reads the scales along axis 0: wrong numbers (measured:
    error twice the signal). A MatMul with scales along the summed axis stays in float everywhere.
    """
    for node in view.weighted():
        linear = view.weight(node.inputs[1])
        if linear is None or not linear.per_channel or (node.inputs[1].shape is None and linear.input.shape is None):
            continue
        rank = len(linear.input.shape or node.inputs[1].shape)
        right = channel_axis(node, rank)
        if linear.axis % rank != right:
            yield node, f"scales of its weight run along axis {linear.axis}; output channels are axis {right}"


def scale_count(view: View, target: Target) -> Found:
    """A number of scales that does not fit the tensor."""
    for node, linear in view.linears.items():
        shape = linear.input.shape
        if linear.scale is None or shape is None or linear.scale.size < 2:
            continue
        if linear.block:
            expected = [
                -(-size // linear.block) if axis == linear.axis % len(shape) else size
                for axis, size in enumerate(shape)
                if isinstance(size, int)
            ]
            if len(expected) == len(shape) and list(linear.scale.shape) != expected:
                yield node, f"scales have shape {list(linear.scale.shape)}; blocks of {linear.block} need {expected}"
        elif linear.axis < len(shape):
            size = shape[linear.axis]
            if isinstance(size, int) and linear.scale.size != size:
                yield node, f"{linear.scale.size} scales along axis {linear.axis}, which has {size} entries"


def bias_scale(view: View, target: Target) -> Found:
    """An integer bias whose grid is not input scale × weight scale with zero point 0.

    The integer kernel adds the bias to the sums of products, so its scale must be theirs; ONNX Runtime leaves the
    operator in float otherwise (measured), other runtimes add wrong numbers.
    """
    for node, bias, weight, activation in _with_bias(view):
        if bias.type != "s32":
            yield node, f"its bias is {bias.type}; integer kernels add s32"
            continue
        if any(x is None or x.scale is None for x in (bias, weight, activation)):
            continue
        if bias.zero_point is not None and bias.zero_point.any():
            yield node, "its bias has a zero point"
        expected = (weight.scale * activation.scale).astype(np.float64)
        found = bias.scale.astype(np.float64)
        if not weight.block and (expected.size == found.size or 1 in (expected.size, found.size)):
            # Scales are float32 products: two roundings of 2⁻²⁴ each, and one more in tools that divide.
            wrong = np.abs(found - expected).max() > 4 * 2.0**-24 * np.abs(expected).max()
            if wrong:
                worst = np.abs(found / expected).max()
                yield node, f"the scale of its bias is {worst:.4g} times input scale × weight scale"


def nonzero_zero_point(view: View, target: Target) -> Found:
    """A zero point other than 0, where the runtime is symmetric only.

    Source: NVIDIA, "Working with Quantized Types" (TensorRT documentation).
    """
    for node, linear in view.linears.items():
        if linear.zero_point is not None and linear.zero_point.any():
            yield node, f"zero point {int(linear.zero_point.flat[np.argmax(linear.zero_point != 0)])}; it must be 0"


def asymmetric_weight(view: View, target: Target) -> Found:
    """A weight whose zero point is not the middle of its codes: every product needs a correction at run time."""
    for node in view.weighted():
        linear = view.weight(node.inputs[1])
        if linear is not None and linear.zero_point is not None and linear.type in _BITS:
            middle = 0 if linear.type.startswith("s") else 2 ** (_BITS[linear.type] - 1)
            if (linear.zero_point != middle).any():
                yield node, f"its weight has zero points other than {middle}"


def blocked_scale(view: View, target: Target) -> Found:
    """Scales by blocks: the runtime sends them to the CPU (onnxruntime-qnn, issue 650)."""
    for node, linear in view.linears.items():
        if linear.block:
            yield node, f"block_size {linear.block}; {target.title} takes scales by tensor or channel"


def per_channel_not_taken(view: View, target: Target) -> Found:
    """Scales by channel on an operator that takes one scale for the tensor.

    Source: ONNX Runtime's own helper for QNN (quantization/execution_providers/qnn/quant_config.py).
    """
    for node in view.weighted():
        linear = view.weight(node.inputs[1])
        if node.op_type in target.tensor_only and linear is not None and linear.per_channel:
            yield node, f"{linear.scale.size} scales for its weight; {node.op_type} takes one here"


def fixed_scale(view: View, target: Target) -> Found:
    """An output whose scale the runtime fixes, with another one (16-bit Sigmoid and Tanh on QNN)."""
    for node in view.nodes:
        for after in view.quantizers(node.outputs[0]) if node.outputs else []:
            fixed = target.fixed_scales.get(f"{node.op_type}.{after.type}")
            if fixed is None or after.scale is None or after.zero_point is None:
                continue
            if np.float32(fixed[0]) != np.float32(after.scale.flat[0]) or fixed[1] != after.zero_point.flat[0]:
                yield node, f"its {after.type} output must have scale {fixed[0]:.6g} and zero point {fixed[1]}"


def small_range(view: View, target: Target) -> Found:
    """A quantized range narrower than the runtime takes."""
    for node, linear in view.linears.items():
        if linear.quantizes and linear.scale is not None and linear.type in _BITS:
            width = float(linear.scale.min()) * (2 ** _BITS[linear.type] - 1)
            if width < target.smallest_range:
                yield node, f"its range is {width:.3g} wide; the least is {target.smallest_range:g}"


def saturating_range(view: View, target: Target) -> Found:
    """8-bit weights against u8 activations on a CPU without VNNI: pairs of products saturate in 16 bits.

    vpmaddubsw adds two u8 × s8 products in 16 bits: 2·255·|w| > 32767 as soon as |w| > 64. On machines with VNNI the
    rule is silent.
    """
    from qonnx.cpu import has_vnni  # asked at run time: tests pretend to be another machine

    if has_vnni():
        return
    for node in view.weighted():
        activation, weight = view.activation(node.inputs[0]), view.weight(node.inputs[1])
        if activation is None or weight is None or (activation.type, weight.type) != ("u8", "s8"):
            continue
        codes = constant(weight.input)
        if codes is not None and codes.dtype.kind == "i" and np.abs(codes.astype(np.int32)).max() > 64:
            yield node, "its weight uses more than 7 bits, and this CPU has no VNNI"


def _with_bias(view: View) -> Iterator[tuple[ir.Node, Linear, Linear | None, Linear | None]]:
    """Operators with a dequantized constant bias: node, bias, weight, activation."""
    for node in view.weighted():
        if node.op_type in WEIGHTED and len(node.inputs) > 2 and (bias := view.weight(node.inputs[2])) is not None:
            yield node, bias, view.weight(node.inputs[1]), view.activation(node.inputs[0])


def quantized_bias(view: View, target: Target) -> Found:
    """An integer bias, where the runtime wants it in float."""
    for node, bias, _, _ in _with_bias(view):
        yield node, f"its bias is {bias.type} behind a DequantizeLinear; {target.title} wants it in float"
