"""Spellings of integer operators (ONNX's QLinear… and ONNX Runtime's) as Q/DQ around the float operator.

Every one of them is dequantize → float operator → quantize by its definition, so the spelling is exact up to float
rounding at ties. Codes stay codes between two such operators: …Q → DQ… is what integer kernels are fused from again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from qonnx.passes.rewire import array, floats, integer, integers, operand
from qonnx.passes.standing_in import StandingIn


def _decoded(write: StandingIn, start: int, suffix: str, axis: int = 0) -> ir.Value:
    """DequantizeLinear of the codes, scale and zero point at input `start` and behind."""
    operands = [operand(write.node, start + i) for i in range(3)]
    several = operands[1].shape is not None and len(operands[1].shape) == 1 and operands[1].shape[0] != 1
    dtype = operands[1].dtype or ir.DataType.FLOAT
    return write.add(
        "DequantizeLinear", operands, suffix, {"axis": axis} if several else {}, dtype=dtype, shape=operands[0].shape
    )


def _encoded(write: StandingIn, value: ir.Value, scale: int) -> None:
    """QuantizeLinear with the scale and zero point at input `scale` and behind takes the node's place."""
    parameters = [operand(write.node, scale + i) for i in range(2)]
    write.finish(write.add("QuantizeLinear", [value, *parameters], "quantized", dtype=write.node.outputs[0].dtype))


def _flatten_ones(node: ir.Node, indices: tuple[int, ...]) -> None:
    """Scales and zero points of shape [1] as scalars, before anything reads their shape."""
    for index in indices:
        value = operand(node, index)
        if value is not None and array(value) is not None and array(value).shape == (1,):
            write = StandingIn(node)
            node.replace_input_with(index, write.constant(f"scalar{index}", array(value).reshape(())))
            if value.is_initializer() and not value.uses():
                value.graph.initializers.pop(value.name, None)


def qlinear_conv(node: ir.Node) -> str:
    if array(operand(node, 1)) is None or array(operand(node, 4)) is None:
        return "its scales are no constants"
    if integer(node, "channels_last", 0):
        return "its channels come last"
    _flatten_ones(node, (1, 2, 4, 5, 6, 7))
    write = StandingIn(node)
    operands = [_decoded(write, 0, "x"), _decoded(write, 3, "w")]
    bias = operand(node, 8)
    if bias is not None:
        operands.append(_bias(write, bias, array(node.inputs[1]), array(node.inputs[4])))
    attributes = {k: a for k, a in node.attributes.items() if k != "channels_last"}
    _encoded(write, write.add("Conv", operands, "conv", attributes, dtype=ir.DataType.FLOAT), 6)
    return ""


def _bias(write: StandingIn, bias: ir.Value, x_scale: np.ndarray, w_scale: np.ndarray) -> ir.Value:
    """int32 bias of scale x_scale · w_scale."""
    scale = np.asarray(x_scale, np.float32) * np.asarray(w_scale, np.float32)
    attributes = {"axis": 0} if scale.ndim else {}
    operands = [bias, write.constant("bias_scale", scale)]
    return write.add("DequantizeLinear", operands, "bias", attributes, dtype=ir.DataType.FLOAT, shape=bias.shape)


def qlinear_matmul(node: ir.Node) -> str:
    _flatten_ones(node, (1, 2, 4, 5, 6, 7))
    write = StandingIn(node)
    rank = len(node.inputs[3].shape) if node.inputs[3].shape is not None else 2
    product = write.add("MatMul", [_decoded(write, 0, "a"), _decoded(write, 3, "b", rank - 1)], "product")
    product.type = ir.TensorType(ir.DataType.FLOAT)
    _encoded(write, product, 6)
    return ""


def qgemm(node: ir.Node) -> str:
    if array(operand(node, 1)) is None or array(operand(node, 4)) is None:
        return "its scales are no constants"
    _flatten_ones(node, (1, 2, 4, 5, 7, 8))
    write = StandingIn(node)
    turned = integer(node, "transB", 0)
    operands = [_decoded(write, 0, "a"), _decoded(write, 3, "b", 0 if turned else 1)]
    alpha = floats(node, "alpha", 1.0)
    attributes = {"alpha": alpha, "transA": integer(node, "transA", 0), "transB": turned}
    if operand(node, 6) is not None:
        operands.append(_bias(write, node.inputs[6], alpha * array(node.inputs[1]), array(node.inputs[4])))
    product = write.add("Gemm", operands, "product", attributes, dtype=ir.DataType.FLOAT)
    if operand(node, 7) is None:
        write.finish(product)
    else:
        _encoded(write, product, 7)
    return ""


def _binary(operator: str) -> Callable[[ir.Node], str]:
    def spell(node: ir.Node) -> str:
        _flatten_ones(node, (1, 2, 4, 5, 6, 7))
        write = StandingIn(node)
        value = write.add(operator, [_decoded(write, 0, "a"), _decoded(write, 3, "b")], "float")
        value.type = ir.TensorType(ir.DataType.FLOAT)
        _encoded(write, value, 6)
        return ""

    return spell


def _unary(operator: str, *kept: str) -> Callable[[ir.Node], str]:
    """kept: attributes that the standard operator has as well; `channels_last` layouts are refused."""

    def spell(node: ir.Node) -> str:
        if integer(node, "channels_last", 0):
            return "its channels come last"
        _flatten_ones(node, (1, 2, 3, 4))
        write = StandingIn(node)
        attributes = {name: node.attributes[name] for name in kept if name in node.attributes}
        value = write.add(operator, [_decoded(write, 0, "x")], "float", attributes, dtype=ir.DataType.FLOAT)
        _encoded(write, value, 3)
        return ""

    return spell


