"""Reparameterize attention: centre the keys and even out the values, at no cost at run time.

1. Keys: a constant m added to every key adds q·m to all scores of a query, which a softmax over the keys ignores. The
   mean of each channel of K is therefore taken out of the bias that makes it; what is left has a smaller range (a
   DINOv2-small: W16A4 7.35 → 11.1 dB).
2. Values: a row of attention sums to one, so Σ_j a_j (v_j + t) ⊘ r = (Σ_j a_j v_j + t) ⊘ r. Per-channel shifts t and
   ratios r of V (as in passes/reparameterize.py) move through the product into the layer behind it:
       W_v ← W_v ⊘ r,  b_v ← (b_v + t) ⊘ r,  W_o ← diag(r) W_o,  b_o ← b_o − tᵀ W_o(old)
   (channel → layer reparameterization of RepQ-ViT, Li et al. 2023, between two linear layers; 7.3 → 11.1 dB).

Channels are followed through whatever splits a tensor into heads (passes/channel_flow.py), so fused and separate
projections are one case. A channel with any other reader is left alone, as are keys that something (a rotary embedding,
a cache) changes on the way. Quantizing scores after a division by their sum keeps case 2 exact: see LogAttention.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qonnx.notes import note
from qonnx.passes.base import Change, Pass
from qonnx.passes.channel_flow import Leaf, last_axis, leaves
from qonnx.passes.linear import Linear, linear
from qonnx.passes.reparameterize import even_channels
from qonnx.passes.rewire import array, integer, is_op
from qonnx.stats import Stats, affine_channels


@dataclass
class ReparameterizeAttention(Pass):
    """Centre keys, even out values. strength: of the values' ratios, 0…1. bits: of the activations."""

    strength: float = 1.0
    bits: int = 8

    needs = ("observe",)
    tolerance = 2e-5

    def changes(self, model: ir.Model) -> Iterator[Change]:
        for node in list(model.graph):
            maker = linear(node)
            stats = None if maker is None else note(maker.result).stats
            if stats is None or stats.shape is None or stats.channel_sum is None or stats.non_finite:
                continue
            if note(node).folded or maker.axis != -1 or stats.shape[-1] != maker.outputs:
                continue
            found = leaves(maker.result, last_axis(stats.shape))
            for leaf in found or ():
                others = [other for other in found if other is not leaf]
                if (channels := _keys(leaf)) is not None:
                    yield from self._centre(maker, stats, leaf, _own(channels, others))
                elif (channels := _values(leaf)) is not None:
                    yield from self._even(maker, stats, leaf, channels, _own(channels, others))
                stats = note(maker.result).stats

    def _centre(self, maker: Linear, stats: Stats, leaf: Leaf, own: np.ndarray) -> Iterator[Change]:
        """Case 1 for the channels `own`."""
        shift = np.zeros(maker.outputs)
        shift[own] = -stats.channel_mean[own]
        if not shift.any():
            return
        maker.set_bias((0.0 if maker.bias is None else maker.bias) + shift)
        note(maker.node).folded = True
        self._renew(maker, leaf, affine_channels(stats, np.ones_like(shift), shift))
        yield Change(maker.node.name or maker.result.name, f"{own.size} channels of keys centred")

    def _even(self, maker: Linear, stats: Stats, leaf: Leaf, channels: np.ndarray, own: np.ndarray) -> Iterator[Change]:
        """Case 2: `channels` of the operand `leaf`; only those of `own` may change."""
        product = leaf.node.outputs[0]
        rows = note(leaf.node.inputs[0]).stats
        if rows is None or rows.shape is None or own.size != np.unique(channels).size:
            return
        shape = (*np.broadcast_shapes(rows.shape[:-2], channels.shape[:-2]), rows.shape[-2], channels.shape[-1])
        readers = _readers(leaves(product, np.broadcast_to(channels, shape)))
        if not readers:
            return
        shift, ratio = np.zeros(maker.outputs), np.ones(maker.outputs)
        each_shift, each_ratio = even_channels(stats, self.bits, shifts=True)
        shift[own], ratio[own] = (
            each_shift[own],
            (each_ratio[own] / np.exp(np.log(each_ratio[own]).mean())) ** self.strength,
        )
        for reader, order, factor in readers:
            weight = reader.input_scaled(np.ones(1))
            gained = shift[order] * (leaf.factor * factor)
            lost = (weight if _outputs_first(reader) else weight.T) @ gained
            reader.set_bias((0.0 if reader.bias is None else reader.bias) - lost)
            reader.set_weight(reader.input_scaled(ratio[order]))
            behind = note(reader.node.inputs[0])
            if behind.stats is not None and behind.stats.channel_sum is not None:
                behind.stats = affine_channels(behind.stats, 1.0 / ratio[order], gained)
        maker.set_bias(((0.0 if maker.bias is None else maker.bias) + shift) / ratio)
        maker.set_weight(maker.scaled(1.0 / ratio))
        note(maker.node).folded = True
        self._renew(maker, leaf, affine_channels(stats, 1.0 / ratio, shift))
        what = f"ranges of {own.size} channels of values folded into {len(readers)} layers"
        yield Change(maker.node.name or maker.result.name, what)

    def _renew(self, maker: Linear, leaf: Leaf, stats: Stats) -> None:
        """Note the statistics after the change, of what the layer makes and of the operand that it becomes."""
        note(maker.result).stats = stats
        operand, held = note(leaf.node.inputs[leaf.index]), np.unique(leaf.channels)
        if operand.stats is not None:
            low = leaf.factor * stats.channel_minimum[held].min()
            high = leaf.factor * stats.channel_maximum[held].max()
            operand.stats = Stats(
                operand.stats.samples, operand.stats.elements, float(low), float(high), shape=operand.stats.shape
            )


