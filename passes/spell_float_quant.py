"""Spelling of FloatQuant(x, scale, exponent bits, mantissa bits, exponent bias, largest value): minifloats by scale.

    v = x / scale,  step(v) = 2^max(⌊log2 |v|⌋ − mantissa bits, 1 − bias − mantissa bits)
    y = clip(step · round(v / step), ±largest) · scale

Cases:
1. e4m3 and e5m2 as ONNX has them: stored codes for a constant x, Q → DQ for other tensors;
2. another minifloat, x constant: the values themselves, as floats that lie on its grid;
3. another minifloat, x computed: the formula in standard operators.
A logarithm that is wrong in its last place doubles or halves the step right at a power of two, which is on both grids.
Definition: the operator documents of fastmachinelearning, and Brevitas' FloatQuant.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from qonnx.passes.rewire import array, integer, replace, scalar
from qonnx.passes.standing_in import StandingIn, remove_loose

# (exponent bits, mantissa bits, bias, largest value) -> the number type of ONNX.
_TYPES = {
    (4, 3, 7, 448): (ir.DataType.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn),
    (5, 2, 15, 57344): (ir.DataType.FLOAT8E5M2, ml_dtypes.float8_e5m2),
}
_MANTISSA = 10  # bits at most: float32 arithmetic is exact enough for them


def float_quant(node: ir.Node) -> str:
    """Spell the node; why it cannot be, else ""."""
    x, scale = node.inputs[:2]
    numbers = [scalar(v) for v in node.inputs[2:6]]
    if array(scale) is None or any(value is None for value in numbers):
        return "its scale or one of its four numbers is computed"
    exponent, mantissa, bias, largest = map(float, numbers)
    if text(node, "rounding_mode", "ROUND") not in ("ROUND", "HALF_EVEN") or not integer(node, "saturation", 1):
        return "it does not round half to even and saturate"
    if mantissa > _MANTISSA:
        return f"it has {mantissa:g} bits of mantissa; up to {_MANTISSA} are read"
    largest = min(largest, (2 - 2.0**-mantissa) * 2.0 ** (2**exponent - 1 - bias))
    kind = _TYPES.get((exponent, mantissa, bias, largest))
    placed = along_axis(x, array(scale), np.zeros(1))
    if kind is not None and placed is not None:
        _with_type(node, kind, placed, largest)
    elif array(x) is not None:
        _constant(node, rounded(array(x), array(scale), mantissa, bias, largest))
    else:
        _formula(node, mantissa, bias, largest)
    return ""


def rounded(x: np.ndarray, scale: np.ndarray, mantissa: float, bias: float, largest: float) -> np.ndarray:
    """The definition: x on the grid of the minifloat times `scale`, as float32."""
    v = np.asarray(x, np.float64) / np.asarray(scale, np.float64)
    exponents = np.frexp(v)[1] - 1  # ⌊log2 |v|⌋, exactly
    step = np.exp2(np.maximum(exponents - mantissa, 1 - bias - mantissa))
    return (np.clip(step * np.rint(v / step), -largest, largest) * scale).astype(np.float32)


def _with_type(node: ir.Node, found: tuple, placed: tuple, largest: float) -> None:
    x, scale = node.inputs[:2]
    (axis, scales, _), (kind, numbers) = placed, found
    attributes = {} if axis is None else {"axis": axis}
    write = StandingIn(node)
    operands = [write.constant("scale", scales), write.constant("zero", np.zeros(scales.shape), kind)]
    if array(x) is not None:
        codes = write.constant("codes", np.clip(array(x) / array(scale), -largest, largest).astype(numbers), kind)
    else:
        codes = write.add("QuantizeLinear", [x, *operands], "codes", attributes, dtype=kind, shape=x.shape)
    write.finish(write.add("DequantizeLinear", [codes, *operands], "value", attributes, dtype=ir.DataType.FLOAT))


def _constant(node: ir.Node, values: np.ndarray) -> None:
    if node.outputs[0].is_graph_output():
        write = StandingIn(node)
        write.finish(write.add("Identity", [write.constant("value", values)], "value", dtype=ir.DataType.FLOAT))
        return
    loose = [v for v in node.inputs if v is not None and v.is_initializer()]
    replace(node.outputs[0], StandingIn(node).constant("value", values))
    node.graph.remove(node, safe=True)
    for one in loose:
        remove_loose(one)


def _formula(node: ir.Node, mantissa: float, bias: float, largest: float) -> None:
    x = node.inputs[0]
    write = StandingIn(node)
    number = lambda name, value: write.constant(name, np.array(value, np.float32))  # noqa: E731 - seven uses below
    tiny = float(np.finfo(np.float32).tiny)
    v = write.add("Div", [x, write.constant("scale", np.asarray(array(node.inputs[1]), np.float32))], "scaled")
    power = write.add(
        "Log", [write.add("Max", [write.add("Abs", [v], "size"), number("tiny", tiny)], "positive")], "log"
    )
    power = write.add("Floor", [write.add("Mul", [power, number("per_bit", 1 / np.log(2))], "log2")], "exponent")
    power = write.add("Sub", [power, number("mantissa", mantissa)], "step_exponent")
    power = write.add("Max", [power, number("least", 1 - bias - mantissa)], "step_bound")
    step = write.add("Pow", [number("two", 2.0), power], "step")
    value = write.add("Mul", [write.add("Round", [write.add("Div", [v, step], "steps")], "codes"), step], "rounded")
    value = write.add("Clip", [value, number("low", -largest), number("high", largest)], "clipped")
    write.finish(write.add("Mul", [value, number("factor", array(node.inputs[1]))], "value"))


def along_axis(x: ir.Value, scale: np.ndarray, zero: np.ndarray) -> tuple[int | None, np.ndarray, np.ndarray] | None:
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


def text(node: ir.Node, name: str, default: str) -> str:
    found = node.attributes.get(name)
    return default if found is None else found.as_string().upper()
