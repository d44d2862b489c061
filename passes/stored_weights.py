"""Read back a quantized weight from the graph: DequantizeLinear over constants, in front of a matrix product.

Lowering passes work on this spelling and not on notes, so that they serve models that another tool quantized too.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from qonnx.passes.rewire import array, floats, integer, is_constant, is_op, rank


@dataclasses.dataclass(frozen=True)
class StoredWeight:
    """The right factor of a product. K inputs, N outputs.

    codes: int32 [K, N]. scale: [blocks, N] in the model's float type, one row if a column has one scale. zero_point:
    int32 [blocks, N]. block: inputs that share a scale, 0 if all do. dtype: of the stored codes.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    block: int
    dtype: ir.DataType


def stored_weight(node: ir.Node) -> StoredWeight | None:
    """The quantized weight of a MatMul or Gemm whose left factor is float; None for any other node."""
    if not is_op(node, "MatMul", "Gemm") or is_op(node.inputs[0].producer(), "DequantizeLinear"):
        return None
    return right_factor(node)


def right_factor(node: ir.Node) -> StoredWeight | None:
    """The quantized weight of a MatMul or Gemm; None if it has no such weight."""
    if not is_op(node, "MatMul", "Gemm"):
        return None
    dequantize = node.inputs[1].producer()
    if not is_op(dequantize, "DequantizeLinear") or not all(is_constant(x) for x in dequantize.inputs if x is not None):
        return None
    codes, scale = (array(x) for x in dequantize.inputs[:2])
    given = dequantize.inputs[2] if len(dequantize.inputs) > 2 else None
    zero_point = np.zeros(scale.shape, np.int32) if given is None else array(given).astype(np.int32)
    if codes.ndim != 2 or rank(node.inputs[0]) == 1:
        return None
    codes, axis = codes.astype(np.int32), integer(dequantize, "axis", 1) % 2
    block = integer(dequantize, "block_size", 0)
    if scale.ndim == 1 and scale.size > 1:  # one scale an entry of `axis`
        scale, zero_point = (np.expand_dims(x, 1 - axis) for x in (scale, zero_point))
    elif scale.ndim < 2:
        scale, zero_point = scale.reshape(1, 1), zero_point.reshape(1, 1)
    if node.op_type == "Gemm" and integer(node, "transB", 0):
        codes, scale, zero_point, axis = codes.T, scale.T, zero_point.T, 1 - axis
    if (block and axis != 0) or (not block and scale.shape[0] != 1):
        return None  # scales along the outputs of a block, or along the inputs: no kernel has that
    width = (scale.shape[0], codes.shape[1])
    return StoredWeight(
        codes,
        np.broadcast_to(scale, width),
        np.broadcast_to(zero_point, width),
        block,
        dequantize.inputs[0].dtype,
    )


def bias_of(node: ir.Node, outputs: int) -> np.ndarray | None:
    """What the product adds: [outputs], empty if nothing; None unless the node is a plain product plus a vector."""
    if node.op_type == "MatMul":
        return np.zeros(0, np.float32)
    if floats(node, "alpha", 1.0) != 1.0 or integer(node, "transA", 0):
        return None
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return np.zeros(0, np.float32)
    bias = array(value)
    if bias is None or floats(node, "beta", 1.0) != 1.0 or bias.size not in (1, outputs):
        return None
    if bias.size > 1 and bias.shape[-1] != outputs:  # a column: one number a row of the product
        return None
    return np.broadcast_to(bias.reshape(-1), (outputs,))
