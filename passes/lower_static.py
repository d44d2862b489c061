"""Lower static low-bit products: where Q/DQ and a weight of few bits meet, write the operator that sums integers.

    x → (Clip) → QuantizeLinear → DequantizeLinear → MatMul(·, DequantizeLinear(codes of ≤ `most_bits` bits)) → (Add)

ONNX Runtime has integer kernels for 8-bit weights only; with 4-bit ones it decodes both sides and multiplies floats.
1. One reader of the quantized activation: StaticQuantizeMatMulLowBit takes x itself and quantizes it inside.
2. Several (query, key, value): x is quantized once, QuantizedMatMulLowBit takes its codes.
3. Levels that are not even (QuantizeLinear → Cast → Gather from a table): LookupQuantize finds the codes in one step.
The bias of an Add behind the product moves into the operator. What the graph meant stays as it was, up to the order of
float sums; where the kernel is not installed, the operator is a function of standard operators.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qonnx.custom_ops import DOMAIN, lookup_quantize, ops, static_product
from qonnx.custom_ops.lowbit import LowBitWeight
from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import array, bodies, initializer, is_constant, is_op, only_use, remove_unused, replace, scalar
from qonnx.passes.stored_weights import StoredWeight, bias_of, right_factor
from qonnx.targets import Target


@dataclass
class LowerStatic(Pass):
    """Write static low-bit products, unless the target reads standard operators only. most_bits: of weights taken."""

    target: Target | None = None
    most_bits: int = 4

    tolerance = 1e-4  # of float sums against integer ones

    def changes(self, model: ir.Model) -> Iterator[Change]:
        if self.target is not None and self.target.standard_only:
            return
        for graph in bodies(model):
            yield from _look_up(model, graph)
            for node in list(graph):
                weight = right_factor(node)
                if weight is None or weight.dtype.bitwidth > self.most_bits:
                    continue
                grid = _grid(node.inputs[0])
                bias = bias_of(node, weight.codes.shape[1])
                if grid is None or bias is None or node.inputs[0].dtype != ir.DataType.FLOAT:
                    continue
                yield _multiply(model, node, weight, bias, grid)


def _grid(value: ir.Value) -> static_product.StaticGrid | None:
    """The grid of a value that comes from per-tensor Q/DQ of uint8 codes; None for any other."""
    dequantize = value.producer()
    if not is_op(dequantize, "DequantizeLinear") or dequantize.inputs[0].producer() is None:
        return None
    quantize = dequantize.inputs[0].producer()
    if quantize.op_identifier()[:2] == (DOMAIN, lookup_quantize.OPERATOR):
        scale, zero_point = scalar(quantize.inputs[1]), array(quantize.inputs[2])
        same = all(a is b for a, b in zip(quantize.inputs[1:3], dequantize.inputs[1:], strict=True))
        return static_product.StaticGrid(scale, int(zero_point), 0, 255) if same and scale is not None else None
    if not is_op(quantize, "QuantizeLinear"):
        return None
    scale, given = scalar(quantize.inputs[1]), quantize.inputs[2] if len(quantize.inputs) > 2 else None
    same = all(a is b for a, b in zip(quantize.inputs[1:], dequantize.inputs[1:], strict=True))
    if scale is None or not same or dequantize.inputs[0].dtype != ir.DataType.UINT8:
        return None
    zero_point = 0 if given is None else int(array(given))
    low, high = 0, 255
    clip = quantize.inputs[0].producer()
    if is_op(clip, "Clip") and all(is_constant(bound) for bound in clip.inputs[1:]) and len(clip.inputs) == 3:
        low, high = (round(scalar(bound) / scale) + zero_point for bound in clip.inputs[1:])
    low, high = max(low, 0), min(high, 255)
    return static_product.StaticGrid(scale, zero_point, low, high) if low < high else None


def _multiply(
    model: ir.Model, node: ir.Node, weight: StoredWeight, bias: np.ndarray, grid: static_product.StaticGrid
) -> Change:
    dequantize, stored = node.inputs[0].producer(), node.inputs[1].producer()
    quantize = dequantize.inputs[0].producer()
    looked_up = not is_op(quantize, "QuantizeLinear")  # by an operator whose codes are read as they are
    alone = only_use(node.inputs[0]) and only_use(dequantize.inputs[0]) and not looked_up
    last, bias = _with_bias(node, bias)
    operator = static_product.STATIC if alone else static_product.QUANTIZED
    x = dequantize.inputs[0]
    if alone:
        clip = quantize.inputs[0].producer()
        x = clip.inputs[0] if is_op(clip, "Clip") and (grid.minimum, grid.maximum) != (0, 255) else quantize.inputs[0]
    packed = _packed(weight)
    name = node.name or node.outputs[0].name
    arrays = static_product.inputs_of(packed, grid, bias if bias.size else None)
    operands = [x, *(initializer(node.graph, f"{name}/{key}", data) for key, data in arrays.items())]
    attributes = static_product.attributes_of(packed, grid if alone else None)
    new = ops.node(operator, operands, node_name=name, **attributes)
    node.graph.insert_before(last, new)
    new.meta.update(node.meta)
    new.metadata_props.update(node.metadata_props)
    replace(last.outputs[0], new.outputs[0])
    remove_unused([last, node, dequantize, stored])
    ops.add_to_model(model, operator)
    levels = len(np.unique(array(quantize.inputs[3]))) if looked_up else grid.maximum - grid.minimum + 1
    return Change(name, f"{operator}, {weight.dtype.bitwidth}-bit weight, {levels} levels")


def _look_up(model: ir.Model, graph: ir.Graph) -> Iterator[Change]:
    """QuantizeLinear → Cast → Gather from a table of 256 bytes, as one operator."""
    for node in list(graph):
        if not is_op(node, "Gather") or not is_constant(node.inputs[0]):
            continue
        cast, table = node.inputs[1].producer(), array(node.inputs[0])
        quantize = cast.inputs[0].producer() if is_op(cast, "Cast") else None
        if not is_op(quantize, "QuantizeLinear") or table.shape != (256,) or table.dtype != np.uint8:
            continue
        given = quantize.inputs[2] if len(quantize.inputs) > 2 else None
        if scalar(quantize.inputs[1]) is None or given is None or given.dtype != ir.DataType.UINT8:
            continue
        if quantize.inputs[0].dtype != ir.DataType.FLOAT:
            continue
        operands = [quantize.inputs[0], quantize.inputs[1], given, node.inputs[0]]
        new = ops.node(lookup_quantize.OPERATOR, operands, node_name=node.name)
        new.outputs[0].shape, new.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
        graph.insert_before(node, new)
        replace(node.outputs[0], new.outputs[0])
        remove_unused([node, cast, quantize])
        ops.add_to_model(model, lookup_quantize.OPERATOR)
        yield Change(node.name or new.outputs[0].name, f"{len(np.unique(table))} levels, found in one step")


def _with_bias(node: ir.Node, bias: np.ndarray) -> tuple[ir.Node, np.ndarray]:
    """The last node of product and bias, and the bias: its own, or that of the only Add behind it."""
    output = node.outputs[0]
    if bias.size or not only_use(output):
        return node, bias.astype(np.float32)
    use = next(iter(output.uses()))
    other = use.node.inputs[1 - use.idx] if is_op(use.node, "Add") and use.node.graph is node.graph else None
    data = array(other)
    if data is None or data.ndim < 1 or data.size != data.shape[-1] or data.ndim > len(output.shape or ()):
        return node, bias
    width = array(node.inputs[1].producer().inputs[0]).shape[-1]
    return (use.node, data.reshape(-1).astype(np.float32)) if data.size == width else (node, bias)


def _packed(weight: StoredWeight) -> LowBitWeight:
    """The weight as the operators store it."""
    bits = weight.dtype.bitwidth
    shift = 2 ** (bits - 1) if weight.dtype.is_signed() else 0
    zero_point = weight.zero_point.T + shift
    if (zero_point == zero_point.flat[0]).all():
        zero_point = zero_point.flat[0]
    return LowBitWeight(
        codes=(weight.codes + shift).T,
        scale=np.ascontiguousarray(weight.scale.T).astype(np.float32),
        zero_point=np.asarray(zero_point, np.uint8),
        block=weight.block or len(weight.codes),
        levels=2**bits,
    )