def qlinear_reduce_mean(node: ir.Node) -> str:
    _flatten_ones(node, (1, 2, 3, 4))
    write = StandingIn(node)
    axes, keep = integers(node, "axes"), {"keepdims": integer(node, "keepdims", 1)}
    operands = [_decoded(write, 0, "x")]
    if node.graph.opset_imports.get("", 1) >= 18:
        operands.append(None if axes is None else write.constant("axes", np.array(axes, np.int64)))
    elif axes is not None:
        keep["axes"] = axes
    _encoded(write, write.add("ReduceMean", operands, "mean", keep, dtype=ir.DataType.FLOAT), 3)
    return ""


def qlinear_concat(node: ir.Node) -> str:
    """Inputs: scale and zero point of the result, then (codes, scale, zero point) of every part."""
    _flatten_ones(node, tuple(i for i in range(len(node.inputs)) if i < 2 or i % 3 != 2))
    write = StandingIn(node)
    parts = [_decoded(write, start, f"part{start}") for start in range(2, len(node.inputs), 3)]
    value = write.add("Concat", parts, "float", {"axis": integer(node, "axis", 0)}, dtype=ir.DataType.FLOAT)
    _encoded(write, value, 0)
    return ""


def qlinear_where(node: ir.Node) -> str:
    _flatten_ones(node, (2, 3, 5, 6, 7, 8))
    write = StandingIn(node)
    value = write.add("Where", [node.inputs[0], _decoded(write, 1, "x"), _decoded(write, 4, "y")], "float")
    value.type = ir.TensorType(ir.DataType.FLOAT)
    _encoded(write, value, 7)
    return ""


def matmul_integer_to_float(node: ir.Node) -> str:
    """Inputs A, B, their scales, their zero points, bias: no order that `_decoded` could read."""
    if operand(node, 2) is None or operand(node, 3) is None:
        return "its scales are missing"
    write = StandingIn(node)
    sides = []
    for suffix, index, axis in (("a", 0, None), ("b", 1, 1)):
        scale, zero = operand(node, 2 + index), operand(node, 4 + index)
        several = axis is not None and array(scale) is not None and array(scale).size > 1
        if array(scale) is not None and not several:
            scale = write.constant(f"{suffix}_scale", array(scale).reshape(()))
            zero = None if zero is None else write.constant(f"{suffix}_zero", array(zero).reshape(()))
        attributes = {"axis": axis} if several else {}
        sides.append(write.add("DequantizeLinear", [operand(node, index), scale, zero], suffix, attributes))
    product = write.add("MatMul", sides, "product")
    write.finish(product if operand(node, 6) is None else write.add("Add", [product, node.inputs[6]], "biased"))
    return ""


def dynamic_quantize_matmul(node: ir.Node) -> str:
    """The activation keeps the grid of the moment: DynamicQuantizeLinear, then as above."""
    scale = array(operand(node, 2))
    if scale is None:
        return "its scale is no constant"
    write = StandingIn(node)
    codes = write.add("DynamicQuantizeLinear", [node.inputs[0]], "codes", dtype=ir.DataType.UINT8)
    dynamic = codes.producer()
    dynamic.resize_outputs(3)
    for output, suffix in zip(dynamic.outputs[1:], ("scale", "zero"), strict=True):
        output.name = f"{codes.name}_{suffix}"
    left = write.add("DequantizeLinear", list(dynamic.outputs), "a", dtype=ir.DataType.FLOAT)
    several = scale.size > 1
    operands = [node.inputs[1], node.inputs[2], operand(node, 3)]
    if not several:
        operands[1] = write.constant("b_scale", scale.reshape(()))
        operands[2] = None if operands[2] is None else write.constant("b_zero", array(operands[2]).reshape(()))
    right = write.add("DequantizeLinear", operands, "b", {"axis": 1} if several else {}, dtype=ir.DataType.FLOAT)
    product = write.add("MatMul", [left, right], "product")
    write.finish(product if operand(node, 4) is None else write.add("Add", [product, node.inputs[4]], "biased"))
    return ""


_POOL = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
_OWN = "com.microsoft"
SPELLINGS: dict[tuple[str, str], Callable[[ir.Node], str]] = {
    ("", "QLinearConv"): qlinear_conv,
    (_OWN, "QLinearConv"): qlinear_conv,
    ("", "QLinearMatMul"): qlinear_matmul,
    (_OWN, "QGemm"): qgemm,
    (_OWN, "QLinearAdd"): _binary("Add"),
    (_OWN, "QLinearMul"): _binary("Mul"),
    (_OWN, "QLinearSigmoid"): _unary("Sigmoid"),
    (_OWN, "QLinearLeakyRelu"): _unary("LeakyRelu", "alpha"),
    (_OWN, "QLinearSoftmax"): _unary("Softmax", "axis"),
    (_OWN, "QLinearAveragePool"): _unary("AveragePool", *_POOL),
    (_OWN, "QLinearGlobalAveragePool"): _unary("GlobalAveragePool"),
    (_OWN, "QLinearReduceMean"): qlinear_reduce_mean,
    (_OWN, "QLinearConcat"): qlinear_concat,
    (_OWN, "QLinearWhere"): qlinear_where,
    (_OWN, "MatMulIntegerToFloat"): matmul_integer_to_float,
    (_OWN, "DynamicQuantizeMatMul"): dynamic_quantize_matmul,
}
