"""Rotate heads: values of attention in another basis, head by head, folded into the layers that make and read them.

Attention sums rows of V: (A·V)·R = A·(V·R). With R [d, d] orthogonal for the d channels of a head, W_v takes R from the
right and W_o Rᵀ from the left, and nothing else changes (QuaRot, Ashkboos et al. 2024, "head-wise"). Channels are
followed through whatever splits a tensor into heads (passes/channel_flow.py); heads that several query heads share are
rotated at every place where they arrive. Open dimensions are taken as 1 for that.

Each layer of values is judged by itself: its heads are rotated only if the summed relative error of plain rounding of
it and of the layers behind falls (RoSTE, 2025).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qonnx.custom_ops.hadamard import rotation_of, signs
from qonnx.errors import QonnxError
from qonnx.notes import note
from qonnx.passes.base import Change, Pass
from qonnx.passes.channel_flow import Leaf, last_axis, leaves
from qonnx.passes.linear import Linear, linear
from qonnx.passes.rewire import array, dims_of, integer, is_op
from qonnx.passes.rotate_residual import laid_out, matrix_of, rounding_error


@dataclasses.dataclass(frozen=True)
class Heads:
    """maker: of the values. heads: channels of each head, [heads, d]. readers: layers behind attention, each with the
    channel of its every input."""

    maker: Linear
    heads: np.ndarray
    readers: list[tuple[Linear, np.ndarray]]


@dataclasses.dataclass
class RotateHeads(Pass):
    """Rotate heads of values. seed: of the signs. bits, block: what rounding is judged by. always: whatever it does."""

    seed: int = 0
    bits: int = 4
    block: int = 32
    always: bool = False

    needs = ("label",)
    tolerance = 1e-5
    recurses = False  # attention in bodies stays as it is

    def changes(self, model: ir.Model) -> Iterator[Change]:
        for node in list(model.graph):
            found = None if note(node).rotated else heads_of(node)
            if found is None:
                continue
            note(node).rotated = True
            if (rotation := head_rotation(found.heads.shape[1], self.seed)) is None:
                continue
            weights = rotated(found, rotation)
            before = sum(self._error(layer, array(layer.weight).astype(np.float64)) for layer, _ in weights)
            if sum(self._error(*pair) for pair in weights) >= before and not self.always:
                continue
            if found.maker.bias is not None:
                bias = found.maker.bias.copy()
                bias[found.heads] = bias[found.heads] @ rotation
                found.maker.set_bias(bias)
            for layer, weight in weights:
                layer.set_weight(weight)
            yield Change(node.name or found.maker.result.name, f"{len(found.heads)} heads of values rotated")

    def _error(self, layer: Linear, weight: np.ndarray) -> float:
        return rounding_error(layer, weight, self.bits, self.block)


def heads_of(node: ir.Node) -> Heads | None:
    """What makes values for attention, if all channels of each head go there and from there to layers, in one order."""
    maker = linear(node) if is_op(node, "MatMul", "Gemm") else None
    if maker is None or len(dims_of(maker.weight)) != 2 or maker.result.shape is None:
        return None
    found = _leaves(maker.result, last_axis(_closed(maker.result.shape)))
    products = [leaf for leaf in found or () if _attends(leaf)]
    if not products or len(products) != 1:
        return None
    leaf = products[0]
    channels = leaf.along(-2)
    heads = np.unique(channels.reshape(-1, channels.shape[-1]), axis=0)
    others = [other.channels for other in found if other is not leaf]
    if np.unique(heads).size != heads.size or any(np.isin(heads, other).any() for other in others):
        return None
    product, rows = leaf.node.outputs[0], leaf.node.inputs[0].shape
    if rows is None:
        return None
    closed = _closed(rows)
    shape = (*np.broadcast_shapes(closed[:-2], channels.shape[:-2]), closed[-2], channels.shape[-1])
    readers = _readers(_leaves(product, np.broadcast_to(channels, shape)), heads)
    return Heads(maker, heads, readers) if readers else None


def head_rotation(size: int, seed: int) -> np.ndarray | None:
    """A Hadamard matrix with random signs, orthogonal float64 [size, size]; None if none of that order is known."""
    try:
        known = rotation_of(size)
    except QonnxError:
        return None
    return signs(size, seed)[:, None] * known.matrix().T * known.factor


def rotated(found: Heads, rotation: np.ndarray) -> list[tuple[Linear, np.ndarray]]:
    """Every layer with its new weight, in its own layout."""
    matrix = matrix_of(found.maker)
    for head in found.heads:
        matrix[:, head] = matrix[:, head] @ rotation
    weights = [(found.maker, laid_out(found.maker, matrix))]
    for layer, order in found.readers:
        matrix = matrix_of(layer)
        for start in range(0, len(order), found.heads.shape[1]):
            here = slice(start, start + found.heads.shape[1])
            matrix[here] = rotation.T @ matrix[here]
        weights.append((layer, laid_out(layer, matrix)))
    return weights


def _attends(leaf: Leaf) -> bool:
    """Whether the leaf is the right operand of a product with probabilities, channels along its last axis."""
    if not is_op(leaf.node, "MatMul") or leaf.index != 1 or leaf.channels.ndim < 2:
        return False
    return note(leaf.node.inputs[0]).role == "probabilities" and leaf.along(-2) is not None


def _readers(found: list[Leaf] | None, heads: np.ndarray) -> list[tuple[Linear, np.ndarray]]:
    """The layers at all of the leaves; [] if one is anything else, or does not hold its heads one after the other."""
    readers = []
    known = {tuple(head) for head in heads}
    for leaf in found or ():
        layer = linear(leaf.node) if leaf.index == 0 and is_op(leaf.node, "MatMul", "Gemm") else None
        order = leaf.channels.reshape(-1, leaf.channels.shape[-1])
        if layer is None or not (order == order[0]).all() or order.shape[1] % heads.shape[1]:
            return []
        if integer(leaf.node, "transA", 0) or len(dims_of(layer.weight)) != 2:
            return []
        if any(tuple(part) not in known for part in order[0].reshape(-1, heads.shape[1])):
            return []
        readers.append((layer, order[0]))
    return readers


def _leaves(value: ir.Value, channels: np.ndarray) -> list[Leaf] | None:
    """`leaves`, where shapes that were closed by a guess may not fit each other."""
    try:
        return leaves(value, channels)
    except (ValueError, IndexError):
        return None


def _closed(shape: ir.Shape) -> tuple[int, ...]:
    """A shape whose open dimensions are 1."""
    return tuple(d if isinstance(d, int) else 1 for d in shape)
