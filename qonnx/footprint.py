"""Sizes of a model: bytes on disk, bits for each weight, constants in the runtime's memory, bytes by layer.

A weight element is one number that the network multiplies or adds, however it is stored: four bits in an int4 tensor,
half a byte of a MatMulNBits operand, four bytes of a float. Scales and zero points count as bits, not as elements.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from qonnx.comparison import Footprint
from qonnx.custom_ops import DOMAIN
from qonnx.custom_ops.ops import OPS
from qonnx.model import files, load
from qonnx.operators import WEIGHT_ONLY_OPERATORS

_ON_CONSTANTS = ("DequantizeLinear", "Transpose", "Reshape", "Cast", "Gather")  # what makes a weight of constants
# Inputs of an integer operator that hold scales and zero points, by operator type.
_PARAMETERS = {
    "DequantizeLinear": (1, 2),
    "QuantizeLinear": (1, 2),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "DynamicQuantizeMatMul": (2, 3),
    "MatMulNBits": (2, 3),
    "GatherBlockQuantized": (2, 3),
    "MatMulBnb4": (2,),
}


def disk_bytes(path: str | os.PathLike) -> int:
    """Bytes of the file and of every external data file that it names."""
    return sum(file.stat().st_size for file in files(load(path)))


def footprint(model: ir.Model, disk: int, memory: int | None) -> Footprint:
    """The sizes of `model`; `disk` from `disk_bytes` (or an estimate), `memory` from the runtime's optimised graph."""
    weights = bits = 0
    for value in _constants(model):
        tensor = value.const_value
        overhead, elements = _role(value)
        if overhead or elements:
            bits += tensor.dtype.bitwidth * tensor.size
            weights += elements
    return Footprint(disk, memory, weights, bits)


def stored_bytes(model: ir.Model) -> int:
    """Bytes of all constants: the size of a model that has not been written."""
    return sum(value.const_value.nbytes for value in _constants(model))


def layer_bytes(node: ir.Node) -> int:
    """Bytes of the constants that `node` reads, directly or through DequantizeLinear and operators on constants."""
    return sum(value.const_value.nbytes for value in _constant_sources(node.inputs, set()))


def _constant_sources(values: Sequence[ir.Value | None], seen: set[ir.Value]) -> Iterator[ir.Value]:
    for value in values:
        if value is None or value in seen:
            continue
        seen.add(value)
        if value.const_value is not None:
            yield value
        elif (node := value.producer()) is not None and node.op_type in _ON_CONSTANTS:
            sources = list(_constant_sources(node.inputs[:1], seen))
            if node.op_type == "Gather" and not _is_made_of_constants(node.inputs[1]):
                continue  # rows that the model's input chooses are an activation
            yield from sources
            if sources:  # the scale of a weight belongs to the weight; that of an activation to nobody
                yield from _constant_sources(node.inputs[1:], seen)


def _is_made_of_constants(value: ir.Value) -> bool:
    """Whether a value is a constant or what operators make of constants alone."""
    node = value.producer()
    if value.const_value is not None or node is None:
        return value.const_value is not None
    return node.op_type in _ON_CONSTANTS and all(_is_made_of_constants(x) for x in node.inputs if x is not None)


def _constants(model: ir.Model) -> Iterator[ir.Value]:
    """Values that hold a tensor: initializers and outputs of Constant nodes, in every graph and function."""
    for graph in (model.graph, *model.graph.subgraphs(), *model.functions.values()):
        if isinstance(graph, ir.Graph):
            yield from (value for value in graph.initializers.values() if value.const_value is not None)
        for node in graph:
            if node.op_type == "Constant" and (tensor := ir.convenience.get_const_tensor(node.outputs[0])) is not None:
                node.outputs[0].const_value = tensor
                yield node.outputs[0]


def _readings(value: ir.Value) -> Iterator[ir.Usage]:
    """Who reads a constant, through what widens narrow scales and zero points (passes/narrow_constants.py)."""
    for use in value.uses():
        after = use.node.outputs[0] if use.node.op_type in ("Cast", "Gather") else None
        behind = () if after is None else tuple(_readings(after))
        parameter = [u for u in behind if u.node.domain == DOMAIN and _port(u).endswith(("scale", "zero_point"))]
        yield from parameter or (use,)


def _port(use: ir.Usage) -> str:
    """The name of an operand of an operator of ours; empty for one of an overload."""
    inputs = OPS[use.node.op_type].inputs if use.node.op_type in OPS else ()
    return inputs[use.idx] if use.idx < len(inputs) else ""


def _role(value: ir.Value) -> tuple[bool, int]:
    """(is a scale or zero point, number of weight elements) of a constant; (False, 0) for shapes and indices."""
    tensor, uses = value.const_value, list(_readings(value))
    if any(use.idx in _PARAMETERS.get(use.node.op_type, ()) for use in uses):
        return True, 0
    for use in uses:
        if use.node.domain == DOMAIN and use.node.op_type in OPS:
            return _role_of_ours(use.node, OPS[use.node.op_type].inputs[use.idx], tensor)
        if use.node.op_type in WEIGHT_ONLY_OPERATORS and tensor.dtype == ir.DataType.UINT8:
            bits = use.node.attributes.get_int("bits", 4)
            return False, tensor.size * 8 // bits
        if use.node.op_type in _PARAMETERS:
            return False, tensor.size
    return False, tensor.size if tensor.dtype.is_floating_point() else 0


def _role_of_ours(node: ir.Node, port: str, tensor: ir.TensorProtocol) -> tuple[bool, int]:
    """As `_role`, of the constant at an operand of an operator of ours: packed codes of a weight [N, K], tables and
    books, scales and zero points; a bias or a base is what it is elsewhere."""
    if port.endswith("codes"):
        return False, node.attributes.get_int("K", 0) * node.attributes.get_int("N", 0)
    if port.endswith(("scale", "zero_point", "table", "codebooks")):
        return True, 0
    return False, tensor.size if tensor.dtype.is_floating_point() else 0
