"""Lower: where a float product reads a dequantized weight, write the operators that the target runs best.

1. The target's `weight_only` says "matmulnbits": MatMul and Gemm become com.microsoft MatMulNBits. The attribute
   accuracy_level is always written: without it ONNX Runtime may quantize the activations to 8 bits, as it does when it
   fuses DequantizeLinear + MatMul by itself (relative error 5e-3 on an exact graph).
2. The target says "lowbit" for the bits that the codes of a weight really use (3 bits are stored as uint4 until here):
   MatMul and Gemm become our MatMulLowBit, Conv our ConvLowBit, whose codes are packed to the bit.
3. Otherwise a Gemm with transB is turned round: ONNX Runtime fuses DequantizeLinear + Gemm only without it, and decodes
   the weight at every run with it.
4. The target's `tables` says "rows": Gather of rows from a dequantized 8-bit table gathers codes and scales, then
   decodes; as it stands, the whole table is decoded at every run.

Layout of MatMulNBits: B uint8 [N, blocks, block · bits / 8], low bits first, codes shifted to unsigned; scales
[N, blocks]; zero points packed likewise, [N, ceil(blocks · bits / 8)], left out where they are 2^(bits − 1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

import numpy as np
import onnx_ir as ir

from qonnx.custom_ops.lowbit import EXACT as MATMUL_LOW_BIT
from qonnx.custom_ops.lowbit import LowBitWeight
from qonnx.custom_ops.ops import add_to_model
from qonnx.custom_ops.products import product
from qonnx.passes.base import Change, Pass
from qonnx.passes.lower_convolutions import CONV_LOW_BIT, convolution, convolution_weight
from qonnx.passes.rewire import (
    array,
    bodies,
    fresh_name,
    initializer,
    integer,
    is_constant,
    is_op,
    new_node,
    remove_unused,
    replace,
    set_input,
)
from qonnx.passes.stored_weights import StoredWeight, bias_of, stored_weight
from qonnx.targets import Target

CONTRIB = "com.microsoft"
_NBITS = (2, 4, 8)
_BLOCKS = (16, 256)  # smallest and largest block of MatMulNBits that every bit width takes


@dataclasses.dataclass
class Lower(Pass):
    """Write the target's operators. accuracy_level: of MatMulNBits, 1 computes in float32, 4 with 8-bit activations."""

    target: Target
    accuracy_level: Literal[1, 2, 3, 4] = 1

    tolerance = 1e-5

    def changes(self, model: ir.Model) -> Iterator[Change]:
        packed: dict[tuple, list[ir.Value | None]] = {}  # arrays of a weight that several nodes read, by that weight
        for graph in bodies(model):
            for node in list(graph):
                weight = stored_weight(node)
                bias = None if weight is None else bias_of(node, weight.codes.shape[1])
                if bias is not None and self._packs(weight):
                    model.graph.opset_imports.setdefault(CONTRIB, 1)
                    key = (id(node.inputs[1]), integer(node, "transB", 0))
                    if key not in packed:
                        packed[key] = pack(node.inputs[1], weight)
                    yield self._multiply(node, weight, packed[key], bias)
                elif bias is not None and (levels := self._levels(weight)):
                    yield self._low_bit(model, node, weight, levels, bias)
                elif (kernel := convolution_weight(node)) and self._wants(kernel.levels):
                    _stand_in(node, convolution(model, node, kernel))
                    what = f"{CONV_LOW_BIT}, {kernel.layout.bits:g} bits, block {kernel.block}"
                    yield Change(node.name or node.inputs[1].name, what)
                elif weight is not None and node.op_type == "Gemm" and integer(node, "transB", 0):
                    yield turn(node)
                elif self.target.tables == "rows" and _gathers_rows(node):
                    yield gather_codes(node)

    def _multiply(self, node: ir.Node, weight: StoredWeight, arrays: list[ir.Value], bias: np.ndarray) -> Change:
        """Case 1."""
        (inputs, outputs), bits, block = weight.codes.shape, weight.dtype.bitwidth, _block(weight)
        operands = [node.inputs[0], *arrays]
        if bias.size:
            named = initializer(node.graph, f"{node.outputs[0].name}_bias", bias)
            operands += [None] * (5 - len(operands)) + [named]
        attributes = {"K": inputs, "N": outputs, "bits": bits, "block_size": block}
        attributes["accuracy_level"] = self.accuracy_level
        _stand_in(node, ir.node("MatMulNBits", operands, attributes, domain=CONTRIB, name=node.name))
        what = f"MatMulNBits, {bits} bits, block {block}, accuracy level {self.accuracy_level}"
        return Change(node.name or arrays[0].name, what)

    def _levels(self, weight: StoredWeight) -> int:
        """Case 2: how many codes there are if the target wants them packed, else 0."""
        if weight.dtype.bitwidth == 8 and not weight.block:  # a whole byte, whatever its codes happen to be
            return 0
        levels = 2 ** max(int((weight.codes - _lowest(weight)).max()).bit_length(), 1)
        return levels if self._wants(levels) else 0

    def _wants(self, levels: int) -> bool:
        return self.target.weight_only.get(str(levels.bit_length() - 1)) == "lowbit"

    def _low_bit(self, model: ir.Model, node: ir.Node, weight: StoredWeight, levels: int, bias: np.ndarray) -> Change:
        lowest = _lowest(weight)
        zero_point = weight.zero_point.T - lowest
        packed = LowBitWeight(
            codes=weight.codes.T - lowest,
            scale=np.ascontiguousarray(weight.scale.T),
            zero_point=zero_point.astype(np.uint8 if zero_point.min() >= 0 else np.float32),
            block=weight.block or len(weight.codes),
            levels=levels,
        )
        name = node.inputs[1].name.removesuffix("_dequantized")
        new, values = product(node.inputs[0], packed, bias=bias if bias.size else None, name=name)
        for value in values:
            value.name = fresh_name(node.graph, value.name)
            node.graph.register_initializer(value)
        add_to_model(model, MATMUL_LOW_BIT)
        new.name = node.name
        _stand_in(node, new)
        return Change(node.name or name, f"{MATMUL_LOW_BIT}, {packed.layout.bits:g} bits, block {packed.block}")

    def _packs(self, weight: StoredWeight) -> bool:
        bits, block = weight.dtype.bitwidth, weight.block
        asked = bits in _NBITS and self.target.weight_only.get(str(bits)) == "matmulnbits"
        return asked and (not block or (_BLOCKS[0] <= block <= _BLOCKS[1] and not block & (block - 1)))


