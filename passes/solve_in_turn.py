"""Solve weights in turn: layer after layer, each on the inputs that the quantized layers before it really give.

Two walks go through the model side by side (qonnx.walk): the float model, and its twin, whose activations pass through
their planned Q/DQ and whose layers take their solved weights as soon as they have them. For each planned product with a
constant weight, from the samples' rows:

1. the target: what the float layer gives. Where the layer's output is only added to a residual stream, the target is
   what makes the float model's *sum*, so that the error which the stream carries is corrected where it can be;
2. ridge least squares (qonnx.solvers.ridge) moves the weights towards the target; the ridge is the one that does best
   on the fifth of the samples that its fit does not see. An infinite ridge leaves them as they are: no targets then;
3. a solver rounds the moved weights against the Gram matrix of the twin's inputs;
4. the mean error that is left is noted as `mean_error`, which `place_qdq` takes out of the bias.

Since each layer sees what those before it have left, no error is corrected twice, as it would be if all layers were
measured at once. Layers that no sample reaches (in bodies of control flow, tables) are solved without data. Sources:
GPTQ's sequential order, AdaQuant's sequential bias tuning (Hubara et al. 2021), asymmetric calibration (GPTAQ, 2025).

Layers that wait for nothing but what is solved already are solved together; with workers, so are the rows of each.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from qonnx.formats import IntFormat, QuantizedTensor
from qonnx.harm import decibel
from qonnx.notes import clone, note
from qonnx.passes.attention_received import attention_over, received
from qonnx.passes.base import Change, Pass
from qonnx.passes.linear import add_to_bias
from qonnx.passes.observe import window_of
from qonnx.passes.place_qdq import PlaceQDQ
from qonnx.passes.rewire import (
    array,
    bodies,
    dims_of,
    floats,
    initializer,
    integer,
    is_constant,
    is_op,
    only_use,
    set_input,
)
from qonnx.passes.solve_jobs import Job, asked, check_workers, executor_for, in_parts
from qonnx.passes.solve_weights import job_of, layout_of, solve
from qonnx.patches import patches
from qonnx.plan import Plan
from qonnx.probes import reads
from qonnx.solvers.ridge import Inputs, Regression, choose_ridge, fitted, shrunk
from qonnx.walk import Walk

_log = logging.getLogger(__name__)
_HELD_OUT = 5  # every fifth sample judges the ridge


@dataclasses.dataclass
class SolveInTurn(Pass):
    """Choose the codes of every planned weight, layer after layer.

    data: samples; without any this is `solve_weights`. solver: key of SOLVERS. ridge: share of the Gram matrix' mean
    diagonal; None chooses it on held-out samples, infinity leaves weights as they are. residual: targets take over the
    error of the residual stream. biases: whether mean errors go into them. attention: weigh the rows of value
    projections by the attention that their tokens receive. samples: of the data at most.
    workers, executor, folder: as in `solve_weights`.
    """

    data: Any
    settings: Any = None
    solver: str = "gptq"
    ridge: float | None = None
    residual: bool = True
    biases: bool = True
    attention: bool = False
    samples: int = 64
    workers: int = 1
    executor: Any = None
    folder: str | None = None
    progress: Callable[[int], None] | None = None

    needs = ("assign | assign_weights | assign_codebooks",)
    tolerance = 0.0
    counts_layers: ClassVar[bool] = True  # what `progress` is called with

    def __post_init__(self):
        check_workers(self.workers)

    def changes(self, model: ir.Model) -> Iterator[Change]:
        waiting = [] if self.data is None else [node for node in model.graph if _walkable(node)]
        for node in (node for graph in bodies(model) for node in graph):
            plan = note(node).plan
            if isinstance(plan, Plan) and plan.weight is not None and note(node).solved is None and node not in waiting:
                note(node).solved = solve(node, plan, "nearest-searched" if plan.weight.bits < 8 else "nearest", None)
                yield Change(node.name or node.outputs[0].name, f"weight solved as {plan.weight.name} without data")
        for done, (node, how) in enumerate(self._walk(model, waiting) if waiting else ()):
            if self.progress is not None:
                self.progress(done + 1)
            yield Change(node.name or node.outputs[0].name, how)

    def _walk(self, model: ir.Model, waiting: list[ir.Node]) -> Iterator[tuple[ir.Node, str]]:
        """Solve the layers `waiting` in the order in which samples reach them."""
        twin_model, twins = _twin(model)
        samples = list(itertools.islice(iter(self.data), self.samples))
        session = {} if self.settings is None else {"threads": self.settings.threads}
        session["libraries"] = () if self.settings is None else self.settings.custom_op_library
        needed = self.biases or self.attention or not self._unmoving
        true = Walk(model, samples, **session) if needed else None
        walks = Walks(true, Walk(twin_model, samples, **session))
        shared: dict[ir.Value, QuantizedTensor] = {}  # weights that several layers read are solved for the first
        workers, folder = asked(self.settings, self.workers, self.folder)
        with executor_for(workers, self.executor) as executor:
            while waiting:
                free = _free_nodes(model, waiting)
                stage = [node for node in waiting if node in free]
                streams = {node: self._stream(node, twins[node], free) for node in stage}
                walks.over = {n: p.name for n in stage if self.attention and (p := attention_over(n)) is not None}
                if walks.true is not None:
                    names = [n.inputs[0].name for n in stage] + list(walks.over.values())
                    walks.true.reach(names, [s[0].name for s in streams.values() if s])
                walks.twin.reach([twins[n].inputs[0].name for n in stage], [s[1].name for s in streams.values() if s])
                walks.summed.clear()
                tasks = {node: self._task(node, twins[node], streams[node], walks) for node in stage}
                jobs = functools.partial(in_parts, executor=executor, workers=workers, folder=folder)
                yield from _in_order(tasks, shared, jobs)
                waiting = [node for node in waiting if node not in free]

    def _stream(self, node: ir.Node, twin: ir.Node, free: set[ir.Node]) -> tuple[ir.Value, ir.Value] | None:
        """What the layer's output is added to, in both models; None if nothing is, or it is not known yet."""
        if not self.residual or self._unmoving or is_op(node, "Conv"):
            return None
        true, quantized = _added_to(node), _added_to(twin)
        if true is None or quantized is None or (true.producer() is not None and true.producer() not in free):
            return None
        return true, quantized

    @property
    def _unmoving(self) -> bool:
        """Whether weights are rounded as they are."""
        return self.ridge is not None and not np.isfinite(self.ridge)

    def _task(self, node: ir.Node, twin: ir.Node, stream: tuple | None, walks: Walks) -> Task:
        """How to solve one layer and hand the result to the twin."""
        plan, layout = note(node).plan, layout_of(node)
        rows = layout.to_rows(np.asarray(array(node.inputs[1]), np.float32))
        if self._unmoving:
            return self._unmoved(node, twin, rows, walks)

        @functools.cache
        def sums() -> tuple[Regression, float]:
            fit, held_out = _regressions(node, twin, rows, stream, walks)
            ridge = self.ridge
            if ridge is None:
                ridge = choose_ridge(rows, fit, held_out) if fit.count and held_out.count else 1.0
            return fit + held_out, ridge

        def job() -> Job:
            whole, ridge = sums()
            return job_of(node, plan, self.solver, whole.shrunk(), layout.from_rows(fitted(rows, whole, ridge)))

        def settle(chosen: QuantizedTensor) -> str:
            whole, ridge = sums()
            solved = self._settle(node, twin, chosen, whole.shift)
            noise = [decibel(max(whole.error(r), 0) / max(whole.power, 1e-30)) for r in (rows, solved)]
            _log.info("%s: ridge %g, SQNR with float weights %.1f dB, with codes %.1f", node.name, ridge, *noise)
            return f"weight solved as {plan.weight.name} by {self.solver}, ridge {ridge:g}, {noise[1]:.1f} dB"

        return Task(job, settle)

    def _unmoved(self, node: ir.Node, twin: ir.Node, rows: np.ndarray, walks: Walks) -> Task:
        """`_task` where least squares move nothing: no targets are summed up."""
        plan = note(node).plan
        inputs = functools.partial(walks.inputs, node, twin, rows.shape[-1])

        def job() -> Job:
            return job_of(node, plan, self.solver, shrunk(inputs().gram, inputs().count))

        def settle(chosen: QuantizedTensor) -> str:
            solved = self._settle(node, twin, chosen, lambda solved: inputs().shift(rows, solved))
            own = decibel(inputs().noise(rows, solved))
            _log.info("%s: SQNR with codes %.1f dB on its own inputs", node.name, own)
            return f"weight solved as {plan.weight.name} by {self.solver}, {own:.1f} dB"

        return Task(job, settle)

    def _settle(self, node: ir.Node, twin: ir.Node, chosen: QuantizedTensor, shift: Callable) -> np.ndarray:
        """Note the solution and the mean error that it leaves, hand both to the twin; gives the solved rows."""
        note(node).solved, weight = chosen, chosen.decode()
        solved = layout_of(node).to_rows(weight)
        between = note(node).plan.output and is_op(node, "MatMul")  # an Add would stand between product and its Q
        if self.biases and not between:
            note(node).mean_error = shift(solved).reshape(-1)
        _renew(twin, weight, note(node).mean_error)
        return solved


