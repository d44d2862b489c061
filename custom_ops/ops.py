"""OPS: the operators of domain `ai.qonnx` by name, each with its specification as an ONNX function.

A model that uses an operator carries the function (`function_of`), so it runs in any runtime; where the native library
is registered, its kernel replaces the function. Functions are bodies of standard operators from opset 18 on, their
nodes uniquely named (some converters need that), and take everything that varies from attributes and inputs: one body
serves every number of bits.

Products where numbers leave float32: kernels take the scale out of a block's sum, so that a number may overflow in them
and not in the function, or the other way round. For each y[m, n], whatever other rows hold:
1. Where row m of x, or row n of the weight with its scales, zero points and bias, is not finite, y is not finite.
2. Otherwise y is the function's within rounding, as long as 128 · K · x · value · scale stays below 2^127, each the
   largest of its row and at least 1, value with the zero point.
3. Beyond that, y is right within rounding or not finite.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx
import onnx.parser
import onnx_ir as ir

from qonnx.custom_ops import DOMAIN, hadamard, log_attention, log_quantize, lookup_quantize, static_product
from qonnx.custom_ops.bodies import (
    CONV_LOW_BIT,
    DYNAMIC_QUANTIZE_MATMUL_CODEBOOK,
    DYNAMIC_QUANTIZE_MATMUL_LOW_BIT,
    GATHER_CODEBOOK,
    MATMUL_CODEBOOK,
    MATMUL_LOW_BIT,
    with_low_rank,
)

OVERLOADS_SINCE = 10  # IR version


@dataclasses.dataclass(frozen=True)
class Op:
    """An operator: its inputs and attributes in order, and the text of its body.

    Every input is required: a function body cannot tell whether one is there. Neutral values stand for "none" (a bias
    of one 0, a zero point of one 0, the table 0, 1, 2, …). `body` is None for operators that only observe: they never
    stay in a model.

    `defaults` are of attributes that a node may leave out; kernels have the same.

    What would cost work even when neutral is an overload: further inputs behind the others, and the body that reads
    them. A node with these inputs names the overload, as does its function; kernels know it by the inputs.
    """

    name: str
    inputs: tuple[str, ...]
    attributes: tuple[str, ...]
    body: str | None
    outputs: tuple[str, ...] = ("y",)
    defaults: Mapping[str, int] = dataclasses.field(default_factory=dict)
    overloads: Mapping[str, tuple[tuple[str, ...], str]] = dataclasses.field(default_factory=dict)

    def overload_of(self, input_count: int) -> str:
        """The overload that a node of so many inputs is of; "" for the operator itself.

        Raises:
            KeyError: neither the operator nor an overload of it takes so many.
        """
        counts = {len(self.inputs): ""}
        counts |= {len(self.inputs) + len(more): name for name, (more, _) in self.overloads.items()}
        if input_count not in counts:
            raise KeyError(f"{self.name} takes {' or '.join(map(str, counts))} inputs, not {input_count}")
        return counts[input_count]


LOW_RANK = "low_rank"
_LOW_RANK_INPUTS = ("low_rank_a", "low_rank_b")


def _product(name: str, inputs: tuple[str, ...], body: str, defaults: Mapping[str, int] | None = None) -> Op:
    """A product that takes a low-rank branch."""
    overloads = {LOW_RANK: (_LOW_RANK_INPUTS, with_low_rank(body))}
    defaults = defaults or {}
    return Op(name, inputs, (*_CODES, *defaults), body, defaults=defaults, overloads=overloads)


_LOW_BIT_INPUTS = ("x", "codes", "scale", "zero_point", "table", "bias")
_CODEBOOK_INPUTS = ("x", "codes", "codebooks", "scale", "bias")
_ACTIVATION_BITS = {"activation_bits": 8}  # or 16
_CODES = ("K", "N", "block_size", "levels", "codes_per_word", "bytes_per_word")
WINDOW = ("kernel_shape", "strides", "pads", "dilations")  # of a convolution of images, as Conv has them

OPS: dict[str, Op] = {
    op.name: op
    for op in (
        _product("MatMulLowBit", _LOW_BIT_INPUTS, MATMUL_LOW_BIT),
        _product("DynamicQuantizeMatMulLowBit", _LOW_BIT_INPUTS, DYNAMIC_QUANTIZE_MATMUL_LOW_BIT, _ACTIVATION_BITS),
        Op("ConvLowBit", _LOW_BIT_INPUTS, (*_CODES, *WINDOW), CONV_LOW_BIT),
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
        _product("MatMulCodebook", _CODEBOOK_INPUTS, MATMUL_CODEBOOK),
        _product("DynamicQuantizeMatMulCodebook", _CODEBOOK_INPUTS, DYNAMIC_QUANTIZE_MATMUL_CODEBOOK, _ACTIVATION_BITS),
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


def function_of(name: str, opset: int = 21, overload: str = "") -> ir.Function:
    """The ONNX function that specifies operator `name`, for a model of that opset (18 or newer)."""
    op = OPS[name]
    if op.body is None:
        raise KeyError(f"{name} only observes and has no function")
    more, body = op.overloads[overload] if overload else ((), op.body)
    inputs, outputs = (", ".join(names) for names in ((*op.inputs, *more), op.outputs))
    declared = [f"{a}: int = {op.defaults[a]}" if a in op.defaults else a for a in op.attributes]
    attributes = f" <{', '.join(declared)}>" if declared else ""
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>\n{name}{attributes} ({inputs}) => ({outputs})'
    proto = onnx.parser.parse_function(f"{header} {{\n{body}\n}}")
    proto.overload = overload
    for index, node in enumerate(proto.node):
        node.name = f"{name}/{overload}/{index}" if overload else f"{name}/{index}"
    return ir.from_proto(proto)


def node(
    name: str,
    inputs: Sequence[ir.Value | None],
    *,
    node_name: str | None = None,
    **attributes: int | float | str | Sequence[int],
) -> ir.Node:
    """A node of operator `name` with every attribute on it (a kernel cannot see the defaults of a function)."""
    op = OPS[name]
    attributes = {**op.defaults, **attributes}
    if set(attributes) != set(op.attributes):
        raise KeyError(f"{name} has the attributes {op.attributes}, not {tuple(attributes)}")
    overload = op.overload_of(len(inputs))
    outputs = len(op.outputs)
    return ir.node(name, inputs, attributes, domain=DOMAIN, overload=overload, num_outputs=outputs, name=node_name)


def add_to_model(model: ir.Model, name: str, overload: str = "") -> None:
    """Make nodes of operator `name` valid in `model`: its function and the import of the domain.

    An overload needs version 10 of the file format, which ONNX Runtime reads from 1.18 on.
    """
    model.opset_imports[DOMAIN] = 1
    function = function_of(name, model.opset_imports[""], overload)
    model.functions.setdefault(function.identifier(), function)
    if overload:
        model.ir_version = max(model.ir_version, OVERLOADS_SINCE)
