"""Assign code books: plan weights that become indices of code books. What does not fit is left to `assign_weights`.

Eligible are MatMul and Gemm with a constant matrix on the right, and Gather of rows of a constant table. Not planned:
1. excluded by the user, not float, not finite, read by anyone who has not the same plan for it;
2. rows that are no whole vectors and blocks, or a product of a vector (rank 1);
3. weights so small that books and scales bring them above `most` bits a weight: 8-bit codes serve these better.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from qonnx.codebooks import CODEBOOKS, CodebookFormat
from qonnx.errors import QonnxError
from qonnx.notes import note
from qonnx.options import nearest
from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import array, bodies, dims_of, integer, is_constant, is_op, rank
from qonnx.passes.solve_weights import layout_of
from qonnx.passes.stored_weights import bias_of
from qonnx.plan import Plan
from qonnx.targets import Target


@dataclasses.dataclass
class AssignCodebooks(Pass):
    """Plan code books. format: key of CODEBOOKS. most: bits a weight, books and scales included, above which a weight
    is left to other passes. tables: whether embedding tables (Gather) take part.
    """

    target: Target | None = None
    settings: Any = None
    format: str = "2x8v8"
    most: float = 6.0
    tables: bool = True

    tolerance = 0.0

    def __post_init__(self):
        if self.format not in CODEBOOKS:
            raise QonnxError(f"unknown code-book format '{self.format}'; {nearest(self.format, CODEBOOKS)}")
        if self.target is not None:
            self.target.demand_library("a product with code books", "choose a weight-int recipe or another target")

    def changes(self, model: ir.Model) -> Iterator[Change]:
        format = CODEBOOKS[self.format]
        candidates = {node: plan for graph in bodies(model) for node in graph if (plan := self._plan(node, format))}
        for node, plan in candidates.items():
            weight = node.inputs[plan.weight_index]
            same = (candidates.get(use.node) == plan and use.idx == plan.weight_index for use in weight.uses())
            alike = all(same) and len({_turned(use.node) for use in weight.uses()}) == 1
            if alike and not weight.is_graph_output():
                note(node).plan = plan
                yield Change(node.name or node.outputs[0].name, str(plan))

    def _plan(self, node: ir.Node, format: CodebookFormat) -> Plan | None:
        """The plan of an eligible node: cases 1 to 3."""
        table = is_op(node, "Gather")
        if (table and not self.tables) or note(node).fate is not None or note(node).plan is not None:
            return None
        if self.settings is not None and self.settings.exclusion(node):
            return None
        fitting = books_for(node, format, self.most)
        return None if fitting is None else Plan({}, fitting, 0 if table else 1)


def books_for(node: ir.Node, format: CodebookFormat, most: float) -> CodebookFormat | None:
    """`format` as the node can take it; None if it is not eligible."""
    table = is_op(node, "Gather")
    if not table and not is_op(node, "MatMul", "Gemm"):
        return None
    index = 0 if table else 1
    if len(node.inputs) < 2:
        return None
    weight = node.inputs[index]
    if not is_constant(weight) or weight.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
        return None
    if len(dims_of(weight)) != 2 or (table and integer(node, "axis", 0) != 0) or 0 in dims_of(weight):
        return None
    if not table and (is_constant(node.inputs[0]) or rank(node.inputs[0]) in (None, 1)):
        return None
    if is_op(node, "Gemm") and bias_of(node, dims_of(weight)[layout_of(node).channel_axis]) is None:
        return None
    if table and format.along == "outputs":
        format = dataclasses.replace(format, along="inputs")  # a row of a table is what VPTQ's column is
    rows, columns = layout_of(node).to_rows(np.empty(dims_of(weight), np.bool_)).shape[1:]
    if not format.fits(rows if format.along == "outputs" else columns):
        return None
    if _stored_bits(format, rows, columns) > most * math.prod((rows, columns)):
        return None
    return format if np.isfinite(array(weight)).all() else None


def _stored_bits(format: CodebookFormat, rows: int, columns: int) -> int:
    return format.stored_bits(columns, rows) if format.along == "outputs" else format.stored_bits(rows, columns)


def _turned(node: ir.Node) -> tuple[str, int]:
    """What tells two readers' rows apart."""
    return ("table" if is_op(node, "Gather") else "product", integer(node, "transB", 0))
