"""What a pass is: one named change to a Model, which says everything that it does.

A pass is an `onnx_ir` in-place pass whose work is a generator of `Change`: it cannot forget to report, and "modified"
cannot be wrong, because it is the number of changes. Options are dataclass fields, so that a recipe, the command line
and the API share one list of names. The fields `target`, `data` and `settings` are filled by the recipe.

Laws (tests/test_pass_laws.py holds every entry of PASSES to them on every tiny model): the result passes the full
checker; outputs agree within `tolerance`; a second application changes nothing; graph inputs and outputs keep name,
type and shape; no dead nodes or initializers remain; two runs give the same bytes.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import onnx_ir as ir


@dataclasses.dataclass(frozen=True)
class Change:
    """One thing that a pass did."""

    subject: str  # name of the node or value, as in the file
    what: str  # in a few words: "folded into Conv_3"


@dataclasses.dataclass
class PassResult(ir.passes.PassResult):
    """The model and the changes made to it."""

    changes: tuple[Change, ...] = ()


class Pass(ir.passes.InPlacePass):
    """Base of all passes. Subclasses are dataclasses; they implement `changes`."""

    # Largest relative error (max |a-b| / max |a|) that the pass may cause; None: it is meant to lose precision.
    tolerance: ClassVar[float | None] = 1e-5
    # Walks bodies of If/Loop/Scan and local functions too. A pass that does not says so here.
    recurses: ClassVar[bool] = True

    @abc.abstractmethod
    def changes(self, model: ir.Model) -> Iterator[Change]:
        """Change `model` in place and yield what was done."""

    def call(self, model: ir.Model) -> PassResult:
        made = tuple(self.changes(model))
        return PassResult(model, bool(made), made)
