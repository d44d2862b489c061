"""Search ranges: grids of few levels for a product of two activations, chosen by the error of what it computes.

With codes X̂, Ŷ of the operands of X Yᵀ, the error is ‖X̂ Ŷᵀ − X Yᵀ‖². For one operand at a time, the other held, that is

    tr(E G Eᵀ) + 2 ⟨E, T⟩ + constant,   E = X̂ − X,   G = Ŷᵀ Ŷ,   T = X (Ŷ − Y)ᵀ Ŷ,

so that a candidate grid costs one rounding and one small product. Both ends of a range move, in turn for both operands,
coarse then fine around the best, as in AdaLog's progressive search (FPCS, ECCV 2024, section 3.3); what is cut off is
what the product can spare. Scores are judged after each query's mean over the keys, which a softmax does not see.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from qonnx.calibrate import run
from qonnx.lean import lean_session
from qonnx.notes import note
from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import is_constant, is_op
from qonnx.plan import Encoding, Plan, encoding
from qonnx.probes import tapped

_MOST = 64  # levels: with more, nothing needs to be cut off
_AT_ONCE = 4  # products whose operands are held in memory


@dataclasses.dataclass
class SearchRanges(Pass):
    """Choose the grids of products of two activations by their output. samples: of the data to use at most; 0 leaves
    the ranges as they are. rounds: how often each operand is searched. least: of a range that may be left, 0…1."""

    data: Any
    settings: Any = None
    samples: int = 8
    rounds: int = 2
    least: float = 0.3

    needs = ("assign",)
    tolerance = 0.0

    def changes(self, model: ir.Model) -> Iterator[Change]:
        products = [node for node in model.graph if _searched(node)] if self.data is not None and self.samples else []
        settings = self.settings
        for start in range(0, len(products), _AT_ONCE):
            group = products[start : start + _AT_ONCE]
            names = sorted({value.name for node in group for value in node.inputs})
            libraries = () if settings is None else settings.custom_op_library
            session = lean_session(tapped(model, names), threads=settings and settings.threads, libraries=libraries)
            runs = [
                dict(zip(names, run(session, names, feeds, index), strict=True))
                for index, feeds in enumerate(itertools.islice(iter(self.data), self.samples))
            ]
            for node in group:
                pairs = [[found[value.name] for value in node.inputs] for found in runs]
                yield from self._search(node, pairs)

    def _search(self, node: ir.Node, pairs: list[list[np.ndarray]]) -> Iterator[Change]:
        formats = [note(node).plan.inputs[index] for index in (0, 1)]
        grids = [note(value).encodings[format.name] for value, format in zip(node.inputs, formats, strict=True)]
        scores = note(node.outputs[0]).role == "scores"
        rows = [(np.float32(x), np.float32(y).swapaxes(-1, -2)) for x, y in pairs]
        found = list(grids)
        for index in [0, 1] * self.rounds:
            problems = [_problem(pair, found, index, scores) for pair in rows]
            found[index] = self._best(found[index], grids[index], problems, node.inputs[index].dtype)
        for value, format, old, new in zip(node.inputs, formats, grids, found, strict=True):
            if new != old:
                note(value).encodings[format.name] = new
                yield Change(
                    value.name, f"range {old.low:.4g} to {old.high:.4g} becomes {new.low:.4g} to {new.high:.4g}"
                )

    def _best(self, current: Encoding, whole: Encoding, problems: list[Problem], dtype: ir.DataType | None) -> Encoding:
        """The grid of least error; shares of both ends of `whole`, coarse then fine."""

        def grid(shares: tuple[float, float]) -> Encoding:
            return encoding(whole.format, shares[0] * whole.low, shares[1] * whole.high, dtype)

        def error(one: Encoding) -> float:
            return sum(problem.error(one) for problem in problems)

        tied = whole.format.symmetric
        best, shares, step = current, (1.0, 1.0), (1 - self.least) / 4
        least = error(current)
        for steps in (np.arange(5), np.array([-2, -1, 1, 2]) / 3):
            centre = (self.least, self.least) if steps[0] == 0 else shares
            ends = [np.clip(at + step * steps, self.least, 1.0) for at in centre]
            for low, high in itertools.product(*ends) if not tied else zip(*ends, strict=True):
                candidate = grid((low, high))
                harm = error(candidate)
                if harm < least:
                    best, shares, least = candidate, (low, high), harm
        return best


@dataclasses.dataclass(frozen=True)
class Problem:
    """The error of one operand's grid on one sample: x [..., M, K], gram [..., K, K], cross [..., M, K]; centred: the
    mean over the rows of the error does not count."""

    x: np.ndarray
    gram: np.ndarray
    cross: np.ndarray
    centred: bool

    def error(self, grid: Encoding) -> float:
        change = grid.quantize(self.x) - self.x
        if self.centred:
            change -= change.mean(-2, keepdims=True)
        return float(np.vdot(change @ self.gram + 2 * self.cross, change))


def _problem(pair: tuple[np.ndarray, np.ndarray], grids: list[Encoding], index: int, scores: bool) -> Problem:
    """Operand `index` of X Yᵀ is to be searched, the other rounded by its grid. `scores`: rows of Y are the keys."""
    x, y = pair[index], pair[1 - index]
    rounded = grids[1 - index].quantize(y)
    change = rounded - y
    if scores and index == 0:
        rounded, change = (part - part.mean(-2, keepdims=True) for part in (rounded, change))
    centred = scores and index == 1
    held = x - x.mean(-2, keepdims=True) if centred else x
    return Problem(x, rounded.swapaxes(-1, -2) @ rounded, held @ (change.swapaxes(-1, -2) @ rounded), centred)


def _searched(node: ir.Node) -> bool:
    """Whether it multiplies two activations, both planned on plain grids of few levels."""
    plan = note(node).plan
    if not is_op(node, "MatMul") or not isinstance(plan, Plan) or plan.attention is not None:
        return False
    if set(plan.inputs) != {0, 1} or any(is_constant(value) for value in node.inputs):
        return False
    return all(
        2 <= plan.inputs[index].levels <= _MOST and plan.inputs[index].name in note(value).encodings
        for index, value in enumerate(node.inputs)
    )
