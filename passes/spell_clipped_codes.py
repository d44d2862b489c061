"""Spelling of weights in QCDQ form, constant codes → Clip → DequantizeLinear: how Brevitas writes fewer than 8 bits.

ONNX had no narrower number types when that form was made, so codes lie in int8 and Clip tells their width. The clipped
codes are stored instead, in the narrowest type that holds the two bounds.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from qonnx.passes.rewire import array, initializer, is_op, set_input

_TYPES = (ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT8, ir.DataType.UINT8)  # narrowest first


def clipped_codes(node: ir.Node) -> str | None:
    """Spell the Clip; None if it is another kind of Clip."""
    codes, *bounds = node.inputs
    users = [use.node for use in node.outputs[0].uses()]
    if array(codes) is None or codes.dtype not in (ir.DataType.INT8, ir.DataType.UINT8):
        return None
    if not users or not all(is_op(user, "DequantizeLinear") and user.inputs[0] is node.outputs[0] for user in users):
        return None
    if len(bounds) != 2 or any(array(bound) is None for bound in bounds):
        return None
    ends = [int(array(bound).reshape(-1)[0]) for bound in bounds]
    values = np.clip(array(codes).astype(np.int64), *ends)
    zeros = [array(user.inputs[2]) for user in users if len(user.inputs) > 2 and user.inputs[2] is not None]
    if any(zero is None for zero in zeros):
        return None
    kind = _narrowest([*ends, *(int(x) for zero in zeros for x in np.asarray(zero).reshape(-1))], node, codes.dtype)
    graph = node.graph  # the node goes with its last reader
    stored = initializer(graph, f"{node.outputs[0].name}_codes", values.astype(kind.numpy()))
    for user in users:
        set_input(user, 0, stored)
        if len(user.inputs) > 2 and user.inputs[2] is not None:
            zero = array(user.inputs[2]).astype(kind.numpy())
            set_input(user, 2, initializer(graph, f"{user.inputs[2].name}_narrow", zero))
    return ""


def _narrowest(numbers: list[int], node: ir.Node, given: ir.DataType) -> ir.DataType:
    """The narrowest type of the same sign that holds `numbers`; four bits since opset 21."""
    opset = node.graph.opset_imports.get("", 1)
    for kind in (one for one in _TYPES if one.is_signed() == given.is_signed()):
        limits = ml_dtypes.iinfo(kind.numpy())
        if all(limits.min <= number <= limits.max for number in numbers) and (kind.bitwidth == 8 or opset >= 21):
            return kind
    return given


SPELLINGS = {("", "Clip"): clipped_codes}
