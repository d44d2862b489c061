"""Tidy: sort the graph and drop what nothing reads after rewriting."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import onnx_ir as ir
import onnx_ir.passes.common

from qonnx.passes.base import Change, Pass


@dataclasses.dataclass
class Tidy(Pass):
    """Remove unused nodes, initializers, functions and opset imports; put nodes in topological order."""

    tolerance = 0.0

    def changes(self, model: ir.Model) -> Iterator[Change]:
        for step, what in (
            (ir.passes.common.RemoveUnusedNodesPass(), "unused nodes removed"),
            (ir.passes.common.RemoveUnusedFunctionsPass(), "unused functions removed"),
            (ir.passes.common.RemoveUnusedOpsetsPass(), "unused opset imports removed"),
            (ir.passes.common.TopologicalSortPass(), "nodes sorted"),
        ):
            if step(model).modified:
                yield Change(model.graph.name or "graph", what)
