"""Conditions of a target's `exclude` rows: "M == 1 or K < 16", evaluated on the sizes of one node.

A condition is Python's comparison syntax over the names in NAMES, whole numbers, `%`, `and` and `or`; nothing else
parses. A comparison with a size that is not known (dynamic batch) does not hold.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Mapping

import onnx_ir as ir

from qonnx.errors import QonnxError
from qonnx.options import nearest

# What each size is, for a node that multiplies by a weight.
NAMES: dict[str, str] = {
    "M": "rows of the product (last but one axis of the output)",
    "N": "columns of the product",
    "K": "length of the sums",
    "inputs": "input channels of one group of a convolution",
    "outputs": "output channels of a convolution",
    "groups": "groups of a convolution",
    "kernel": "taps of a convolution (product of its spatial sizes)",
}
_COMPARE = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def sizes(node: ir.Node) -> dict[str, int]:
    """Known sizes of a MatMul, Gemm, Conv or ConvTranspose; names whose size is not static are left out."""
    shapes = [_shape(value) for value in node.inputs[:2]]
    if len(shapes) < 2 or not node.outputs:
        return {}
    left, right = shapes
    if node.op_type in ("Conv", "ConvTranspose"):
        if len(right) < 3:
            return {}
        groups = node.attributes.get_int("group", 1)
        known = {"groups": groups, "kernel": _product(right[2:])}
        if node.op_type == "Conv":
            known |= {"inputs": right[1], "outputs": right[0]}
        else:
            outputs = None if right[1] is None else right[1] * groups
            known |= {"inputs": None if right[0] is None else right[0] // groups, "outputs": outputs}
    elif node.op_type in ("MatMul", "Gemm"):
        if node.op_type == "Gemm" and node.attributes.get_int("transA", 0):
            left = left[::-1]
        if node.op_type == "Gemm" and node.attributes.get_int("transB", 0):
            right = right[::-1]
        known = {"M": left[-2] if len(left) > 1 else None, "K": left[-1] if left else None}
        if len(right) > 1:
            known |= {"N": right[-1], "K": right[-2] if known["K"] is None else known["K"]}
    else:
        return {}
    return {name: size for name, size in known.items() if size is not None}


def holds(when: str, known: Mapping[str, int]) -> bool:
    """Whether the condition `when` holds for the sizes `known`; QonnxError when it does not parse."""
    return bool(_value(_parse(when), known, when))


def check(when: str) -> None:
    """Raise QonnxError unless `when` is a condition over NAMES."""
    for part in ast.walk(_parse(when)):
        if isinstance(part, ast.Name) and part.id not in NAMES:
            raise QonnxError(f"condition '{when}' speaks of '{part.id}'; {nearest(part.id, NAMES)}")
    holds(when, dict.fromkeys(NAMES, 1))


def _shape(value: ir.Value | None) -> list[int | None]:
    while value is not None and value.shape is None and value.producer() is not None:
        if value.producer().op_type not in ("QuantizeLinear", "DequantizeLinear"):
            return []
        value = value.producer().inputs[0]  # Q/DQ keep the shape, and few tools write it behind them
    if value is None or value.shape is None:
        return []
    return [size if isinstance(size, int) else None for size in value.shape]


def _product(numbers: list[int | None]) -> int | None:
    return None if None in numbers else math.prod(numbers)


def _parse(when: str) -> ast.expr:
    try:
        return ast.parse(when, mode="eval").body
    except SyntaxError as error:
        raise QonnxError(f"condition '{when}' does not parse ({error.msg})") from error


def _value(part: ast.expr, known: Mapping[str, int], when: str):
    if isinstance(part, ast.BoolOp):
        parts = [_value(value, known, when) for value in part.values]
        return any(parts) if isinstance(part.op, ast.Or) else all(parts)
    if isinstance(part, ast.Compare) and len(part.ops) == 1 and type(part.ops[0]) in _COMPARE:
        left, right = _value(part.left, known, when), _value(part.comparators[0], known, when)
        return left is not None and right is not None and _COMPARE[type(part.ops[0])](left, right)
    if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mod):
        left, right = _value(part.left, known, when), _value(part.right, known, when)
        return None if left is None or right is None else left % right
    if isinstance(part, ast.Name):
        return known.get(part.id)
    if isinstance(part, ast.Constant) and type(part.value) is int:
        return part.value
    raise QonnxError(f"condition '{when}' may only compare {', '.join(NAMES)} with whole numbers, joined by and, or")
