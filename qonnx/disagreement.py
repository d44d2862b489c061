"""Why one runtime disagrees with ONNX Runtime node by node: each operator on its own, and what its roundings are worth.

Two questions are asked of one sample. Which units of the model give other codes when they are fed with the right ones?
And if ONNX Runtime itself moved its codes by these few steps, how far would it be from itself? Deep networks amplify:
one code of 200,000 moved by one step can take the outputs to 25 dB. A runtime that is as far off as its roundings alone
would be is right, as far as can be told; one that is further off has another fault.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from qonnx.differences import Difference
from qonnx.exports import written_as
from qonnx.model import load, save
from qonnx.runtime import session
from qonnx.units import UnitGap, cut, gaps, shifted
from qonnx.wording import decibel

_NEAR = 6.0  # dB: two runs that amplify the same roundings part about equally far, and no closer than this
Feed = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Reason:
    """What was found on one sample. `units`: operator types that differ, worst first, and those that do not.

    observed_db: SQNR of the runtime against ONNX Runtime node by node, worst output. together_db: SQNR of ONNX Runtime
    node by node with all these steps in its codes against itself without.
    """

    units: tuple[UnitGap, ...]
    observed_db: float
    together_db: float

    @property
    def verdict(self) -> str:
        """A clause: whether roundings are the whole reason."""
        worst = self.units[0]
        if worst.steps > 1:
            return f"{worst.operator} '{worst.worst}' is off by {worst.steps} steps, which is no rounding"
        own = f"these roundings alone, in ONNX Runtime node by node, leave {decibel(self.together_db)}"
        seen = f"{decibel(self.observed_db)} were seen"
        if self.together_db <= self.observed_db + _NEAR:
            return f"{own} ({seen}): the model amplifies them, no operator is wrong"
        return f"{own}, but {seen}: look at the operators between quantizers and at those without"

    def __str__(self) -> str:
        return f"{'; '.join(map(str, self.units))}. {self.verdict[:1].upper()}{self.verdict[1:]}"


def reason(
    result: str, run: Callable[[pathlib.Path, Feed, tuple[str, ...]], Feed], feed: Feed, got: Feed, threads: int
) -> Reason | None:
    """Look into the disagreement on one sample `feed`, for which the runtime gave the outputs `got`.

    run: runs "model.onnx" of a folder in the runtime, on a feed, for the named outputs. None if the model has no
    quantizers.
    """
    with tempfile.TemporaryDirectory(prefix="qonnx-", ignore_cleanup_errors=True) as name:
        folder = pathlib.Path(name)
        written_as(result, "inlined", folder / "plain.onnx")
        whole = load(folder / "plain.onnx")
        made = cut(load(folder / "plain.onnx"), feed, threads)
        if made is None:
            return None
        save(made.model, folder / "model.onnx")
        found = run(folder, made.feed, tuple(made.operators))
        right = _outputs(whole, feed, got, threads)
        alone = lambda operator: _apart(right, _outputs(shifted(whole, made, found, operator), feed, got, threads))  # noqa: E731 - one expression, used twice
        units = gaps(made, found)
        differing = [row for row in units if row.steps]
        together = alone(None) if differing else float("inf")
        if len(differing) == 1:
            rows = (dataclasses.replace(row, alone_db=together) if row.steps else row for row in units)
        else:
            rows = (dataclasses.replace(row, alone_db=alone(row.operator)) if row.steps else row for row in units)
        return Reason(tuple(rows), _apart(right, got), together)


def _outputs(model: ir.Model, feed: Feed, like: Feed, threads: int) -> Feed:
    """Outputs of ONNX Runtime node by node, under the names of `like`."""
    opened = session(model, optimization="none", threads=threads)
    return dict(zip(like, opened.run(list(like), dict(feed)), strict=True))


def _apart(right: Feed, got: Feed) -> float:
    """SQNR in dB of the output that is furthest off."""
    worst = float("inf")
    for name in right:
        difference = Difference()
        difference.add(right[name], got[name])
        worst = min(worst, difference.figures.sqnr_db)
    return worst
