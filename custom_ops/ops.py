"""OPS: the operators of domain `ai.qonnx` by name, each with its specification as an ONNX function.

A model that uses an operator carries the function (`function_of`), so it runs in any runtime; where the native library
is registered, its kernel replaces the function. Functions are bodies of standard operators from opset 18 on, their
nodes uniquely named (some converters need that), and take everything that varies from attributes and inputs: one body
serves every number of bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx
import onnx.parser
import onnx_ir as ir

from qonnx.custom_ops import DOMAIN, hadamard, log_attention, log_quantize, lookup_quantize, static_product
from qonnx.custom_ops.bodies import (
    DYNAMIC_QUANTIZE_MATMUL_CODEBOOK,
    DYNAMIC_QUANTIZE_MATMUL_LOW_BIT,
    GATHER_CODEBOOK,
    MATMUL_CODEBOOK,
    MATMUL_LOW_BIT,
)


@dataclasses.dataclass(frozen=True)
class Op:
    """An operator: its inputs and attributes in order, and the text of its body.

    Every input is required: a function body cannot tell whether one is there. Neutral values stand for "none" (a bias
    of one 0, a zero point of one 0, the table 0, 1, 2, …). `body` is None for operators that only observe: they never
    stay in a model.
    """

    name: str
    inputs: tuple[str, ...]
    attributes: tuple[str, ...]
    body: str | None
    outputs: tuple[str, ...] = ("y",)


_LOW_BIT_INPUTS = ("x", "codes", "scale", "zero_point", "table", "bias")
_CODEBOOK_INPUTS = ("x", "codes", "codebooks", "scale", "bias")
_CODES = ("K", "N", "block_size", "levels", "codes_per_word", "bytes_per_word")

OPS: dict[str, Op] = {
    op.name: op
    for op in (
        Op("MatMulLowBit", _LOW_BIT_INPUTS, _CODES, MATMUL_LOW_BIT),
        Op("DynamicQuantizeMatMulLowBit", _LOW_BIT_INPUTS, _CODES, DYNAMIC_QUANTIZE_MATMUL_LOW_BIT),
        Op(static_product.QUANTIZED, static_product.INPUTS, _CODES, static_product.QUANTIZED_BODY),
        Op(
            static_product.QLINEAR,
            static_product.QLINEAR_INPUTS,
            (*_CODES, *static_product.Y_RANGE),
            static_product.QLINEAR_BODY,
        ),
        Op(
            static_product.STATIC,
            static_product.INPUTS,
            (*_CODES, *static_product.X_RANGE),
            static_product.STATIC_BODY,
        ),
        Op("MatMulCodebook", _CODEBOOK_INPUTS, _CODES, MATMUL_CODEBOOK),
        Op("DynamicQuantizeMatMulCodebook", _CODEBOOK_INPUTS, _CODES, DYNAMIC_QUANTIZE_MATMUL_CODEBOOK),
        Op("GatherCodebook", ("rows", "weight_codes", "codebooks", "weight_scale"), _CODES, GATHER_CODEBOOK),
        Op(log_attention.OPERATOR, log_attention.INPUTS, log_attention.ATTRIBUTES, log_attention.BODY),
        Op(log_quantize.QUANTIZE, log_quantize.INPUTS, log_quantize.ATTRIBUTES, log_quantize.QUANTIZE_BODY, ("codes",)),
        Op(
            log_quantize.QUANTIZE_DEQUANTIZE,
            log_quantize.INPUTS,
            log_quantize.ATTRIBUTES,
            log_quantize.QUANTIZE_DEQUANTIZE_BODY,
        ),
        Op(lookup_quantize.OPERATOR, lookup_quantize.INPUTS, (), lookup_quantize.BODY, ("codes",)),
        Op(hadamard.HADAMARD, ("x", "base"), hadamard.ROTATION, hadamard.HADAMARD_BODY),
        Op(
            hadamard.ROTATE_AND_QUANTIZE,
            ("x", "base"),
            (*hadamard.ROTATION, *hadamard.BLOCKS),
            hadamard.ROTATE_AND_QUANTIZE_BODY,
            ("codes", "scale"),
        ),
        Op(hadamard.QUANTIZE_ROWS, ("x",), hadamard.BLOCKS, hadamard.QUANTIZE_ROWS_BODY, ("codes", "scale")),
        Op("ObserveSink", ("x",), ("key", "axis", "bins", "gram"), None),
    )
}


def function_of(name: str, opset: int = 21) -> ir.Function:
    """The ONNX function that specifies operator `name`, for a model of that opset (18 or newer)."""
    op = OPS[name]
    if op.body is None:
        raise KeyError(f"{name} only observes and has no function")
    inputs, outputs = (", ".join(names) for names in (op.inputs, op.outputs))
    attributes = f" <{', '.join(op.attributes)}>" if op.attributes else ""
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>\n{name}{attributes} ({inputs}) => ({outputs})'
    text = f"{header} {{\n{op.body}\n}}"
    proto = onnx.parser.parse_function(text)
    for index, node in enumerate(proto.node):
        node.name = f"{name}/{index}"
    return ir.from_proto(proto)


def node(
    name: str, inputs: Sequence[ir.Value | None], *, node_name: str | None = None, **attributes: int | float | str
) -> ir.Node:
    """A node of operator `name` with every attribute on it (a kernel cannot see the defaults of a function)."""
    op = OPS[name]
    if set(attributes) != set(op.attributes):
        raise KeyError(f"{name} has the attributes {op.attributes}, not {tuple(attributes)}")
    return ir.node(name, inputs, attributes, domain=DOMAIN, num_outputs=len(op.outputs), name=node_name)


def add_to_model(model: ir.Model, name: str) -> None:
    """Make nodes of operator `name` valid in `model`: its function and the import of the domain."""
    model.opset_imports[DOMAIN] = 1
    function = function_of(name, model.opset_imports[""])
    model.functions.setdefault(function.identifier(), function)
