"""Allocate: a format for every matrix so that all together harm least in the bytes, or bits, that they may take.

Every layer that `assign_weights` planned in blocks gets a list of choices, integers and code books, with their bytes
and their measured harm (passes.weight_choices). Budgets, of which the first that is given counts:

1. `size`: bytes of the whole file; what else is in it is taken off first;
2. a bound of the user's on the result (settings `min_sqnr`, `max_drop`) without a number of bits: the smallest choices
   of the Pareto front whose measured harm holds it, found by bisection. Harm is measured with plain rounding, on which
   solvers gain, so that the bound holds with room. `max_drop` speaks of the agreement of the largest outputs here,
   which no accuracy can fall short of by more;
3. `average`: bits a weight, with scales, zero points and books.

The knapsack is solved exactly (qonnx.allocation); the report says the harm that was predicted and the one measured.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import onnx_ir as ir

from qonnx.allocation import Allocation, allocate, pareto
from qonnx.codebooks import CODEBOOKS
from qonnx.errors import QonnxError
from qonnx.harm import Harm, Judge, decibel, judge
from qonnx.notes import note, warn
from qonnx.options import check_names
from qonnx.passes.assign_weights import STORED
from qonnx.passes.base import Change, Pass
from qonnx.passes.weight_choices import Menu, Survey, survey
from qonnx.targets import Target
from qonnx.wording import size

_POINTS = 32  # of the front on which a bound is sought
BOOKS = ("1x8v8", "1x8v4", "1x8v3", "2x8v6", "3x8v8", "2x8v4")


@dataclasses.dataclass
class Allocate(Pass):
    """Give each layer its own format.

    data: samples to measure harm on, `samples` of them. bits, books: what a layer may get, as far as the target takes
    it. average: bits a weight. size: bytes of the file, in place of `average`. reference: bits at which harm is
    measured. runs: of the model at most to measure layers, which share them where there are more.
    Where the smallest choices take more than asked: raises QonnxError if the user asks, takes them if a recipe does.
    """

    data: Any
    target: Target
    settings: Any = None
    bits: tuple[int, ...] = (2, 3, 4, 5, 6, 8)
    books: tuple[str, ...] = BOOKS
    average: float = 4.5
    size: int | None = None
    reference: int = 4
    samples: int = 4
    runs: int = 100
    progress: Callable[[int], None] | None = None

    needs = ("assign_weights",)
    tolerance = 0.0
    recurses: ClassVar[bool] = False  # harm is measured in the main graph; bodies keep their plan
    counts_layers: ClassVar[bool] = True

    def __post_init__(self):
        unknown = [bits for bits in (*self.bits, self.reference) if bits not in STORED]
        if unknown:
            raise QonnxError(f"{unknown[0]} bits are no choice; take some of {', '.join(map(str, sorted(STORED)))}")
        check_names(self.books, CODEBOOKS, "code-book format", "in option 'books' of pass 'allocate'")

    def changes(self, model: ir.Model) -> Iterator[Change]:
        found = self.survey(model)
        if found is None:
            return
        allocation = self._allocation(model, found)
        nodes, changed = list(model.graph), False
        for indices, format in zip(found.layers, found.chosen(allocation), strict=True):
            for node in (nodes[index] for index in indices):
                if format != note(node).plan.weight:
                    changed = True
                    note(node).plan = dataclasses.replace(note(node).plan, weight=format)
                    yield Change(node.name or node.outputs[0].name, str(note(node).plan))
        if changed:
            together = found.measure(allocation).noise
            warn(
                model,
                f"formats were chosen layer by layer: {allocation.size / 1e6:.2f} MB, "
                f"{8 * allocation.size / found.weights:.2f} bits a weight; predicted {decibel(allocation.harm):.1f} dB "
                f"at the outputs, measured {decibel(together):.1f} dB, both with plain rounding",
            )

    def survey(self, model: ir.Model) -> Survey | None:
        """The choices of each layer; None without layers or samples."""
        if self.data is None:
            return None
        menu = Menu(self.bits, self.books, self.reference, self.runs)
        return survey(model, menu, self.target, self._judge(model), self.progress)

    def _judge(self, model: ir.Model) -> Judge:
        threads = None if self.settings is None else self.settings.threads
        libraries = () if self.settings is None else self.settings.custom_op_library
        some = itertools.islice(iter(self.data), self.samples)
        return judge(model, some, threads, libraries, squashed=self._bounded())

    def _bounded(self) -> bool:
        """Case 2."""
        given = self.settings
        if given is None or self.size is not None or given.bits is not None:
            return False
        return given.min_sqnr is not None or given.max_drop is not None

    def _allocation(self, model: ir.Model, found: Survey) -> Allocation:
        least = sum(min(choice.size for choice in choices) for choices in found.choices)
        if self.size is not None:
            if least > self.size - found.rest:
                raise QonnxError(
                    f"a file of {size(self.size)} is below the smallest possible, {size(least + found.rest)}, of which "
                    f"{size(found.rest)} are not up for choice; allow more"
                )
            return allocate(found.choices, self.size - found.rest)
        if self._bounded():
            return self._within(model, found)
        smallest = 8 * least / found.weights
        if smallest > self.average:
            below = f"{self.average:g} bits a weight are below the smallest possible average, {smallest:.2f}"
            if self.settings is not None and self.settings.bits is not None:
                raise QonnxError(f"{below}; allow more")
            warn(model, f"{below}, which small layers' scales make up; the smallest formats were taken")
        return allocate(found.choices, max(self.average * found.weights / 8, least))

    def _within(self, model: ir.Model, found: Survey) -> Allocation:
        """The first of the front whose measured harm holds the bounds, by bisection; else the least harmful."""
        front = pareto(found.choices, _POINTS)
        low, high = 0, len(front)
        while low < high:
            middle = (low + high) // 2
            if self._holds(found.measure(front[middle])):
                high = middle
            else:
                low = middle + 1
        if low == len(front):
            warn(model, "no choice of formats holds the bound with plain rounding; the least harmful ones were taken")
        return front[min(low, len(front) - 1)]

    def _holds(self, harm: Harm) -> bool:
        least, drop = self.settings.min_sqnr, self.settings.max_drop
        return (least is None or decibel(harm.noise) >= least) and (drop is None or harm.disagreement <= drop)