def pack(value: ir.Value, weight: StoredWeight) -> list[ir.Value]:
    """The weight `value` as MatMulNBits stores it, in the graph that owns its codes: B, scales, zero points."""
    (inputs, outputs), bits, block = weight.codes.shape, weight.dtype.bitwidth, _block(weight)
    blocks, shift = -(-inputs // block), 2 ** (bits - 1) if weight.dtype.is_signed() else 0
    codes = np.zeros((outputs, blocks * block), np.uint8)
    codes[:, :inputs] = (weight.codes + shift).T
    zero_point = np.broadcast_to(weight.zero_point.T + shift, (outputs, blocks))
    source = value.producer().inputs[0]
    graph = source.graph if source.is_initializer() else value.producer().graph
    name = source.name.removesuffix("_codes")
    arrays = [
        initializer(graph, f"{name}_packed", pack_bits(codes, bits).reshape(outputs, blocks, -1)),
        initializer(graph, f"{name}_scales", np.broadcast_to(weight.scale.T, (outputs, blocks))),
    ]
    if (zero_point != 2 ** (bits - 1)).any():
        arrays.append(initializer(graph, f"{name}_zero_points", pack_bits(zero_point.astype(np.uint8), bits)))
    return arrays


def _lowest(weight: StoredWeight) -> int:
    """The code that becomes 0 where codes are packed."""
    return int(weight.codes.min()) if weight.dtype.is_signed() else 0


def _block(weight: StoredWeight) -> int:
    """Inputs that share a scale; one scale a column is repeated for blocks that every kernel takes."""
    return weight.block or min(128, max(_BLOCKS[0], 1 << (len(weight.codes) - 1).bit_length()))


def pack_bits(codes: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned codes [rows, count] as uint8 [rows, ceil(count · bits / 8)], low bits first."""
    each = 8 // bits
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % each))).reshape(len(codes), -1, each)
    shifts = (bits * np.arange(each)).astype(np.uint8)
    return np.bitwise_or.reduce(padded << shifts, axis=-1).astype(np.uint8)


def turn(node: ir.Node) -> Change:
    """Case 3: the codes transposed, so that the product reads them as they lie."""
    graph, dequantize = node.graph, node.inputs[1].producer()
    inputs = []
    for value in dequantize.inputs:
        data = array(value)
        name = f"{value.name}_transposed"
        inputs.append(initializer(graph, name, data.T) if data.ndim == 2 else value)
    attributes = dict(dequantize.attributes.items())
    axis = integer(dequantize, "axis", 1) % 2
    attributes["axis"] = ir.AttrInt64("axis", 1 - axis)
    twin = new_node("DequantizeLinear", inputs, attributes, like=dequantize, suffix="transposed")
    old, output = node.inputs[1], twin.outputs[0]
    output.name, output.type = f"{old.name}_transposed", old.type
    output.shape = ir.Shape(array(dequantize.inputs[0]).shape[::-1])
    graph.insert_before(node, twin)
    node.attributes["transB"] = ir.AttrInt64("transB", 0)
    set_input(node, 1, output)
    return Change(node.name or node.outputs[0].name, "weight turned round")


def _gathers_rows(node: ir.Node) -> bool:
    if not is_op(node, "Gather") or integer(node, "axis", 0) != 0:
        return False
    dequantize = node.inputs[0].producer()
    if not is_op(dequantize, "DequantizeLinear") or not all(is_constant(x) for x in dequantize.inputs):
        return False
    codes, scale = dequantize.inputs[:2]
    per_row = len(scale.shape) == 1 and integer(dequantize, "axis", 1) == 0
    fits = len(codes.shape) == 2 and (per_row or len(scale.shape) == 0)
    return fits and codes.dtype in (ir.DataType.INT8, ir.DataType.UINT8)


def gather_codes(node: ir.Node) -> Change:
    """Case 4: (codes[i] − zero_point[i]) · scale[i]."""
    graph, result, index = node.graph, node.outputs[0], node.inputs[1]
    table = node.inputs[0].producer()
    codes, scale = table.inputs[:2]
    kind, made = scale.dtype, []

    def add(operator: str, inputs: list[ir.Value], suffix: str, attributes: dict | None = None) -> ir.Value:
        made.append(new_node(operator, inputs, attributes, like=node, suffix=suffix))
        made[-1].outputs[0].name = f"{result.name}_{suffix}"
        return made[-1].outputs[0]

    def by_row(value: ir.Value, suffix: str) -> ir.Value:
        data = array(value).astype(kind.numpy())
        constant = initializer(graph, f"{value.name}_rows", data.reshape(-1, 1) if data.ndim else data)
        return add("Gather", [constant, index], suffix) if data.ndim else constant

    value = add("Cast", [add("Gather", [codes, index], "codes")], "cast", {"to": int(kind)})
    zero_point = table.inputs[2] if len(table.inputs) > 2 else None
    if zero_point is not None and array(zero_point).any():
        value = add("Sub", [value, by_row(zero_point, "zero_points")], "shifted")
    scales = by_row(scale, "scales")
    for one in made:
        graph.insert_before(node, one)
    _stand_in(node, new_node("Mul", [value, scales], like=node))
    return Change(node.name or result.name or "Gather", "rows gathered as codes")


def _stand_in(node: ir.Node, new: ir.Node) -> None:
    """Put `new` in the place of `node`, with its notes; what only `node` read goes."""
    sources = [value.producer() for value in node.inputs if value is not None]
    node.graph.insert_before(node, new)
    new.meta.update(node.meta)
    new.metadata_props.update(node.metadata_props)
    replace(node.outputs[0], new.outputs[0])
    remove_unused([node, *sources])
