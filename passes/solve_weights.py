"""Solve weights: turn each planned weight into codes, with a solver, and keep them in the note of the node.

The graph stays float; `place_qdq` writes the codes into it. A weight that several nodes share with the same plan is
solved once. The Gram matrix of the node's input, if `observe` gathered it, steers the solver. Scales of 16-bit float
models are rounded to the model's type before weights are rounded to codes, so that the file means what was solved.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import onnx_ir as ir

from qonnx.codebooks import CodebookFormat, CodebookTensor, solve_codebook
from qonnx.formats import IntFormat, QuantizedTensor
from qonnx.notes import note
from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import array, bodies, integer
from qonnx.plan import Plan
from qonnx.solvers import SOLVERS, Codes, Layout
from qonnx.solvers.nearest import spread


@dataclasses.dataclass
class SolveWeights(Pass):
    """Choose the codes of every planned weight. solver: key of SOLVERS."""

    solver: str = "nearest"

    needs = ("assign | assign_weights | assign_codebooks",)
    tolerance = 0.0

    def changes(self, model: ir.Model) -> Iterator[Change]:
        solved: dict[tuple, QuantizedTensor] = {}
        for node in (node for graph in bodies(model) for node in graph):
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
    weight = node.inputs[0 if node.op_type == "Gather" else 1]
    transposed = node.op_type == "Gemm" and integer(node, "transB", 0) == 1
    return Layout(node.op_type, tuple(weight.shape.numpy()), integer(node, "group", 1), transposed)


def solve(
    node: ir.Node, plan: Plan, solver: str, gram: np.ndarray | None, weight: np.ndarray | None = None
) -> QuantizedTensor | CodebookTensor:
    """The codes of one node's weight, or of `weight` in its place, in the layout of DequantizeLinear."""
    format, value = plan.weight, node.inputs[plan.weight_index]
    if isinstance(format, CodebookFormat):
        return solve_codebook(array(value) if weight is None else weight, layout_of(node), format, gram, solver)
    layout = fitted(layout_of(node), format)
    weight = np.asarray(array(value) if weight is None else weight, np.float32)
    if len(layout.shape) != 2 and node.op_type == "MatMul":  # a stack of matrices, one scale
        codes = rounded_scale(
            SOLVERS["nearest"](weight.reshape(1, 1, -1), format), weight.reshape(1, 1, -1), value.dtype
        )
        stored = codes.codes.reshape(weight.shape).astype(format.numpy_dtype)
        return QuantizedTensor(format, stored, codes.scale[0, 0, 0], codes.zero_point[0, 0, 0], 0)
    rows = layout.to_rows(weight)
    if gram is not None and gram.shape != (rows.shape[0], rows.shape[2], rows.shape[2]):
        gram = None
    if gram is not None and layout.taps_first:
        gram = gram[:, layout.columns[:, None], layout.columns]
    codes = SOLVERS[solver](rows, format, gram)
    return to_tensor(
        rounded_scale(codes, rows, value.dtype, renew=gram is None or solver.startswith("nearest")), layout
    )


def fitted(layout: Layout, format: IntFormat) -> Layout:
    """The layout whose rows and columns share scales as DequantizeLinear does.

    Per channel, ConvTranspose has one scale for each entry of axis 1, which its groups share: their columns go side by
    side in one row. Blocks lie along the input axis, so the taps of a kernel are the outer part of a column's number.
    """
    if layout.op == "ConvTranspose" and format.granularity == "channel":
        return dataclasses.replace(layout, groups=1)
    return dataclasses.replace(layout, taps_first=format.granularity == "block" and "Conv" in layout.op)


def rounded_scale(codes: Codes, rows: np.ndarray, dtype: ir.DataType, renew: bool = True) -> Codes:
    """`codes` with scales that the model's float type holds; `renew` rounds the rows to them again."""
    if dtype not in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        return codes
    least = float(ml_dtypes.finfo(dtype.numpy()).smallest_subnormal)
    scale = np.maximum(codes.scale.astype(dtype.numpy()).astype(np.float32), least)
    changed = dataclasses.replace(codes, scale=scale)
    if not renew:
        return changed
    columns, format = rows.shape[-1], codes.format
    again = format.encode(rows, spread(scale, columns, format), spread(codes.zero_point, columns, format))
    return dataclasses.replace(changed, codes=again)


def to_tensor(codes: Codes, layout: Layout) -> QuantizedTensor:
    """Solved rows as the arrays that DequantizeLinear stores."""
    format = codes.format
    stored = layout.from_rows(codes.codes).astype(format.numpy_dtype)
    if format.granularity == "tensor":
        return QuantizedTensor(format, stored, codes.scale[0, 0, 0], codes.zero_point[0, 0, 0], 0)
    if format.granularity == "channel":
        scale, zero_point = codes.scale.reshape(-1), codes.zero_point.reshape(-1)
        return QuantizedTensor(format, stored, scale, zero_point, layout.channel_axis)
    blocks = dataclasses.replace(layout, shape=_block_shape(layout, format.block))
    return QuantizedTensor(
        format, stored, blocks.from_rows(codes.scale), blocks.from_rows(codes.zero_point), layout.reduction_axis
    )


def _block_shape(layout: Layout, block: int) -> tuple[int, ...]:
    """The shape of the scales."""
    shape, groups = list(layout.shape), layout.groups if layout.op == "ConvTranspose" else 1
    shape[layout.reduction_axis] = groups * -(-shape[layout.reduction_axis] // groups // block)
    return tuple(shape)
