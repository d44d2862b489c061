"""Place low bits: write products whose weights are solved in a table of levels, or in integers with narrow scales.

1. Up to 16 levels: MatMulLowBit of `ai.qonnx`, codes packed to the bit beside their table. No type of ONNX means NF4,
   ternary, power-of-two or mid-rise numbers, and ONNX Runtime's CPU provider has no kernel for the float types below 8
   bits. The operator's function body runs where our library is not loaded.
2. More levels, which no kernel looks up: DequantizeLinear over FLOAT8E4M3FN, or FLOAT8E5M2 where the levels are not
   among those of E4M3. 6-bit floats are among them and take 8 bits of the file; ONNX Runtime decodes them at load.
3. Integers with narrow scales in a float32 model: MatMulLowBit, which takes such scales; DequantizeLinear would return
   float16.

A weight that several nodes read is stored once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import onnx_ir as ir

from qonnx.custom_ops.lowbit import EXACT, INT8, LowBitWeight
from qonnx.custom_ops.ops import add_to_model
from qonnx.custom_ops.ops import node as operator_node
from qonnx.formats import QuantizedTensor, TableFormat
from qonnx.notes import done, note
from qonnx.passes.base import Change, Pass
from qonnx.passes.linear import add_to_bias
from qonnx.passes.rewire import array, bodies, initializer, remove_unused, replace, set_input
from qonnx.passes.solve_weights import layout_of
from qonnx.passes.stored_weights import bias_of
from qonnx.solvers import Layout

_LOOKED_UP = 16  # levels of a table that kernels take
_FLOAT8 = (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)


@dataclasses.dataclass
class PlaceLowBit(Pass):
    """Write the operators; each node ends `done` in the ledger. int8: round activations to 8 bits by row inside the
    product, which then sums integers (and rounds the table to 8 bits)."""

    int8: bool = False

    needs = ("assign_weights", "solve_weights | solve_in_turn")
    tolerance = None

    def changes(self, model: ir.Model) -> Iterator[Change]:
        stored: dict[tuple[int, int], list[ir.Value]] = {}
        for graph in bodies(model):
            for node in list(graph):
                solved = note(node).solved
                if solved is None or note(node).fate is not None:
                    continue
                if not isinstance(solved, QuantizedTensor):
                    continue
                if not isinstance(solved.format, TableFormat) and solved.format.scale_fraction is None:
                    continue
                if note(node).mean_error is not None:
                    add_to_bias(node, -note(node).mean_error, array(node.inputs[1]).dtype)
                yield self._place(model, node, solved, stored)

    def _place(self, model: ir.Model, node: ir.Node, solved: QuantizedTensor, stored: dict) -> Change:
        value = node.inputs[1]
        owner = value.graph if value.is_initializer() else value.producer().graph
        key = (id(value), id(solved))
        if isinstance(solved.format, TableFormat) and solved.format.levels > _LOOKED_UP:
            if key not in stored:
                stored[key] = [_dequantized(node, value, owner, solved)]
            set_input(node, 1, stored[key][0])
            kind = stored[key][0].producer().inputs[0].dtype.name
            done(node, f"{note(node).plan}, 8 bits a weight as {kind}")
            return Change(node.name or node.outputs[0].name, note(node).fate.detail)
        weight = low_bit_weight(solved, layout_of(node))
        if key not in stored:
            stored[key] = [initializer(owner, f"{value.name}/{n}", a) for n, a in weight.arrays().items()]
        kind = array(value).dtype
        bias = bias_of(node, len(weight.codes))
        bias = np.zeros(1, kind) if bias is None or not bias.size else bias.astype(kind)
        bias_value = initializer(node.graph, f"{node.outputs[0].name}/bias", bias)
        name = INT8 if self.int8 else EXACT
        new = operator_node(
            name, [node.inputs[0], *stored[key], bias_value], node_name=node.name, **weight.attributes()
        )
        add_to_model(model, name)
        node.graph.insert_before(node, new)
        new.meta.update(node.meta)
        new.metadata_props.update(node.metadata_props)
        replace(node.outputs[0], new.outputs[0])
        remove_unused([node])
        bits = weight.bits_per_weight(model.graph.opset_imports.get("", 1))
        detail = f"{note(new).plan}, {bits:.3g} bits a weight in {name}"
        done(new, detail)
        return Change(new.name or new.outputs[0].name, detail)


def _dequantized(node: ir.Node, value: ir.Value, owner: ir.Graph, solved: QuantizedTensor) -> ir.Value:
    """Case 2: the weight as DequantizeLinear makes it."""
    levels = np.asarray(solved.format.table, np.float32)[solved.codes]
    kind = next(k for k in _FLOAT8 if (levels.astype(k).astype(np.float32) == levels).all())
    codes = initializer(owner, f"{value.name}_codes", levels.astype(kind))
    scale = initializer(owner, f"{value.name}_scale", np.asarray(solved.scale).astype(array(value).dtype))
    attributes = {} if solved.format.granularity == "tensor" else {"axis": solved.axis}
    if solved.format.granularity == "block":
        attributes["block_size"] = solved.format.block
    dequantize = ir.node("DequantizeLinear", [codes, scale], attributes, name=f"{value.name}_DequantizeLinear")
    output = dequantize.outputs[0]
    output.name, output.shape, output.type = f"{value.name}_dequantized", value.shape, value.type
    owner.insert_before(node if node.graph is owner else owner[0], dequantize)
    return output


def low_bit_weight(solved: QuantizedTensor, layout: Layout) -> LowBitWeight:
    """A solved matrix as the operator stores it. Scales that float16 or bfloat16 hold are such numbers."""
    format = solved.format
    codes = np.asarray(layout.to_rows(solved.codes)[0])

    def by_row(parameter: np.ndarray) -> np.ndarray:
        if format.granularity == "block":
            return np.ascontiguousarray(dataclasses.replace(layout, shape=parameter.shape).to_rows(parameter)[0])
        return np.broadcast_to(parameter.reshape(-1, 1), (len(codes), 1))

    scale = by_row(np.asarray(solved.scale, np.float32))
    if format.scale_fraction is not None:
        fewer = scale.astype(ml_dtypes.bfloat16 if format.scale_fraction == 0 else np.float16)
        scale = fewer if (fewer.astype(np.float32) == scale).all() else scale
    if not isinstance(format, TableFormat):
        return LowBitWeight(
            codes=codes.astype(np.int32) - format.minimum,
            scale=np.ascontiguousarray(scale),
            zero_point=_stored_zero_point(by_row(np.asarray(solved.zero_point)).astype(np.int32) - format.minimum),
            block=format.block or codes.shape[1],
            levels=format.maximum - format.minimum + 1,
        )
    return LowBitWeight(
        codes=codes,
        scale=np.ascontiguousarray(scale),
        zero_point=np.zeros((), np.float32),
        block=format.block or codes.shape[1],
        levels=format.levels,
        table=np.asarray(format.table, np.float32),
    )


def _stored_zero_point(zero_point: np.ndarray) -> np.ndarray:
    """uint8, one number where all are equal."""
    same = (zero_point == zero_point.flat[0]).all()
    return np.asarray(zero_point.flat[0] if same else zero_point, np.uint8)