def _own(channels: np.ndarray, others: list[Leaf]) -> np.ndarray:
    """The channels that no other operand holds."""
    taken = [other.channels for other in others]
    return np.setdiff1d(channels, np.concatenate([x.reshape(-1) for x in taken]) if taken else [])


def _keys(leaf: Leaf) -> np.ndarray | None:
    """The channels of the right operand of a product whose result a softmax over the keys reads; else None."""
    product = leaf.node
    if not is_op(product, "MatMul") or leaf.index != 1 or note(product.outputs[0]).role != "scores":
        return None
    return leaf.along(-1) if leaf.channels.ndim >= 2 and _softmax_over_last(product.outputs[0]) else None


def _softmax_over_last(scores: ir.Value) -> bool:
    """Whether all that becomes of the scores is scaling by one number, adding, reshaping that keeps rows, as masks of
    windows need it, and a Softmax over the last axis."""
    users = [use.node for use in scores.uses()]
    if not users or scores.is_graph_output():
        return False
    for user in users:
        if is_op(user, "Softmax"):
            if integer(user, "axis", -1) not in (-1, len(scores.shape or ()) - 1):
                return False
        elif is_op(user, "Mul", "Div"):
            other = user.inputs[1] if user.inputs[0] is scores else user.inputs[0]
            factor = array(other)
            if factor is None or factor.size != 1 or not _softmax_over_last(user.outputs[0]):
                return False
        elif not (is_op(user, "Add") or _keeps_rows(user)) or not _softmax_over_last(user.outputs[0]):
            return False
    return True


def _keeps_rows(node: ir.Node) -> bool:
    """Whether it is a Reshape that leaves the last axis as it is."""
    if not is_op(node, "Reshape"):
        return False
    ends = [value.shape[-1] if value.shape else None for value in (node.inputs[0], node.outputs[0])]
    return isinstance(ends[0], int) and ends[0] == ends[1]


def _values(leaf: Leaf) -> np.ndarray | None:
    """The channels of the right operand of attention × V; else None."""
    if not is_op(leaf.node, "MatMul") or leaf.index != 1 or leaf.channels.ndim < 2:
        return None
    rows = leaf.node.inputs[0]
    if note(rows).role != "probabilities" or not is_op(rows.producer(), "Softmax"):
        return None
    axis = integer(rows.producer(), "axis", -1)
    return leaf.along(-2) if axis in (-1, leaf.channels.ndim - 1) else None


def _readers(found: list[Leaf] | None) -> list[tuple[Linear, np.ndarray, float]]:
    """The linear layers at all of the leaves, each with the channel of its every input and the factor before it; [] if
    one is anything else."""
    readers = []
    for leaf in found or ():
        layer = linear(leaf.node) if leaf.index == 0 else None
        order = leaf.channels.reshape(-1, leaf.channels.shape[-1])
        if layer is None or layer.axis != -1 or not (order == order[0]).all():
            return []
        readers.append((layer, order[0], leaf.factor))
    return readers


def _outputs_first(layer: Linear) -> bool:
    return is_op(layer.node, "Gemm") and bool(integer(layer.node, "transB", 0))
