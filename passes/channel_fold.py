"""The layers behind a tensor that can take the inverse of a scale and a shift of its channels.

    x̃ = (x + t) ⊘ r   in front of   W̃ = diag(r) W,  b̃ = b − tᵀ W

A MatMul with a constant matrix reduces the last axis, a Gemm the same with either transB, a Conv without groups axis 1;
one that pads with zeros takes no shift, for the padding is not shifted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from qonnx.notes import note
from qonnx.passes.channel_flow import Leaf, follow
from qonnx.passes.linear import add_to_bias
from qonnx.passes.rewire import array, initializer, integer, is_constant, is_op, set_input
from qonnx.stats import Stats, affine_channels


def linears_behind(value: ir.Value, settings: Any = None) -> list[ir.Node]:
    """The layers that read `value` and reduce its last axis, or [] if anything else reads it too."""
    layers = [use.node for use in value.uses()]
    known = all(_multiplies(use.node, use.idx, settings) and _reduced(use.node) == -1 for use in value.uses())
    return layers if known and not value.is_graph_output() else []


def layers_behind(
    value: ir.Value, stats: Stats, settings: Any = None, axis: int = -1
) -> tuple[list[ir.Node], list[ir.Value]]:
    """The layers that read the tensor, its channels on `axis`, or what moves made of it; and the values that hold that.

    ([], []) if anything else reads one of them.
    """
    if stats.shape is None or stats.shape[axis] != stats.channel_minimum.size:
        return (linears_behind(value, settings) if axis == -1 else []), []
    count = stats.shape[axis]
    spread = np.arange(count).reshape([count if i == axis % len(stats.shape) else 1 for i in range(len(stats.shape))])
    found = follow(value, np.broadcast_to(spread, stats.shape))
    for leaf in found[0] if found else ():
        if leaf.factor != 1.0 or not _in_order(leaf, count) or not _multiplies(leaf.node, leaf.index, settings):
            return [], []
    return ([leaf.node for leaf in found[0]], found[1][1:]) if found else ([], [])


def _in_order(leaf: Leaf, count: int) -> bool:
    """Whether the axis that the layer reduces holds the channels in order, and no other axis any."""
    lines = np.moveaxis(leaf.channels, _reduced(leaf.node), -1)
    return lines.shape[-1] == count and bool((lines == np.arange(count)).all())


def _reduced(layer: ir.Node) -> int:
    return 1 if is_op(layer, "Conv") else -1


def _multiplies(node: ir.Node, index: int, settings: Any) -> bool:
    """Whether its input `index` is the left one of a product with a constant matrix that is to be quantized."""
    if not is_op(node, "MatMul", "Gemm", "Conv") or index != 0 or not is_constant(node.inputs[1]):
        return False
    if node.inputs[1].shape is None or (len(node.inputs[1].shape) != 2) != is_op(node, "Conv"):
        return False
    if is_op(node, "Conv") and integer(node, "group", 1) != 1:
        return False
    if is_op(node, "Gemm") and (integer(node, "transA", 0) or node.attributes.get("alpha", None) is not None):
        return False
    return settings is None or not settings.exclusion(node)


def matrix(layer: ir.Node) -> np.ndarray:
    """The layer's weight as float64 [K, O]; of a Conv [C, O · taps]."""
    weight = array(layer.inputs[1]).astype(np.float64)
    if is_op(layer, "Conv"):
        return np.moveaxis(weight, 1, 0).reshape(weight.shape[1], -1)
    return weight.T if is_op(layer, "Gemm") and integer(layer, "transB", 0) else weight


def fold_into_layer(layer: ir.Node, weight: np.ndarray, ratio: np.ndarray, shift: np.ndarray) -> None:
    """Let the layer, whose `matrix` is `weight`, read (x + shift) ⊘ ratio in the place of x."""
    graph, old = layer.graph, layer.inputs[1]
    kind, shape = array(old).dtype, array(old).shape
    folded = (weight * ratio[:, None]).astype(kind)
    if is_op(layer, "Conv"):
        folded = np.moveaxis(folded.reshape(shape[1], shape[0], *shape[2:]), 0, 1)
    elif is_op(layer, "Gemm") and integer(layer, "transB", 0):
        folded = folded.T
    set_input(layer, 1, initializer(graph, f"{old.name}_folded", folded))
    if shift.any():
        moved = shift @ weight  # what the product gains and the bias loses
        if is_op(layer, "Conv"):
            moved = moved.reshape(shape[0], -1).sum(1)
        stats = note(layer.outputs[0]).stats
        if is_op(layer, "MatMul") and stats is not None and stats.channel_minimum is not None:  # others hold their bias
            note(layer.outputs[0]).stats = affine_channels(stats, np.ones_like(moved), moved)
        add_to_bias(layer, -moved, kind)
