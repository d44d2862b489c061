"""Multiply-adds of one node from known shapes, integer and fused spellings included.

`qonnx.macs` runs a float model to learn them; a comparison has measured every shape already, in both models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from qonnx.operators import PACKED_FLOAT, PACKED_INTEGER

Shape = tuple[int, ...]
# Which input is the weight: [out, in/group, kernel…].
_CONVOLUTIONS = {"Conv": 1, "QLinearConv": 3, "ConvInteger": 1, "FusedConv": 1, "NhwcFusedConv": 1}
_PACKED = PACKED_FLOAT | PACKED_INTEGER
_PRODUCTS = frozenset({"MatMul", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"})


def multiply_adds(node: ir.Node, shapes: Mapping[str, Shape]) -> int | None:
    """Multiply-adds of one run of `node`; None if it is not a product or convolution, or a shape is missing.

    `shapes` maps names of values to shapes. Conv: |Y|·C·∏kernel; ConvTranspose: |X|·M·∏kernel; MatMul and Gemm: |Y|·K.
    """
    inputs = [shapes.get(value.name) if value is not None else None for value in node.inputs]
    output = shapes.get(node.outputs[0].name) or _output(node, inputs)
    if output is None or not inputs or inputs[0] is None:
        return None
    if node.op_type in _CONVOLUTIONS:
        weight = inputs[_CONVOLUTIONS[node.op_type]]
        return None if weight is None else math.prod(output) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":  # its weight is [in, out/group, kernel…] and slides over the input
        return None if inputs[1] is None else math.prod(inputs[0]) * math.prod(inputs[1][1:])
    if node.op_type in _PRODUCTS:
        return math.prod(output) * inputs[0][-1]
    if node.op_type in ("Gemm", "QGemm"):
        return math.prod(output) * inputs[0][0 if node.attributes.get_int("transA", 0) else 1]
    if node.op_type == "MatMulNBits" or (node.op_type in _PACKED and node.op_type != "GatherCodebook"):
        return math.prod(output) * node.attributes.get_int("K", 0)
    if node.op_type == "LogAttention":  # scores [..., queries, keys]
        return math.prod(output) * inputs[0][-1]
    return None


def _output(node: ir.Node, inputs: list[Shape | None]) -> Shape | None:
    """Shape of a product from those of its two factors, None for other operators."""
    if node.op_type not in ("MatMul", "Gemm") or len(inputs) < 2 or None in inputs[:2]:
        return None
    left, right = inputs[0], inputs[1]
    if len(left) < 2 or len(right) < 2:
        return None
    rows = left[-1] if node.attributes.get_int("transA", 0) else left[-2]
    columns = right[-2] if node.attributes.get_int("transB", 0) else right[-1]
    return (*np.broadcast_shapes(left[:-2], right[:-2]), rows, columns)