@dataclasses.dataclass(frozen=True)
class Task:
    """A layer about to be solved. job: sums its samples up. settle: notes a solution and says how good it is."""

    job: Callable[[], Job]
    settle: Callable[[QuantizedTensor], str]


@dataclasses.dataclass
class Walks:
    """The float model, if it is needed, and its quantized twin, side by side. Of the current stage: `summed` keeps the
    sums of inputs, `over` names the attention that value projections feed."""

    true: Walk | None
    twin: Walk
    summed: dict[tuple, Inputs] = dataclasses.field(default_factory=dict)
    over: dict[ir.Node, str] = dataclasses.field(default_factory=dict)

    def inputs(self, node: ir.Node, twin: ir.Node, columns: int) -> Inputs:
        """Sums of what the node and its twin read; of each value once."""
        window = window_of(node) if is_op(node, "Conv") else None
        over = self.over.get(node)
        key = (node.inputs[0].name, twin.inputs[0].name, window, over)
        if key not in self.summed:
            found = None
            read = self.twin.arrays(key[1])
            for index, pair in enumerate(
                zip(read if self.true is None else self.true.arrays(key[0]), read, strict=True)
            ):
                true, quantized = (patches(a.astype(np.float32, copy=False), window, index) for a in pair)
                found = found or Inputs.zeros(len(true), columns)
                found.add(true, quantized, self.weights(node, index, true.shape[1]))
            self.summed[key] = found
        return self.summed[key]

    def weights(self, node: ir.Node, index: int, rows: int) -> np.ndarray | None:
        """Of the rows of sample `index` that a value projection reads; None where all count alike."""
        over = self.over.get(node)
        return None if over is None else received(self.true.arrays(over)[index], rows)


