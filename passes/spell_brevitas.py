"""Spellings of the fastmachinelearning dialect (Brevitas, FINN, hls4ml) as QuantizeLinear and DequantizeLinear.

    Quant, IntQuant(x, scale, zero_point, bit_width)    y = (round(clip(x / scale + zero_point)) − zero_point) · scale
    BipolarQuant(x, scale)                              y = ±scale, + for x ≥ 0
    Trunc(x, scale, zero_point, bits in, …)             codes divided by a power of two and rounded down
    FloatQuant(x, scale, exponent bits, …)              minifloats; e4m3 and e5m2 have a number type

A constant x becomes stored codes. Other tensors get Q → Clip → DQ where the bits are fewer than those of the number
type (what Brevitas calls QCDQ). Definitions: the QONNX operator documents of fastmachinelearning.
"""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx_ir as ir

from qonnx.passes.rewire import array, integer, scalar
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
    rounding = _text(node, "rounding_mode", "ROUND")
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
    placed = _along_axis(x, array(scale), zeros)
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
    placed = _along_axis(x, scale, np.zeros(1))
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
    """Four older inputs (x, scale, zero point, bits in, bits out) or seven: (…, output scale, zero point, bits)."""
    x, scale, zero, bits_in = node.inputs[:4]
    bits_out = node.inputs[6] if len(node.inputs) > 6 else node.inputs[4]
    given = [scalar(v) for v in (scale, zero, bits_in, bits_out)]
    if any(value is None for value in given):
        return "its scale, zero point or number of bits is computed or not one number"
    s, z, b_in, b_out = given
    rounding = _text(node, "rounding_mode", "FLOOR")
    if z != 0 or rounding not in ("FLOOR", "ROUND", "CEIL"):
        return f"its zero point is {z:g} and its rounding {rounding}; zero points of 0, FLOOR, ROUND and CEIL are read"
    if len(node.inputs) > 6:
        output_scale = scalar(node.inputs[4])
        if output_scale is None:
            return "its output scale is computed"
        divisor = 2.0 ** np.rint(np.log2(output_scale / s))
        ends = limits(int(b_out), bool(integer(node, "signed", 1)), bool(integer(node, "narrow", 0)))
    else:
        divisor, output_scale, ends = 2.0 ** (b_in - b_out), s, None
    write = StandingIn(node)
    number = lambda name, value: write.constant(name, np.array(value, np.float32))  # noqa: E731 - five uses below
    value = write.add("Round", [write.add("Div", [x, number("scale", s)], "steps")], "codes")
    value = write.add("Div", [value, number("divisor", divisor)], "shifted")
    if ends is not None:
        value = write.add("Clip", [value, number("low", ends[0]), number("high", ends[1])], "clipped")
    operator = {"FLOOR": "Floor", "ROUND": "Round", "CEIL": "Ceil"}[rounding]
    value = write.add(operator, [value], "truncated")
    write.finish(write.add("Mul", [value, number("output_scale", output_scale)], "value"))
    return ""


def float_quant(node: ir.Node) -> str:
    """The two minifloats that ONNX has number types for; others are no codes that a file could hold."""
    x, scale = node.inputs[:2]
    exponent, mantissa, bias, largest = (scalar(v) for v in node.inputs[2:6])
    kinds = {
        (4, 3, 7, 448): (ir.DataType.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn),
        (5, 2, 15, 57344): (ir.DataType.FLOAT8E5M2, ml_dtypes.float8_e5m2),
    }
    found = kinds.get((exponent, mantissa, bias, largest))
    if found is None or array(scale) is None:
        return f"no number type of ONNX is e{exponent}m{mantissa} with bias {bias} and largest value {largest}"
    if _text(node, "rounding_mode", "ROUND") not in ("ROUND", "HALF_EVEN") or not integer(node, "saturation", 1):
        return "it does not round half to even and saturate"
    placed = _along_axis(x, array(scale), np.zeros(1))
    if placed is None:
        return "its scales lie along several axes"
    (axis, scales, _), (kind, numbers) = placed, found
    attributes = {} if axis is None else {"axis": axis}
    write = StandingIn(node)
    operands = [write.constant("scale", scales), write.constant("zero", np.zeros(scales.shape), kind)]
    if array(x) is not None:
        codes = write.constant("codes", np.clip(array(x) / array(scale), -largest, largest).astype(numbers), kind)
    else:
        codes = write.add("QuantizeLinear", [x, *operands], "codes", attributes, dtype=kind, shape=x.shape)
    write.finish(write.add("DequantizeLinear", [codes, *operands], "value", attributes, dtype=ir.DataType.FLOAT))
    return ""


def _along_axis(x: ir.Value, scale: np.ndarray, zero: np.ndarray) -> tuple[int | None, np.ndarray, np.ndarray] | None:
    """Scales that broadcast against x as DequantizeLinear wants them: (axis, [C], [C]) or (None, scalar, scalar)."""
    scale, zero = np.asarray(scale, np.float32), np.asarray(zero)
    if scale.size == 1 and zero.size == 1:
        return None, scale.reshape(()), zero.reshape(())
    shape = np.broadcast_shapes(scale.shape, zero.shape)
    long = [i for i, size in enumerate(shape) if size > 1]
    rank = None if x.shape is None else len(x.shape)
    if len(long) != 1 or rank is None:
        return None
    axis = long[0] + rank - len(shape)
    return axis, np.broadcast_to(scale, shape).reshape(-1).copy(), np.broadcast_to(zero, shape).reshape(-1).copy()


def _text(node: ir.Node, name: str, default: str) -> str:
    found = node.attributes.get(name)
    return default if found is None else found.as_string().upper()


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
