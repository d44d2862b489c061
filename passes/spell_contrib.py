"""Spellings of ONNX Runtime's weight-only operators in standard ones: DequantizeLinear over integer weights.

    MatMulNBits(x, B, scales, zero_points, bias)        y = x · DequantizeLinear(codes [K, N], block along K) + bias
    GatherBlockQuantized(data, indices, scales, …)      y = Gather(DequantizeLinear(data), indices)

B of MatMulNBits is uint8 [N, blocks, block · bits / 8], low bits first; zero points likewise, [N, ceil(blocks · bits /
8)], or floats [N, blocks], which DequantizeLinear has no place for: then the zero point is subtracted as a number.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from qonnx.passes.rewire import array, integer, operand
from qonnx.passes.standing_in import StandingIn

_TYPES = {2: ir.DataType.UINT2, 4: ir.DataType.UINT4, 8: ir.DataType.UINT8}
_OPSETS = {2: 25, 4: 21, 8: 21}  # that have DequantizeLinear of the type, with blocks


def unpack_bits(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """uint8 [..., bytes] as codes [..., count], low bits first."""
    shifts = (bits * np.arange(8 // bits)).astype(np.uint8)
    codes = (packed[..., None] >> shifts) & np.uint8(2**bits - 1)
    return codes.reshape(*packed.shape[:-1], -1)[..., :count]


def matmul_nbits(node: ir.Node) -> str:
    """Why the node cannot be spelled, else ""."""
    packed, scales, zeros, group, bias = (operand(node, i) for i in (1, 2, 3, 4, 5))
    bits, block = integer(node, "bits", 4), integer(node, "block_size", 32)
    inputs, outputs = integer(node, "K", 0), integer(node, "N", 0)
    if group is not None:
        return "its blocks are reordered by g_idx"
    if integer(node, "weight_prepacked", 0):
        return "its weight is packed for one kind of GPU"
    if bits not in _TYPES or array(packed) is None or array(scales) is None:
        return "its weight is no constant" if bits in _TYPES else f"it has {bits} bits"
    if zeros is not None and array(zeros) is None:
        return "its zero points are no constant"
    opset = node.graph.opset_imports.get("", 1)
    if opset < _OPSETS[bits]:
        return f"{bits}-bit DequantizeLinear with blocks needs opset {_OPSETS[bits]}, the model has {opset}"
    blocks = -(-inputs // block)
    codes = unpack_bits(array(packed).reshape(outputs, -1), bits, blocks * block)[:, :inputs].T
    scale = array(scales).reshape(outputs, blocks).T
    write = StandingIn(node)
    zero = array(zeros) if zeros is not None else np.full((outputs, blocks), 2 ** (bits - 1), np.uint8)
    floating = zero.dtype.kind != "u"
    if not floating and zeros is not None:
        zero = unpack_bits(zero.reshape(outputs, -1), bits, blocks)
    zero = zero.reshape(outputs, blocks).T
    operands = [write.constant("codes", codes, _TYPES[bits]), write.constant("scale", np.ascontiguousarray(scale))]
    if not floating:
        operands.append(write.constant("zero_point", zero, _TYPES[bits]))
    attributes = {"axis": 0, "block_size": block}
    weight = write.add("DequantizeLinear", operands, "weight", attributes, dtype=ir.DataType.from_numpy(scale.dtype))
    weight.shape = ir.Shape([inputs, outputs])
    if floating:
        shift = np.repeat(zero.astype(np.float32) * scale.astype(np.float32), block, axis=0)[:inputs]
        weight = write.add("Sub", [weight, write.constant("shift", shift.astype(scale.dtype))], "shifted")
    product = write.add("MatMul", [node.inputs[0], weight], "product")
    if bias is not None:
        product = write.add("Add", [product, bias], "biased")
    write.finish(product)
    return ""


def gather_block_quantized(node: ir.Node) -> str:
    """Why the node cannot be spelled, else ""."""
    data, indices, scales, zeros = (operand(node, i) for i in range(4))
    if array(data) is None or array(scales) is None:
        return "its table is no constant"
    codes, kind = array(data), data.const_value.dtype if data.const_value is not None else data.dtype
    axis, block = integer(node, "quantize_axis", 1), integer(node, "block_size", 128)
    bits = integer(node, "bits", 4)
    if kind == ir.DataType.UINT8 and bits < 8:
        if axis % codes.ndim != codes.ndim - 1:
            return "its packed codes lie along another axis than its blocks"
        count = codes.shape[-1] * 8 // bits
        codes, kind = unpack_bits(codes, bits, count), _TYPES[bits]
        zero = None if zeros is None else unpack_bits(array(zeros), bits, array(scales).shape[-1])
    else:
        zero = None if zeros is None else array(zeros)
    if node.graph.opset_imports.get("", 1) < 21:
        return "DequantizeLinear with blocks needs opset 21"
    write = StandingIn(node)
    if zero is None and not kind.is_signed():
        zero = np.full(array(scales).shape, 2 ** (kind.bitwidth - 1), np.uint8)
    operands = [write.constant("codes", codes, kind), write.constant("scale", array(scales))]
    operands.append(None if zero is None else write.constant("zero_point", zero, kind))
    table = write.add("DequantizeLinear", operands, "table", {"axis": axis, "block_size": block})
    table.type, table.shape = ir.TensorType(scales.dtype), ir.Shape(codes.shape)
    write.finish(write.add("Gather", [table, indices], "rows", {"axis": integer(node, "gather_axis", 0)}))
    return ""


SPELLINGS: dict[tuple[str, str], Callable[[ir.Node], str]] = {
    ("com.microsoft", "MatMulNBits"): matmul_nbits,
    ("com.microsoft", "GatherBlockQuantized"): gather_block_quantized,
}