def _in_order(tasks: dict[ir.Node, Task], shared: dict, solutions: Callable) -> Iterator[tuple[ir.Node, str]]:
    """Settle layers that know nothing of each other; `shared` grows by the solutions of their weights, `tasks` shrink,
    so that the sums of a layer go with it."""
    first: dict[ir.Value, ir.Node] = {}
    for node in tasks:
        if node.inputs[1] not in shared:
            first.setdefault(node.inputs[1], node)
    found = solutions(tasks[node].job() for node in first.values())
    for node in list(tasks):
        if first.get(node.inputs[1]) is node:
            shared[node.inputs[1]] = next(found)
        yield node, tasks.pop(node).settle(shared[node.inputs[1]])


def _walkable(node: ir.Node) -> bool:
    """A planned product with a constant matrix or kernel whose inputs can be read as rows."""
    plan = note(node).plan
    if not isinstance(plan, Plan) or plan.weight is None or note(node).solved is not None:
        return False
    if plan.weight_index != 1 or is_constant(node.inputs[0]):
        return False
    if isinstance(plan.weight, IntFormat) and plan.weight.bits == 8 and not plan.weight.levels and not plan.inputs:
        return False
    if is_op(node, "Conv"):
        return window_of(node) is not None
    if is_op(node, "Gemm"):
        return not integer(node, "transA", 0) and floats(node, "alpha", 1.0) == 1.0
    return is_op(node, "MatMul") and len(dims_of(node.inputs[1])) == 2


