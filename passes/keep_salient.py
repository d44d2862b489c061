"""Keep salient: the few input channels on which rounding costs most are multiplied apart, in 8 bits.

    x·W + b   becomes   x[rest]·W[rest] + b  +  x[salient]·W[salient]

in standard operators, before anything is rounded: the function stays what it was, the rest keeps the plan of W, and the
salient rows are planned in 8 bits a channel. A channel j costs H_jj · Σ_n (w_nj − Q(w_nj))², with the Gram matrix H of
`observe` where there is one; layers that read one tensor share their channels, each layer's cost counting as a share of
its own. Whole channels need no index for a weight, and no operator that runtimes lack (PTQ1.61, 2025, whose 4
bits are 8 here; the structured outliers of QuantEase, Behdin et al. 2023; PB-LLM, Shang et al. 2023, keeps single
weights).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qonnx.errors import QonnxError
from qonnx.notes import note
from qonnx.passes.base import Change, Pass
from qonnx.passes.branches import BYTE, add_beside, branchable, gram_of, plainly
from qonnx.passes.linear import Linear
from qonnx.passes.rewire import array, bodies, initializer, new_node, set_input
from qonnx.passes.solve_weights import layout_of
from qonnx.plan import Plan
from qonnx.stats import taken


@dataclasses.dataclass
class KeepSalient(Pass):
    """Split off salient channels. share: of the input channels. multiple: their number is one of this, so that the
    blocks of the rest stay full; a layer too narrow for that stays as it is. gain: how many times an average channel
    they must cost for it."""

    share: float = 0.05
    multiple: int = 16
    gain: float = 2.0

    needs = ("assign_weights | assign | assign_codebooks",)
    tolerance = 1e-5

    def __post_init__(self):
        if not 0 < self.share <= 0.5:
            raise QonnxError(f"a share of {self.share:g} of the channels is not small; want more than 0, 0.5 at most")
        if self.multiple < 1:
            raise QonnxError(f"multiple={self.multiple} counts no channels; want 1 or more")

    def changes(self, model: ir.Model) -> Iterator[Change]:
        for graph in bodies(model):
            readers: dict[ir.Value, list[Linear]] = {}
            for node in graph:
                if (view := branchable(node)) is not None:
                    readers.setdefault(node.inputs[0], []).append(view)
            for value, views in readers.items():
                count = round(self.share * views[0].inputs / self.multiple) * self.multiple
                if not 0 < count <= views[0].inputs // 2:
                    continue
                costs = sum(_costs(view) for view in views)
                order = np.argsort(-costs, kind="stable")
                if costs[order[:count]].mean() < self.gain * costs.mean():
                    continue
                parts = _Parts(value, np.sort(order[:count]), np.sort(order[count:]), views[0].node)
                for view in views:
                    parts.split(view)
                    what = f"{count} of {len(order)} channels in {BYTE.name}"
                    yield Change(view.node.name or view.result.name, what)


def _costs(view: Linear) -> np.ndarray:
    """What rounding costs on each input channel, float64 [K], in shares of all of it."""
    node = view.node
    rows = layout_of(node).to_rows(np.asarray(array(view.weight), np.float64))[0]
    cost = np.square(rows - plainly(node)(rows)).sum(0)
    gram = gram_of(node)
    if gram is not None:
        cost = cost * np.diagonal(gram)
    return cost / max(float(cost.sum()), 1e-300)


class _Parts:
    """The salient channels and the rest of one tensor, gathered once for all that read it."""

    def __init__(self, value: ir.Value, salient: np.ndarray, rest: np.ndarray, first: ir.Node):
        self.indices = (salient, rest)
        names = ("salient", "rest")
        self.values = [_gathered(value, part, name, first) for part, name in zip(self.indices, names, strict=True)]
        stats, channels = note(value).stats, len(salient) + len(rest)
        if stats is not None and stats.channel_minimum is not None and stats.channel_minimum.size == channels:
            for part, found in zip(self.indices, self.values, strict=True):
                note(found).stats = taken(stats, part)

    def split(self, view: Linear) -> None:
        """Let the product read the rest, and one beside it the salient channels."""
        node, layout = view.node, layout_of(view.node)
        rows = layout.to_rows(array(view.weight))[0]
        salient, rest = (np.ascontiguousarray(rows[:, index]) for index in self.indices)
        weight = initializer(node.graph, f"{view.weight.name}.salient", np.ascontiguousarray(salient.T))
        beside = new_node("MatMul", [self.values[0], weight], like=node, suffix="salient")
        made = beside.outputs[0]
        made.name, made.type, made.shape = f"{view.result.name}.salient", view.result.type, view.result.shape
        note(beside).split = note(node).split = True
        note(beside).plan = Plan({}, BYTE, 1)
        turned = layout.transposed
        set_input(node, 1, initializer(node.graph, f"{view.weight.name}.rest", rest if turned else rest.T.copy()))
        node.replace_input_with(0, self.values[1])
        add_beside(view, [beside])


def _gathered(value: ir.Value, index: np.ndarray, name: str, first: ir.Node) -> ir.Value:
    """The channels of `value` that `index` names, in front of the node `first`."""
    channels = initializer(first.graph, f"{value.name}.{name}", index.astype(np.int64))
    gather = new_node("Gather", [value, channels], {"axis": -1}, like=first, suffix=f"{name}_channels")
    found = gather.outputs[0]
    found.name, found.type = f"{value.name}.{name}_channels", value.type
    if value.shape is not None:
        found.shape = ir.Shape([*list(value.shape)[:-1], index.size])
    first.graph.insert_before(first, gather)
    return found
