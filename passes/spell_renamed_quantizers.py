"""Spellings of quantizers that other tools write under names of their own, as QuantizeLinear and DequantizeLinear.

    com.microsoft  QuantizeLinear, DequantizeLinear                     ONNX Runtime's tool: 16 and 4 bits
    com.amd.quark  ExtendedQuantizeLinear, ExtendedDequantizeLinear     Quark: 16 bits and more
    com.vai.quantize  VitisQuantizeLinear, VitisDequantizeLinear        Quark's forerunner
    trt            TRT_FP8QuantizeLinear, TRT_FP8DequantizeLinear       ModelOpt: e4m3, no zero point

All compute what the standard operators do; these have had the number types since opset 21. Types that ONNX does not
quantize to (32-bit integers, 16-bit floats) stay.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from qonnx.passes.rewire import integer
from qonnx.passes.standing_in import StandingIn

_CODES = ("INT8", "UINT8", "INT16", "UINT16", "INT4", "UINT4", "FLOAT8E4M3FN", "FLOAT8E5M2")


def renamed(node: ir.Node) -> str:
    """Spell the node; why it cannot be, else ""."""
    opset = node.graph.opset_imports.get("", 1)
    if opset < 21:
        return f"its number types are standard from opset 21 on, the model has {opset}"
    kind = "DequantizeLinear" if "Dequantize" in node.op_type else "QuantizeLinear"
    inputs, write = list(node.inputs), StandingIn(node)
    zero = inputs[2] if len(inputs) > 2 else None
    if node.domain == "trt" and zero is None and kind == "QuantizeLinear":
        scale = inputs[1].shape
        shape = () if scale is None else tuple(scale.numpy())
        inputs = [*inputs[:2], write.constant("zero_point", np.zeros(shape), ir.DataType.FLOAT8E4M3FN)]
    elif not _standard(zero, kind):
        return f"ONNX does not quantize to {zero.dtype.name.lower()}"
    names = ("axis", "block_size")
    attributes = {name: integer(node, name, 0) for name in names if name in node.attributes}
    write.finish(write.add(kind, inputs, "linear", attributes))
    return ""


def _standard(zero: ir.Value | None, kind: str) -> bool:
    """Whether the standard operator `kind` takes codes of this zero point's type."""
    if zero is None or zero.dtype is None:
        return True
    return zero.dtype.name in _CODES or (kind == "DequantizeLinear" and zero.dtype == ir.DataType.INT32)


_NAMES = {
    "com.microsoft": ("QuantizeLinear", "DequantizeLinear"),
    "com.amd.quark": ("ExtendedQuantizeLinear", "ExtendedDequantizeLinear"),
    "com.vai.quantize": ("VitisQuantizeLinear", "VitisDequantizeLinear"),
    "trt": ("TRT_FP8QuantizeLinear", "TRT_FP8DequantizeLinear"),
}
SPELLINGS: dict[tuple[str, str], Callable[[ir.Node], str]] = {
    (domain, name): renamed for domain, names in _NAMES.items() for name in names
}
