"""Lower to dynamic quantization: products of a float activation and an 8-bit weight run on integers.

    x → DynamicQuantizeLinear → MatMulInteger(·, codes) → Cast → Mul(scale of x · scales of the weight) → (Add bias)

The activation's range is that of the moment, one for the tensor; the weight keeps its scales, one a column. Standard
operators; ONNX Runtime fuses them to DynamicQuantizeMatMul or MatMulIntegerToFloat. An activation that several products
read (query, key, value) is quantized once. Convolutions stay weight-only: ConvInteger has no fast kernel (a peer's
dynamic PP-OCR model takes 2.9 times as long as float). 16-bit float models stay weight-only too, since
DynamicQuantizeLinear takes float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qonnx.errors import QonnxError
from qonnx.notes import done, note
from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import bodies, initializer, integer, is_op, new_node, remove_unused, replace
from qonnx.passes.stored_weights import StoredWeight, bias_of, stored_weight
from qonnx.targets import Target


@dataclasses.dataclass
class LowerDynamic(Pass):
    """Rewrite every float32 MatMul and Gemm that reads a dequantized 8-bit weight of one scale a column or a tensor."""

    target: Target | None = None

    tolerance = None

    def __post_init__(self):
        if self.target is not None and "integer-operator" in self.target.forbid:
            raise QonnxError(
                f"target '{self.target.name}' has no operators that quantize at run time; choose a static recipe"
            )

    def changes(self, model: ir.Model) -> Iterator[Change]:
        weights: dict[tuple, tuple[ir.Value, ...]] = {}
        for graph in bodies(model):
            activations: dict[int, tuple[ir.Value, ...]] = {}
            for node in list(graph):
                weight = stored_weight(node)
                if weight is None or weight.block or weight.dtype not in (ir.DataType.INT8, ir.DataType.UINT8):
                    continue
                if weight.scale.dtype != np.float32 or (bias := bias_of(node, weight.codes.shape[1])) is None:
                    continue
                x, stored = node.inputs[0], node.inputs[1]
                if id(x) not in activations:
                    activations[id(x)] = _quantized(node, x)
                key = (id(stored), integer(node, "transB", 0))
                if key not in weights:
                    weights[key] = _arrays(stored, weight)
                yield _multiply(node, activations[id(x)], weights[key], bias)


def _quantized(node: ir.Node, x: ir.Value) -> tuple[ir.Value, ...]:
    """Codes, scale and zero point of an activation, made before its first reader."""
    quantize = ir.node("DynamicQuantizeLinear", [x], num_outputs=3, name=f"{x.name}_DynamicQuantizeLinear")
    types = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8)
    for output, suffix, kind in zip(quantize.outputs, ("codes", "scale", "zero_point"), types, strict=True):
        output.name, output.type = f"{x.name}_dynamic_{suffix}", ir.TensorType(kind)
        output.shape = x.shape if suffix == "codes" else ir.Shape(())
    node.graph.insert_before(node, quantize)
    return tuple(quantize.outputs)


def _arrays(value: ir.Value, weight: StoredWeight) -> tuple[ir.Value, ...]:
    """Codes [K, N], scales [N] and, unless they are zero, zero points [N], in the graph that owns the codes."""
    source = value.producer().inputs[0]
    graph = source.graph if source.is_initializer() else value.producer().graph
    name, kind = source.name.removesuffix("_codes"), weight.dtype.numpy()
    if tuple(source.shape.numpy()) == weight.codes.shape and weight.codes.flags.c_contiguous:
        codes = source
    else:
        codes = initializer(graph, f"{name}_codes_transposed", weight.codes.astype(kind))
    arrays = [codes, initializer(graph, f"{name}_scales", weight.scale[0])]
    if weight.zero_point.any():
        arrays.append(initializer(graph, f"{name}_zero_points", weight.zero_point[0].astype(kind)))
    return tuple(arrays)


def _multiply(node: ir.Node, x: tuple[ir.Value, ...], weight: tuple[ir.Value, ...], bias: np.ndarray) -> Change:
    """Put the integer product in the place of `node`."""
    graph, result = node.graph, node.outputs[0]

    def add(operator: str, inputs: list, suffix: str, attributes: dict | None = None) -> ir.Value:
        one = new_node(operator, inputs, attributes, like=node, suffix=suffix)
        one.outputs[0].name = f"{result.name}_{suffix}"
        graph.insert_before(node, one)
        return one.outputs[0]

    codes, scale, zero_point = x
    total = add("MatMulInteger", [codes, weight[0], zero_point, *weight[2:]], "sums")
    total = add("Cast", [total], "cast", {"to": int(ir.DataType.FLOAT)})
    scales = add("Mul", [scale, weight[1]], "scales")
    if bias.size:
        total = add("Mul", [total, scales], "product")
        last = new_node("Add", [total, initializer(graph, f"{result.name}_bias", bias)], like=node)
    else:
        last = new_node("Mul", [total, scales], like=node)
    graph.insert_before(node, last)
    last.meta.update(node.meta)
    plan = note(last).plan
    done(last, f"u8 dynamic × {plan.weight.name if plan is not None else 's8'}")
    sources = [v.producer() for v in node.inputs if v is not None and is_op(v.producer(), "DequantizeLinear")]
    replace(result, last.outputs[0])
    remove_unused([node, *sources])
    return Change(node.name or last.outputs[0].name, "runs on integers, range of the moment")
