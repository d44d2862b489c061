"""Split channels: what a norm gives on a channel far wider than the others is read in several equal parts.

    x_c W_c = Σ_T (x_c / T) W_c      γ_c ← γ_c / T,  β_c ← β_c / T,  and row c of the weight T times

A grid over the tensor then spans the widest part, and unlike with a fold of scales no weight grows; the price is a
Gather that repeats the channels and products with as many more rows (outlier channel splitting, Zhao et al. 2019;
QLLM, Liu et al. 2024, eq. 3–4, without its merging of similar channels). The threshold above which channels are split
is the lowest that adds at most `most` of their number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from qonnx.notes import note
from qonnx.passes.base import Change, Pass
from qonnx.passes.channel_fold import linears_behind, matrix
from qonnx.passes.reparameterize import foldable
from qonnx.passes.rewire import array, initializer, integer, is_op, new_node, operand, set_input
from qonnx.stats import affine_channels, taken


@dataclasses.dataclass
class SplitChannels(Pass):
    """Split wide channels of LayerNormalization and RMSNormalization in front of MatMul and Gemm.

    most: channels added, as a share of the tensor's. gain: how many times the range must shrink for it.
    """

    settings: Any = None
    most: float = 1 / 32
    gain: float = 1.25

    needs = ("observe",)
    tolerance = 2e-5

    def changes(self, model: ir.Model) -> Iterator[Change]:
        for node in list(model.graph):
            value = node.outputs[0] if node.outputs else None
            stats = note(value).stats if is_op(node, "LayerNormalization", "RMSNormalization") else None
            if stats is None or stats.channel_minimum is None or stats.non_finite or note(node).split:
                continue
            layers = linears_behind(value, self.settings) if foldable(node) else []
            parts = _parts(np.maximum(-stats.channel_minimum, stats.channel_maximum), self.most)
            after = affine_channels(stats, 1.0 / parts)
            if not layers or (after.maximum - after.minimum) * self.gain > stats.maximum - stats.minimum:
                continue
            index = np.repeat(np.arange(parts.size), parts)
            for at in (1, 2):
                if operand(node, at) is not None:
                    old = array(node.inputs[at])
                    data = (old / parts).astype(old.dtype)
                    set_input(node, at, initializer(node.graph, f"{node.inputs[at].name}_split", data))
            repeated = _repeated(value, index, layers)
            note(value).stats, note(repeated).stats = after, taken(after, index)
            note(node).split = True
            yield Change(
                node.name or value.name, f"{(parts > 1).sum()} channels split, {index.size - parts.size} added"
            )


def _parts(wide: np.ndarray, most: float) -> np.ndarray:
    """In how many parts each channel is read, int64 [C]; the widest part is as narrow as `most` allows."""
    room = int(most * wide.size)
    limits = np.sort(np.unique(np.concatenate([wide / t for t in range(1, room + 2)])))
    low, high = 0, limits.size - 1  # the last, the widest channel itself, splits nothing
    while low < high:
        middle = (low + high) // 2
        enough = np.ceil(wide / max(limits[middle], 1e-30) - 1e-9).sum() - wide.size <= room
        low, high = (low, middle) if enough else (middle + 1, high)
    return np.maximum(np.ceil(wide / max(limits[low], 1e-30) - 1e-9), 1).astype(np.int64)


def _repeated(value: ir.Value, index: np.ndarray, layers: list[ir.Node]) -> ir.Value:
    """The layers read the channels of `value` that `index` names; their weights follow."""
    node = value.producer()
    gather = new_node(
        "Gather",
        [value, initializer(node.graph, f"{value.name}_parts", index)],
        {"axis": -1},
        like=node,
        suffix="parts",
    )
    repeated = gather.outputs[0]
    repeated.name, repeated.type = f"{value.name}_repeated", value.type
    if value.shape is not None:
        repeated.shape = ir.Shape([*list(value.shape)[:-1], index.size])
    node.graph.insert_after(node, gather)
    for layer in layers:
        old = layer.inputs[1]
        weight = matrix(layer)[index].astype(array(old).dtype)
        weight = weight.T if is_op(layer, "Gemm") and integer(layer, "transB", 0) else weight
        set_input(layer, 1, initializer(node.graph, f"{old.name}_split", weight))
        layer.replace_input_with(0, repeated)
    return repeated
