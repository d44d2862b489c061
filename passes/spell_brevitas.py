"""Spellings of the fastmachinelearning dialect (Brevitas, FINN, hls4ml) as QuantizeLinear and DequantizeLinear.

    Quant, IntQuant(x, scale, zero_point, bit_width)    y = (round(clip(x / scale + zero_point)) − zero_point) · scale
    BipolarQuant(x, scale)                              y = ±scale, + for x ≥ 0
    Trunc(x, scale, zero_point, bits in, …)             codes divided by a power of two and rounded down
    FloatQuant                                          minifloats: see spell_float_quant.py

A constant x becomes stored codes. Other tensors get Q → Clip → DQ where the bits are fewer than those of the number
type (what Brevitas calls QCDQ). Definitions: the QONNX operator documents of fastmachinelearning.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from qonnx.passes.rewire import array, integer, scalar
from qonnx.passes.spell_float_quant import along_axis, float_quant, text
from qonnx.passes.standing_in import StandingIn

_ROUNDING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ROUND": np.rint,
    "HALF_EVEN": np.rint,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": lambda x: np.sign(x) * np.ceil(np.abs(x)),
    "DOWN": np.trunc,
    "ROUND_TO_ZERO": np.trunc,
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5),
    "HALF_DOWN": lambda x: np.sign(x) * np.ceil(np.abs(x) - 0.5),
}
# Bits -> narrowest number type that ONNX has for Q/DQ at opset 21, signed and unsigned.
_NARROWEST = {4: ("INT4", "UINT4"), 8: ("INT8", "UINT8"), 16: ("INT16", "UINT16")}


def limits(bits: int, signed: bool, narrow: bool) -> tuple[int, int]:
    """Least and largest code; narrow leaves out the one code that makes the range uneven."""
    if signed:
        return -(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1
    return 0, 2**bits - 1 - narrow


def number_type(bits: int, signed: bool, opset: int) -> ir.DataType | None:
    """The narrowest number type that holds codes of `bits`; None above 16."""
    for width, names in _NARROWEST.items():
        if bits <= width and (width == 8 or opset >= 21):
            return ir.DataType[names[not signed]]
    return None


def quant(node: ir.Node) -> str:
    x, scale, zero, bits = node.inputs[:4]
    rounding = text(node, "rounding_mode", "ROUND")
    if array(scale) is None or array(zero) is None or scalar(bits) is None:
        return "its scale, zero point or number of bits is computed"
    bits, signed = int(scalar(bits)), bool(integer(node, "signed", 1))
    if bits == 1 and signed:
        return _bipolar(node, array(scale))
    kind = number_type(bits, signed, node.graph.opset_imports.get("", 1))
    low, high = limits(bits, signed, bool(integer(node, "narrow", 0)))
    zeros = np.asarray(array(zero), np.float64)
    if kind is None:
        return f"it has {bits} bits, and QuantizeLinear 16 at most"
    if (zeros != np.rint(zeros)).any() or zeros.min() < low or zeros.max() > high:
        return "its zero point is no code"
    placed = along_axis(x, array(scale), zeros)
    if placed is None:
        return "its scales lie along several axes"
    axis, scales, zero_points = placed
    if axis is not None and kind.bitwidth > 8 and array(x) is None and (low, high) != limits(16, signed, False):
        return f"it has {bits} bits by channel, and Clip takes no 16-bit integers"
    write = StandingIn(node)
    attributes = {} if axis is None else {"axis": axis}
    if array(x) is not None and rounding in _ROUNDING:
        value = np.clip(array(x) / array(scale) + zeros, low, high)
        codes = write.constant("codes", _ROUNDING[rounding](value), kind)
    elif rounding not in ("ROUND", "HALF_EVEN"):
        return f"its rounding mode is {rounding}; QuantizeLinear rounds half to even"
    else:
        if kind.bitwidth < 8:  # Clip has no 4-bit kernels
            kind = ir.DataType.INT8 if signed else ir.DataType.UINT8
        codes = None
    operands = [write.constant("scale", scales), write.constant("zero_point", zero_points, kind)]
    if codes is None:
        codes = _codes(write, operands, attributes, (low, high))
    write.finish(write.add("DequantizeLinear", [codes, *operands], "value", attributes, dtype=ir.DataType.FLOAT))
    return ""


def _codes(write: StandingIn, grid: list[ir.Value], attributes: dict, ends: tuple[int, int]) -> ir.Value:
    """QuantizeLinear of the node's x, held between the codes `ends`.

    ONNX Runtime has no Clip for 16-bit integers; there x is clipped before, at the values of these codes.
    """
    x, kind = write.node.inputs[0], grid[1].const_value.dtype
    narrower = ends != limits(kind.bitwidth, kind.is_signed(), False)
    if narrower and kind.bitwidth > 8:
        scale, zero = (value.const_value.numpy().astype(np.float64) for value in grid)
        bounds = [
            write.constant(name, np.float32((end - zero) * scale))
            for name, end in zip(("low", "high"), ends, strict=True)
        ]
        x, narrower = write.add("Clip", [x, *bounds], "clipped", dtype=ir.DataType.FLOAT, shape=x.shape), False
    codes = write.add("QuantizeLinear", [x, *grid], "codes", attributes, dtype=kind, shape=x.shape)
    if not narrower:
        return codes
    bounds = [write.constant(name, np.array(end), kind) for name, end in zip(("low", "high"), ends, strict=True)]
    return write.add("Clip", [codes, *bounds], "clipped", dtype=kind, shape=x.shape)


def bipolar_quant(node: ir.Node) -> str:
    if array(node.inputs[1]) is None:
        return "its scale is computed"
    return _bipolar(node, array(node.inputs[1]))


def _bipolar(node: ir.Node, scale: np.ndarray) -> str:
    """±scale: codes −1 and 1."""
    x = node.inputs[0]
    placed = along_axis(x, scale, np.zeros(1))
    if placed is None:
        return "its scales lie along several axes"
    axis, scales, _ = placed
    write = StandingIn(node)
    if array(x) is not None:
        kind = number_type(2, True, node.graph.opset_imports.get("", 1))
        codes = write.constant("codes", np.where(array(x) >= 0, 1, -1), kind)
    else:
        kind = ir.DataType.INT8
        positive = write.add("GreaterOrEqual", [x, write.constant("border", np.zeros((), np.float32))], "positive")
        signs = [write.constant(name, np.array(sign, np.int8)) for name, sign in (("plus", 1), ("minus", -1))]
        codes = write.add("Where", [positive, *signs], "signs", dtype=kind, shape=x.shape)
    attributes = {} if axis is None else {"axis": axis}
    operands = [codes, write.constant("scale", scales)]
    write.finish(write.add("DequantizeLinear", operands, "value", attributes, dtype=ir.DataType.FLOAT))
    return ""


def trunc(node: ir.Node) -> str:
    """Version 1 has five inputs (x, scale, zero point, bits in, bits out) and keeps the scale; version 2 has six,
    (x, scale, zero point, bits in, output scale, bits out), and clips to the bits that are left."""
    x, scale, zero, bits_in = node.inputs[:4]
    second = len(node.inputs) > 5
    given = [scalar(v) for v in (scale, zero, bits_in, *node.inputs[4:6])]
    if any(value is None for value in given):
        return "its scale, zero point or number of bits is computed or not one number"
    s, z, b_in = given[:3]
    rounding = text(node, "rounding_mode", "FLOOR")
    operator = {"FLOOR": "Floor", "ROUND": "Round", "HALF_EVEN": "Round", "CEIL": "Ceil"}.get(rounding)
    if operator is None:
        return f"its rounding is {rounding}; FLOOR, ROUND and CEIL are read"
    if second:
        output_scale, b_out = given[3:]
        divisor = 2.0 ** np.rint(np.log2(output_scale / s))
        ends = limits(int(b_out), bool(integer(node, "signed", 1)), bool(integer(node, "narrow", 0)))
        output_zero = z / divisor
    else:
        divisor, output_scale, ends, output_zero = 2.0 ** (b_in - given[3]), s, None, z
    write = StandingIn(node)
    number = lambda name, value: write.constant(name, np.array(value, np.float32))  # noqa: E731 - seven uses below
    value = write.add("Div", [x, number("scale", s)], "steps")
    if z:
        value = write.add("Add", [value, number("zero_point", z)], "moved")
    value = write.add("Div", [write.add("Round", [value], "codes"), number("divisor", divisor)], "shifted")
    if ends is not None:
        value = write.add("Clip", [value, number("low", ends[0]), number("high", ends[1])], "clipped")
    value = write.add(operator, [value], "truncated")
    if output_zero:
        value = write.add("Sub", [value, number("output_zero_point", output_zero)], "moved_back")
    write.finish(write.add("Mul", [value, number("output_scale", output_scale)], "value"))
    return ""


_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
_OPERATORS = {
    "Quant": quant,
    "IntQuant": quant,
    "BipolarQuant": bipolar_quant,
    "Trunc": trunc,
    "FloatQuant": float_quant,
}
SPELLINGS: dict[tuple[str, str], Callable[[ir.Node], str]] = {
    (domain, name): spell for domain in _DOMAINS for name, spell in _OPERATORS.items()
}
