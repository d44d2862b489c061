"""Rotate inputs: a Hadamard transform in front of a layer at run time, for what no rotation can be folded through.

Behind a non-linearity, as in front of the second layer of a block's feed-forward part, nothing makes rotated inputs for
free. x·W = (x·Q)·(Qᵀ·W) with Q = Hᵀ/√K costs K·log K additions a row by operator ai.qonnx.Hadamard (its function body
runs everywhere), and W loses the loud rows that spoil its blocks (QuIP#, Tseng et al. 2024; QuaRot, Ashkboos et al.
2024, "online"). Layers that a norm stands before are left alone: rotate_residual serves them at no cost.

A layer is changed only if the relative error of plain rounding to `bits` falls by `gain` at least (RoSTE, 2025).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qonnx.custom_ops import ops
from qonnx.custom_ops.hadamard import HADAMARD, rotation_of
from qonnx.errors import QonnxError
from qonnx.notes import note
from qonnx.passes.base import Change, Pass
from qonnx.passes.linear import linear
from qonnx.passes.residual_stream import NORMS
from qonnx.passes.rewire import array, bodies, dims_of, initializer, integer, is_op, rank
from qonnx.passes.rotate_residual import laid_out, matrix_of, rounding_error
from qonnx.targets import Target


@dataclasses.dataclass
class RotateInputs(Pass):
    """Put Hadamard transforms in front of layers. bits, block: what rounding is judged by. gain: least share by which
    the error must fall; 0 takes every gain. always: whatever it does."""

    target: Target | None = None
    bits: int = 4
    block: int = 32
    gain: float = 0.1
    always: bool = False

    tolerance = 1e-5

    def __post_init__(self):
        if self.target is not None:
            self.target.demand_library(
                "a Hadamard transform", "leave pass 'rotate_inputs' out or choose another target"
            )

    def changes(self, model: ir.Model) -> Iterator[Change]:
        for graph in bodies(model):
            for node in list(graph):
                layer = linear(node) if is_op(node, "MatMul", "Gemm") and not note(node).rotated else None
                if layer is None or len(dims_of(layer.weight)) != 2 or not _free(node):
                    continue
                note(node).rotated = True
                try:
                    known = rotation_of(layer.inputs)
                except QonnxError:
                    continue  # no Hadamard matrix of this order
                before = rounding_error(layer, array(layer.weight).astype(np.float64), self.bits, self.block)
                weight = laid_out(layer, known.factor * known.matrix() @ matrix_of(layer))
                after = rounding_error(layer, weight, self.bits, self.block)
                if after > (1 - self.gain) * before and not self.always:
                    continue
                layer.set_weight(weight)
                source = node.inputs[0]
                base = initializer(graph, f"{layer.weight.name}_hadamard_base", known.base)
                made = ops.node(
                    HADAMARD, [source, base], node_name=f"{node.name or source.name}.hadamard", **known.attributes()
                )
                made.outputs[0].name = f"{source.name}_before_{node.outputs[0].name}"
                made.outputs[0].type, made.outputs[0].shape = source.type, source.shape
                graph.insert_before(node, made)
                node.replace_input_with(0, made.outputs[0])
                ops.add_to_model(model, HADAMARD)
                change = f"error of rounding {before:.2e} → {after:.2e}"
                yield Change(node.name or node.outputs[0].name, f"inputs of order {known.order} transformed, {change}")


def _free(node: ir.Node) -> bool:
    """Whether the layer's inputs are computed by something that a rotation cannot be folded into."""
    maker = node.inputs[0].producer()
    if is_op(node, "MatMul") and rank(node.inputs[0]) in (None, 1):
        return False
    if integer(node, "transA", 0) or node.inputs[0].dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
        return False
    return maker is not None and not is_op(maker, *NORMS) and maker.op_type != HADAMARD
