"""fold_norms: outside training BatchNormalization scales and shifts each channel; the layer before it can do that."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qonnx.model import release
from qonnx.passes.base import Change, Pass
from qonnx.passes.linear import Linear, fits, linear
from qonnx.passes.rewire import array, bodies, floats, integer, is_constant, is_op, only_use, remove_unused


@dataclasses.dataclass
class FoldNorms(Pass):
    """With y = γ·(x − μ)/√(σ² + ε) + β behind x = W·u + b, the layer becomes W·s·u + (b − μ)·s + β, s = γ/√(σ² + ε).

    The layer's output must have no other reader, its weight no other user, and the BatchNormalization no statistics
    output. Computed in float64 and rounded once.
    """

    def changes(self, model: ir.Model) -> Iterator[Change]:
        for body in bodies(model):
            for node in list(body):
                before = linear(node)
                while before is not None and (norm := norm_behind(before)) is not None:
                    if not fold_scale_shift(before, *scale_shift(norm), norm):
                        break
                    yield Change(norm.name or "", f"folded into {node.op_type} '{node.name}'")
                    before = linear(node)
        release(model)


def norm_behind(before: Linear) -> ir.Node | None:
    """The BatchNormalization that alone reads what the layer computes, if it can be folded."""
    if before.axis != 1 and (before.result.shape is None or len(before.result.shape) != 2):
        return None  # BatchNormalization's channels are on axis 1: the last axis of a matrix only
    if not only_use(before.result):
        return None
    use = next(iter(before.result.uses()))
    norm = use.node
    if not is_op(norm, "BatchNormalization") or use.idx != 0 or norm.graph is not before.node.graph:
        return None
    constant = all(is_constant(v) for v in norm.inputs[1:5])
    return norm if constant and len(norm.outputs) == 1 and not integer(norm, "training_mode", 0) else None


def scale_shift(norm: ir.Node) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of a BatchNormalization, float64 [channels] each."""
    gamma, beta, mean, variance = (array(v).astype(np.float64) for v in norm.inputs[1:5])
    scale = gamma / np.sqrt(variance + floats(norm, "epsilon", 1e-5))
    return scale, beta - mean * scale


def fold_scale_shift(before: Linear, scale: np.ndarray, shift: np.ndarray, node: ir.Node) -> bool:
    """Let the layer compute `scale`·y + `shift` itself and remove `node`, which did; False if a number would
    overflow."""
    bias = before.bias
    moved = shift if bias is None else bias * scale + shift
    weight = None if (scale == 1).all() else before.scaled(scale)
    kind = before.weight.dtype
    if not fits(moved, kind) or (weight is not None and not fits(weight, kind)):
        return False
    if weight is not None:
        before.set_weight(weight)
    output = node.outputs[0]
    name, type_, shape, meta = output.name, output.type, output.shape, dict(output.meta)
    result = before.result
    output.name = f"{name}.folded"
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    remove_unused([node])
    result.name, result.type, result.shape = name, type_ or result.type, shape or result.shape
    result.meta.update(meta)
    if bias is not None or moved.any():
        before.set_bias(moved)
    return True