def _twin(model: ir.Model) -> tuple[ir.Model, dict[ir.Node, ir.Node]]:
    """A copy that rounds activations as planned, with the weights that are solved already; node -> its twin."""
    copy = clone(model)
    twins = dict(zip(model.graph, copy.graph, strict=True))
    for twin in twins.values():
        plan, solved = note(twin).plan, note(twin).solved
        if isinstance(plan, Plan) and plan.weight is not None:
            note(twin).plan = dataclasses.replace(plan, weight=None, bias=False)
            if solved is not None:
                _renew(twin, solved.decode(), None, plan.weight_index)
    PlaceQDQ()(copy)
    copy.graph.sort()
    return copy, twins


def _renew(twin: ir.Node, weight: np.ndarray, mean_error: np.ndarray | None, index: int = 1) -> None:
    """Give the twin its solved weight and corrected bias."""
    old = twin.inputs[index]
    dtype = array(old).dtype
    set_input(twin, index, initializer(twin.graph, f"{old.name}_solved", weight.astype(dtype)))
    if mean_error is not None:
        add_to_bias(twin, -mean_error, dtype)


def _free_nodes(model: ir.Model, waiting: list[ir.Node]) -> set[ir.Node]:
    """Nodes that no layer of `waiting` stands before."""
    free, held = set(), set(waiting)
    for node in model.graph:
        sources = (value.producer() for value in reads(node))
        if all(s is None or s.graph is not model.graph or (s in free and s not in held) for s in sources):
            free.add(node)
    return free


def _added_to(node: ir.Node) -> ir.Value | None:
    """The other summand where only a sum reads the product, behind the Add of its bias."""
    value = node.outputs[0]
    for _ in range(2):
        if not only_use(value):
            return None
        use = next(iter(value.uses()))
        if not is_op(use.node, "Add"):
            return None
        other = use.node.inputs[1 - use.idx]
        if not is_constant(other):
            return other if use.node.graph is node.graph else None
        value = use.node.outputs[0]
    return None


def _regressions(node, twin, rows, stream, walks: Walks) -> tuple[Regression, Regression]:
    """Sums over the samples that fit and over those that judge."""
    sums = [Regression.zeros(*rows.shape) for _ in range(2)]
    window = window_of(node) if is_op(node, "Conv") else None
    pairs = zip(walks.true.arrays(node.inputs[0].name), walks.twin.arrays(twin.inputs[0].name), strict=True)
    for index, (true, quantized) in enumerate(pairs):
        x, x_twin = (patches(a.astype(np.float32, copy=False), window, index) for a in (true, quantized))
        y = x @ np.swapaxes(rows, 1, 2)
        if stream is not None:
            lost = walks.true.arrays(stream[0].name)[index] - walks.twin.arrays(stream[1].name)[index]
            if lost.size == y.size:
                y += lost.reshape(y.shape)
        sums[index % _HELD_OUT == _HELD_OUT - 1].add(x_twin, y, walks.weights(node, index, x.shape[1]))
    return sums[0], sums[1]
