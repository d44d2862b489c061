"""A model as the linter reads it: its Q/DQ nodes with their parameters, and what stands before and behind them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qonnx.model import constant

# Operators that multiply by a weight -> axis of the weight that is the output channel (None: see `channel_axis`).
WEIGHTED: dict[str, int | None] = {"Conv": 0, "ConvTranspose": 1, "MatMul": None, "Gemm": None}
# Operators that only move or choose values.
MOVES = (
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Slice",
    "Split",
    "Identity",
    "Expand",
    "Concat",
    "MaxPool",
)
_LETTERS = {
    ir.DataType.FLOAT8E4M3FN: "f8e4m3",
    ir.DataType.FLOAT8E5M2: "f8e5m2",
    ir.DataType.FLOAT4E2M1: "f4e2m1",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """A QuantizeLinear or DequantizeLinear. scale and zero_point are None where they are not constant; an absent zero
    point is 0. type: of the codes ("u8", "s4", "f8e4m3"). block: 0 without block_size."""

    node: ir.Node
    quantizes: bool
    scale: np.ndarray | None
    zero_point: np.ndarray | None
    type: str
    axis: int
    block: int

    @property
    def name(self) -> str:
        return name_of(self.node)

    @property
    def input(self) -> ir.Value:
        return self.node.inputs[0]

    @property
    def output(self) -> ir.Value:
        return self.node.outputs[0]

    @property
    def per_channel(self) -> bool:
        return self.scale is not None and self.scale.size > 1 and not self.block

    def equals(self, other: Linear) -> bool:
        """Whether both have the same grid (type, scale, zero point, axis)."""
        if self.scale is None or other.scale is None or self.type != other.type or self.block != other.block:
            return self.node.inputs[1] is other.node.inputs[1] and self.type == other.type
        return (
            np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
            and (not self.per_channel or self.axis == other.axis)
        )


class View:
    """Every node of a model, with its Q/DQ nodes understood once.

    nodes: all nodes, bodies of control flow and local functions included (but not the function bodies of our own
    operators, which are specifications). linears: the Q/DQ among them.
    """

    def __init__(self, model: ir.Model):
        self.model = model
        self.nodes = list(_nodes(model))
        self.linears = {node: _linear(node) for node in self.nodes if _is_linear(node)}

    def opset(self, node: ir.Node) -> int:
        """Version of the default domain that holds where the node stands."""
        owner = node.graph
        imports = owner.opset_imports if isinstance(owner, ir.Function) else self.model.graph.opset_imports
        return imports.get("", imports.get("ai.onnx", 0))

    def dequantizer(self, value: ir.Value | None) -> Linear | None:
        """The DequantizeLinear that makes `value`."""
        found = self.linears.get(value.producer()) if value is not None else None
        return found if found is not None and not found.quantizes else None

    def quantizers(self, value: ir.Value) -> list[Linear]:
        """The QuantizeLinear nodes that read `value`."""
        readers = (self.linears.get(use.node) for use in value.uses())
        return [reader for reader in readers if reader is not None and reader.quantizes]

    def dequantizers_behind(self, value: ir.Value) -> list[Linear]:
        """The DequantizeLinear nodes that read the codes `value`."""
        readers = (self.linears.get(use.node) for use in value.uses())
        return [reader for reader in readers if reader is not None and not reader.quantizes]

    def weight(self, value: ir.Value | None) -> Linear | None:
        """The DequantizeLinear over constant codes (or over a quantized constant) that makes `value`."""
        found = self.dequantizer(value)
        if found is None or is_constant(found.input):
            return found
        before = self.linears.get(found.input.producer())
        return found if before is not None and before.quantizes and is_constant(before.input) else None

    def activation(self, value: ir.Value | None) -> Linear | None:
        """The DequantizeLinear over computed codes that makes `value`."""
        found = self.dequantizer(value)
        return None if found is None or self.weight(value) is not None else found

    def weighted(self) -> Iterator[ir.Node]:
        """The convolutions and matrix products."""
        return (node for node in self.nodes if node.op_type in WEIGHTED and node.domain in ("", "ai.onnx"))


def name_of(node: ir.Node) -> str:
    """The node's name, or that of its first output where it has none."""
    return node.name or (node.outputs[0].name if node.outputs else None) or node.op_type


def is_constant(value: ir.Value | None) -> bool:
    return value is not None and ir.convenience.get_const_tensor(value) is not None


def through_activation(node: ir.Node) -> ir.Value:
    """The node's output, or that of the Relu or Clip that alone reads it (and fuses with it)."""
    value = node.outputs[0]
    users = value.uses()
    if len(users) == 1 and users[0].node.op_type in ("Relu", "Clip") and not value.is_graph_output():
        return users[0].node.outputs[0]
    return value


def channel_axis(node: ir.Node, rank: int) -> int:
    """The axis of the weight (input 1) that is the output channel."""
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    axis = WEIGHTED[node.op_type]
    return rank - 1 if axis is None else axis


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        if function.domain != "ai.qonnx":
            yield from function.all_nodes()


def _is_linear(node: ir.Node) -> bool:
    return node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.domain in ("", "ai.onnx", "com.microsoft")


def _linear(node: ir.Node) -> Linear:
    quantizes = node.op_type == "QuantizeLinear"
    scale = constant(node.inputs[1])
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero_point = constant(given)
    if given is None and scale is not None:
        zero_point = np.zeros(scale.shape, np.int32)
    kind = given.dtype if given is not None else None
    if kind is None and given is not None and (tensor := ir.convenience.get_const_tensor(given)) is not None:
        kind = tensor.dtype
    codes = node.outputs[0] if quantizes else node.inputs[0]
    if kind is None and quantizes and node.attributes.get_int("output_dtype", 0):
        kind = ir.DataType(node.attributes.get_int("output_dtype"))
    if kind is None:
        tensor = ir.convenience.get_const_tensor(codes)
        kind = tensor.dtype if tensor is not None else codes.dtype or ir.DataType.UINT8
    return Linear(
        node,
        quantizes,
        scale,
        None if zero_point is None else zero_point.astype(np.int64) if kind.is_integer() else zero_point,
        letters(kind),
        node.attributes.get_int("axis", 1),
        node.attributes.get_int("block_size", 0),
    )


def letters(kind: ir.DataType) -> str:
    """ "u8", "s4", "f8e4m3", …"""
    if kind in _LETTERS:
        return _LETTERS[kind]
    if kind.is_integer():
        return f"{'s' if kind.is_signed() else 'u'}{kind.bitwidth}"
    return kind.name.lower()
