"""Which operators hold the arithmetic of a network, and how to see through Q/DQ around them.

The tables speak of ONNX, of ONNX Runtime's own domain, because models of other tools use both, and of ours.
"""

from __future__ import annotations

import onnx_ir as ir

# Operators that multiply large tensors: the ones worth quantizing, hence the rows of a derived ledger.
ELIGIBLE = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "Gather", "LSTM", "GRU", "RNN", "Einsum", "Attention"})
# Products of ours with packed codes of a weight [N, K]: by integers, and with activations in float.
PACKED_INTEGER = frozenset(
    {
        "DynamicQuantizeMatMulLowBit", "QuantizedMatMulLowBit", "QLinearMatMulLowBit", "StaticQuantizeMatMulLowBit",
        "DynamicQuantizeMatMulCodebook",
    }
)  # fmt: skip
PACKED_FLOAT = frozenset({"MatMulLowBit", "ConvLowBit", "MatMulCodebook", "GatherCodebook"})
# Operators whose arithmetic is integer in ONNX Runtime (after its optimiser, or written so by a tool).
INTEGER_OPERATORS = PACKED_INTEGER | frozenset(
    {
        "QLinearConv", "QLinearConvTranspose", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger",
        "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention", "QOrderedMatMul",
        "QOrderedAttention", "QMoE", "LogAttention",
    }
)  # fmt: skip
# Integer, but elementwise or data movement: fused, yet without multiply-adds to speak of.
INTEGER_ELEMENTWISE = frozenset(
    {
        "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QLinearAveragePool",
        "QLinearGlobalAveragePool", "QLinearConcat", "QLinearReduceMean", "QLinearWhere", "QEmbedLayerNormalization",
    }
)  # fmt: skip
# Integer weights in memory, arithmetic in float or int8 as the runtime chooses (attribute accuracy_level).
WEIGHT_ONLY_OPERATORS = PACKED_FLOAT | frozenset(
    {"MatMulNBits", "MatMulBnb4", "GatherBlockQuantized", "MatMulNBitsMlp", "MatMulNBitsQkv"}
)
# Operators with multiply-adds that run in floating point.
FLOAT_COMPUTE = frozenset(
    {
        "Conv", "FusedConv", "NhwcFusedConv", "NhwcConv", "ConvTranspose", "MatMul", "FusedMatMul", "Gemm", "FusedGemm",
        "TransposeMatMul", "Attention", "MultiHeadAttention", "GroupQueryAttention", "LSTM", "GRU", "RNN", "Einsum",
        "GemmFloat8", "MatMulPackedWeight",
    }
)  # fmt: skip


def dequantized(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that makes `value`, if any, looking through operators that only move data."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "DequantizeLinear":
            return node
        if node.op_type not in ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"):
            return None
        value = node.inputs[0]
    return None


def quantized_type(dequantize: ir.Node | None) -> str:
    """ "u8", "s4", … of the codes that a DequantizeLinear reads; "" without one."""
    if dequantize is None:
        return ""
    kind = dequantize.inputs[0].dtype
    if kind is None:
        zero_point = dequantize.inputs[2] if len(dequantize.inputs) > 2 else None
        kind = zero_point.dtype if zero_point is not None else ir.DataType.UINT8  # the default of QuantizeLinear
    return integer_name(kind)


def integer_name(kind: ir.DataType) -> str:
    """ "u8", "s4", … as the tables of number types call them; other types by their ONNX name."""
    return f"{'s' if kind.is_signed() else 'u'}{kind.bitwidth}" if kind.is_integer() else kind.name.lower()


def weight_bits(node: ir.Node) -> int:
    """Bits of a code of the weight that an operator holds packed: its attribute `bits`, or what counts its `levels`;
    0 where neither says (a code book's entry stands for several weights)."""
    levels = 0 if "Codebook" in node.op_type else node.attributes.get_int("levels", 0)
    return node.attributes.get_int("bits", 0) or max(levels - 1, 0).bit_length()


_BASES = {
    "QLinearConv": "Conv",
    "ConvInteger": "Conv",
    "FusedConv": "Conv",
    "NhwcFusedConv": "Conv",
    "QGemm": "Gemm",
    "FusedGemm": "Gemm",
    "MatMulPackedWeight": "MatMul",
}


def base_operator(operator: str) -> str:
    """The float operator that `operator` stands for: QLinearConv is a Conv, MatMulNBits a MatMul, QLinearAdd an Add."""
    if operator in _BASES:
        return _BASES[operator]
    if "MatMul" in operator:
        return "MatMul"
    return operator.removeprefix("QLinear")
