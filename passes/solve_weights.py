"""Solve weights: turn each planned weight into codes, with a solver, and keep them in the note of the node.

The graph stays float; `place_qdq` writes the codes into it. A weight that several nodes share with the same plan is solved
once. The Gram matrix of the node's input, if `observe` gathered it, steers the solver.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qonnx.formats import QuantizedTensor
from qonnx.notes import note
from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import array, integer
from qonnx.plan import Plan
from qonnx.solvers import SOLVERS, Codes, Layout


@dataclasses.dataclass
class SolveWeights(Pass):
    """Choose the codes of every planned weight. solver: key of SOLVERS."""

    solver: str = "nearest"

    needs = ("assign",)
    tolerance = 0.0

    def changes(self, model: ir.Model) -> Iterator[Change]:
        solved: dict[tuple, QuantizedTensor] = {}
        for node in model.graph:
            plan = note(node).plan
            if not isinstance(plan, Plan) or plan.weight is None or note(node).solved is not None:
                continue
            stats = note(node.inputs[0]).stats
            gram = None if stats is None or stats.gram is None else stats.gram.matrix
            key = (id(node.inputs[plan.weight_index]), layout_of(node), plan.weight, id(gram))
            if key not in solved:
                solved[key] = solve(node, plan, self.solver, gram)
            note(node).solved = solved[key]
            yield Change(node.name or node.outputs[0].name, f"weight solved as {plan.weight.name} by {self.solver}")


def layout_of(node: ir.Node) -> Layout:
    """How the node's weight maps to rows."""
    weight = node.inputs[1]
    transposed = node.op_type == "Gemm" and integer(node, "transB", 0) == 1
    return Layout(node.op_type, tuple(weight.shape.numpy()), integer(node, "group", 1), transposed)


def solve(node: ir.Node, plan: Plan, solver: str, gram: np.ndarray | None) -> QuantizedTensor:
    """The codes of one node's weight in the layout of DequantizeLinear."""
    layout = layout_of(node)
    weight = np.asarray(array(node.inputs[plan.weight_index]), np.float32)
    if len(layout.shape) != 2 and node.op_type == "MatMul":  # a stack of matrices, one scale
        rows = weight.reshape(1, 1, -1)
        codes = SOLVERS["nearest"](rows, plan.weight)
        return QuantizedTensor(
            plan.weight,
            codes.codes.reshape(weight.shape).astype(plan.weight.numpy_dtype),
            codes.scale[0, 0, 0],
            codes.zero_point[0, 0, 0],
            0,
        )
    rows = layout.to_rows(weight)
    if gram is not None and gram.shape != (rows.shape[0], rows.shape[2], rows.shape[2]):
        gram = None
    return to_tensor(SOLVERS[solver](rows, plan.weight, gram), layout)


def to_tensor(codes: Codes, layout: Layout) -> QuantizedTensor:
    """Solved rows as the arrays that DequantizeLinear stores."""
    format = codes.format
    stored = layout.from_rows(codes.codes).astype(format.numpy_dtype)
    if format.granularity == "tensor":
        return QuantizedTensor(format, stored, codes.scale[0, 0, 0], codes.zero_point[0, 0, 0], 0)
    if format.granularity == "channel":
        if layout.op == "ConvTranspose":  # axis 1 holds O/groups channels: groups share scales only if they agree
            scale, zero_point = codes.scale[0, :, 0], codes.zero_point[0, :, 0]
        else:
            scale, zero_point = codes.scale.reshape(-1), codes.zero_point.reshape(-1)
        return QuantizedTensor(format, stored, scale, zero_point, layout.channel_axis)
    blocks = dataclasses.replace(layout, shape=_block_shape(layout, codes.scale.shape[-1]))
    return QuantizedTensor(
        format, stored, blocks.from_rows(codes.scale), blocks.from_rows(codes.zero_point), layout.reduction_axis
    )


def _block_shape(layout: Layout, blocks: int) -> tuple[int, ...]:
    shape = list(layout.shape)
    shape[layout.reduction_axis] = blocks
    return tuple(shape)
