"""Low rank: a branch of small matrices beside each product, so that less is left for codes to hold.

    x·W + b   becomes   (x·R + b) + (x·A)·B      with W = R + A·B,  A [K, r],  B [r, N]

in standard operators, before anything is rounded: the function stays what it was, R takes over the plan of W, and A and
B are planned in 8 bits a channel. The solvers that follow see three products. How A·B is chosen stands in
qonnx/low_rank.py; Gram matrices of `observe` steer it where there are some. A layer keeps its one product where the
branch would take more than `most` of the bytes of its float weight, where it does not lower the error of plain rounding
(RoSTE's rule), where a quantizer stands behind the product, or where someone else reads the weight.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qonnx.errors import QonnxError
from qonnx.low_rank import Start, branch
from qonnx.notes import note
from qonnx.passes.base import Change, Pass
from qonnx.passes.branches import BYTE, add_beside, branchable, gram_of, plainly
from qonnx.passes.linear import Linear
from qonnx.passes.rewire import array, bodies, initializer, new_node
from qonnx.passes.solve_weights import layout_of
from qonnx.plan import Plan


@dataclasses.dataclass
class LowRank(Pass):
    """Split off low-rank branches. rank: r. start, turns: see qonnx.low_rank. most: share of the float weight's bytes
    that A and B may take. bits: 8, or 32 to leave A and B in float."""

    rank: int = 16
    start: Start = "weight"
    turns: int = 0
    most: float = 0.1
    bits: int = 8

    needs = ("assign_weights | assign | assign_codebooks",)
    tolerance = 1e-5

    def __post_init__(self):
        if self.rank < 1 or self.turns < 0:
            raise QonnxError(f"rank {self.rank} and {self.turns} turns make no branch; want rank >= 1 and turns >= 0")
        if self.bits not in (8, 32):
            raise QonnxError(f"low-rank branches are stored in 8 or 32 bits, not {self.bits}")

    def changes(self, model: ir.Model) -> Iterator[Change]:
        for graph in bodies(model):
            for node in list(graph):
                if (view := self._eligible(node)) is None:
                    continue
                note(node).split = True
                plan, layout = note(node).plan, layout_of(node)
                rows = layout.to_rows(np.asarray(array(node.inputs[1]), np.float64))[0]
                found = branch(rows, self.rank, plainly(node), gram_of(node), start=self.start, turns=self.turns)
                if found is None:
                    continue
                left, right = (part.astype(np.float32).astype(np.float64) for part in found)  # as the file holds them
                view.set_weight(layout.from_rows((rows - left @ right)[None]))
                _add_branch(view, right.T, left.T, plan if self.bits == 8 else None)
                yield Change(node.name or node.outputs[0].name, f"rank {left.shape[1]} beside {plan.weight.name}")

    def _eligible(self, node: ir.Node) -> Linear | None:
        if (view := branchable(node)) is None:
            return None
        inputs, outputs = view.inputs, view.outputs
        taken = self.bits / 32 * self.rank * (inputs + outputs)
        return view if taken <= self.most * inputs * outputs else None


def _add_branch(view: Linear, down: np.ndarray, up: np.ndarray, plan: Plan | None) -> None:
    """Write (x·A)·B beside the node."""
    node, graph, result = view.node, view.node.graph, view.result
    kind, stem = array(view.weight).dtype, view.weight.name
    made, value = [], node.inputs[0]
    for suffix, factor in (("down", down), ("up", up)):
        weight = initializer(graph, f"{stem}.{suffix}", np.ascontiguousarray(factor).astype(kind))
        made.append(new_node("MatMul", [value, weight], like=node, suffix=suffix))
        value = made[-1].outputs[0]
        value.name, value.type = f"{result.name}.{suffix}", result.type
        if result.shape is not None:
            value.shape = ir.Shape([*list(result.shape)[:-1], factor.shape[1]])
        note(made[-1]).split = True
        if plan is not None:
            note(made[-1]).plan = Plan({}, BYTE, 1)
    add_beside(view, made)
