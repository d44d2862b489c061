"""Multiply-adds of one node from known shapes, integer and fused spellings included.

`qonnx.macs` runs a float model to learn them; a comparison has measured every shape already, in both models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

Shape = tuple[int, ...]
# Which input is the weight: [out, in/group, kernel…].
_CONVOLUTIONS = {"Conv": 1, "QLinearConv": 3, "ConvInteger": 1, "FusedConv": 1, "NhwcFusedConv": 1}
_PRODUCTS = frozenset({"MatMul", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"})


def multiply_adds(node: ir.Node, shapes: Mapping[str, Shape]) -> int | None:
    """Multiply-adds of one run of `node`; None if it is not a product or convolution, or a shape is missing.

    `shapes` maps names of values to shapes. Conv: |Y|·C·∏kernel; ConvTranspose: |X|·M·∏kernel; MatMul and Gemm: |Y|·K.
    """
    inputs = [shapes.get(value.name) if value is not None else None for value in node.inputs]
    output = shapes.get(node.outputs[0].name)
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
    if node.op_type == "MatMulNBits":
        return math.prod(output) * node.attributes.get_int("K", 0)
    return None
