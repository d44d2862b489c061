"""Solve weights: turn each planned weight into codes, with a solver, and keep them in the note of the node.

The graph stays float; `place_qdq` writes the codes into it. A weight that several nodes share with the same plan is
solved once. The Gram matrix of the node's input, if `observe` gathered it, steers the solver. Weights know nothing of
each other, so that processes or a cluster can share them out (passes/solve_jobs.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from qonnx.codebooks import CodebookTensor
from qonnx.formats import QuantizedTensor
from qonnx.notes import note
from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import array, bodies, integer
from qonnx.passes.solve_jobs import Job, asked, check_workers, executor_for, solved
from qonnx.plan import Plan
from qonnx.solvers import Layout


@dataclasses.dataclass
class SolveWeights(Pass):
    """Choose the codes of every planned weight.

    solver: key of SOLVERS. workers: processes that solve, each one weight at a time. executor: in their place, any
    `concurrent.futures.Executor`, such as those of Dask and Ray. folder: where solutions are kept, so that a run that
    was stopped goes on where it was.
    """

    solver: str = "nearest"
    settings: Any = None
    workers: int = 1
    executor: Any = None
    folder: str | None = None

    needs = ("assign | assign_weights | assign_codebooks",)
    tolerance = 0.0

    def __post_init__(self):
        check_workers(self.workers)

    def changes(self, model: ir.Model) -> Iterator[Change]:
        jobs: dict[tuple, Job] = {}
        readers: dict[tuple, list[ir.Node]] = {}
        for node in (node for graph in bodies(model) for node in graph):
            plan = note(node).plan
            if not isinstance(plan, Plan) or plan.weight is None or note(node).solved is not None:
                continue
            stats = note(node.inputs[0]).stats
            gram = None if stats is None or stats.gram is None else stats.gram.matrix
            key = (id(node.inputs[plan.weight_index]), layout_of(node), plan.weight, id(gram))
            jobs.setdefault(key, job_of(node, plan, self.solver, gram))
            readers.setdefault(key, []).append(node)
        workers, folder = asked(self.settings, self.workers, self.folder)
        with executor_for(workers, self.executor) as executor:
            found = solved(jobs.values(), executor, under_way=2 * workers + 2, folder=folder)
            for key, tensor in zip(jobs, found, strict=True):
                for node in readers[key]:
                    note(node).solved = tensor
                    how = f"weight solved as {tensor.format.name} by {self.solver}"
                    yield Change(node.name or node.outputs[0].name, how)


def layout_of(node: ir.Node) -> Layout:
    """How the node's weight maps to rows."""
    weight = node.inputs[0 if node.op_type == "Gather" else 1]
    transposed = node.op_type == "Gemm" and integer(node, "transB", 0) == 1
    return Layout(node.op_type, tuple(weight.shape.numpy()), integer(node, "group", 1), transposed)


def solve(
    node: ir.Node, plan: Plan, solver: str, gram: np.ndarray | None, weight: np.ndarray | None = None
) -> QuantizedTensor | CodebookTensor:
    """The codes of one node's weight, or of `weight` in its place, in the layout of DequantizeLinear."""
    return job_of(node, plan, solver, gram, weight).run()


def job_of(node: ir.Node, plan: Plan, solver: str, gram: np.ndarray | None, weight: np.ndarray | None = None) -> Job:
    """All that the solution of the node's weight depends on."""
    value = node.inputs[plan.weight_index]
    weight = np.asarray(array(value) if weight is None else weight)
    return Job(weight, layout_of(node), plan.weight, value.dtype, solver, gram)
