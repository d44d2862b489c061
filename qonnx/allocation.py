"""Allocation: which of its choices each layer takes under a budget, solved exactly as a multiple-choice knapsack.

    minimise Σ harm[i, j]·x[i, j]   with   Σ_j x[i, j] = 1,   Σ bytes[i, j]·x[i, j] ≤ budget,   x ∈ {0, 1}

by mixed-integer programming (HiGHS, through scipy). Harm is what a choice does to the model's outputs while everything
else is float; harms of error power add up as long as errors are small and independent, which the report's measured
value beside the predicted one shows. Source: LQ-LoRA (Guo et al. 2023, eq. 4), AdaQuant (Hubara et al. 2021, eq. 8).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from qonnx.errors import QonnxError


@dataclasses.dataclass(frozen=True)
class Choice:
    """One way to store a layer's weight. name: of the format. size: bytes. harm: relative error power, 0 or more."""

    name: str
    size: int
    harm: float


@dataclasses.dataclass(frozen=True)
class Allocation:
    """chosen: position of each layer's choice. size, harm: summed over the layers."""

    chosen: tuple[int, ...]
    size: int
    harm: float


def allocate(layers: Sequence[Sequence[Choice]], budget: float) -> Allocation:
    """The choice for each layer with the least summed harm in at most `budget` bytes.

    Raises QonnxError if even the smallest choices do not fit.
    """
    least = sum(min(choice.size for choice in choices) for choices in layers)
    if least > budget:
        raise QonnxError(
            f"the smallest formats take {least} bytes for the weights and {int(budget)} are allowed; allow more, or "
            "add smaller formats"
        )
    flat = [choice for choices in layers for choice in choices]
    owner = np.repeat(np.arange(len(layers)), [len(choices) for choices in layers])
    once = csr_array((np.ones(len(flat)), (owner, np.arange(len(flat)))), shape=(len(layers), len(flat)))
    sizes, harms = (np.array([getattr(c, name) for c in flat], np.float64) for name in ("size", "harm"))
    if not np.isfinite(harms).all():
        raise QonnxError("a harm is not a finite number; measure it again, or leave that choice out")
    # In units that HiGHS' tolerances (1e-6) suit: harms by the largest, sizes by the budget.
    result = milp(
        harms / max(harms.max(), 1e-30),
        constraints=[LinearConstraint(once, 1, 1), LinearConstraint(sizes[None] / max(budget, 1), -np.inf, 1)],
        integrality=np.ones(len(flat)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 1e-9},
    )
    if result.x is None:
        raise QonnxError(f"the allocation was not solved ({result.message}); try another budget")
    first = np.concatenate([[0], np.cumsum([len(choices) for choices in layers])[:-1]])
    chosen = tuple(
        int(np.argmax(result.x[start : start + len(choices)])) for start, choices in zip(first, layers, strict=True)
    )
    return _summed(layers, chosen)


def cheapest(layers: Sequence[Sequence[Choice]], harm: float) -> Allocation:
    """The smallest allocation whose summed harm is at most `harm`: bisection of the budget.

    Raises QonnxError if no choice is that harmless.
    """
    least = sum(min(c.harm for c in choices) for choices in layers)
    if least > harm:
        raise QonnxError(
            f"the least harmful formats give {_decibel(least)} together, the bound asks for {_decibel(harm)}; "
            "allow more loss, or add larger formats"
        )
    low, high = 0, sum(max(c.size for c in choices) for choices in layers)
    best = allocate(layers, high)
    while low < high:
        middle = (low + high) // 2
        try:
            found = allocate(layers, middle)
        except QonnxError:
            low = middle + 1
            continue
        if found.harm <= harm:
            best, high = found, min(middle, found.size)
        else:
            low = middle + 1
    return best


def pareto(layers: Sequence[Sequence[Choice]], points: int = 12) -> list[Allocation]:
    """Allocations from the smallest to the least harmful, `points` budgets evenly between; dominated ones are left
    out."""
    sizes = [sum(bound(c.size for c in choices) for choices in layers) for bound in (min, max)]
    front: list[Allocation] = []
    for budget in np.linspace(*sizes, points):
        found = allocate(layers, int(np.ceil(budget)))
        if not front or found.harm < front[-1].harm:
            front.append(found)
    return front


def _summed(layers: Sequence[Sequence[Choice]], chosen: tuple[int, ...]) -> Allocation:
    taken = [choices[j] for choices, j in zip(layers, chosen, strict=True)]
    return Allocation(chosen, sum(c.size for c in taken), float(sum(c.harm for c in taken)))


def _decibel(harm: float) -> str:
    return f"{-10 * np.log10(max(harm, 1e-30)):.1f} dB"
