"""Branches beside a product: which products may have one, how plain rounding judges it, and the sum behind both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from qonnx.codebooks import CodebookFormat
from qonnx.formats import FORMATS
from qonnx.notes import note
from qonnx.passes.linear import Linear, linear
from qonnx.passes.rewire import dims_of, is_op, new_node, rank
from qonnx.passes.solve_weights import layout_of, solve
from qonnx.plan import Plan

BYTE = dataclasses.replace(FORMATS["s8"], granularity="channel")  # what weights of a branch are stored in


def branchable(node: ir.Node) -> Linear | None:
    """The node if it is a planned product with a matrix of its own, no quantizer behind it, and was not judged yet."""
    plan = note(node).plan
    if not is_op(node, "MatMul", "Gemm") or not isinstance(plan, Plan) or plan.weight is None or plan.output:
        return None
    if note(node).split or note(node).solved is not None or note(node).fate is not None or plan.weight_index != 1:
        return None
    view = linear(node)
    if view is None or len(dims_of(view.weight)) != 2:
        return None
    if node.op_type == "MatMul" and rank(node.inputs[0]) in (None, 1):
        return None
    if node.op_type == "Gemm" and node.attributes.get_int("transA", 0):
        return None
    return view


def gram_of(node: ir.Node) -> np.ndarray | None:
    """The Gram matrix [K, K] of the node's inputs that `observe` noted, if any."""
    stats = note(node.inputs[0]).stats
    gram = None if stats is None or stats.gram is None else stats.gram.matrix
    return gram[0] if gram is not None and len(gram) == 1 else None


def plainly(node: ir.Node) -> Callable[[np.ndarray], np.ndarray]:
    """What rows [N, K] become in the node's format, rounded plainly; float64."""
    layout, plan = layout_of(node), note(node).plan
    solver = "kmeans" if isinstance(plan.weight, CodebookFormat) else "nearest-searched"

    def rounded(rows: np.ndarray) -> np.ndarray:
        weight = layout.from_rows(rows[None].astype(np.float32))
        return layout.to_rows(solve(node, plan, solver, None, weight).decode())[0].astype(np.float64)

    return rounded


def add_beside(view: Linear, made: Sequence[ir.Node]) -> None:
    """Put the nodes `made` behind the product and its bias, and the sum of the two behind them; the sum takes over
    name and readers of the result."""
    graph, result = view.node.graph, view.result
    total = new_node("Add", [result, made[-1].outputs[0]], like=view.node, suffix="with_branch")
    graph.insert_after(result.producer(), [*made, total])
    behind, name = total.outputs[0], result.name
    behind.type, behind.shape = result.type, result.shape
    result.name = f"{name}.residual"
    behind.name = name
    result.replace_all_uses_with(behind, replace_graph_outputs=True)
    total.replace_input_with(0, result)
