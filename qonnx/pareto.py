"""The Pareto front of a model: what its outputs lose at every size, layer by layer formats chosen for each.

The recipe runs as far as its pass `allocate`, whose survey of the layers then serves every budget: the least harm that
any choice of formats reaches in so many bytes, as predicted from single layers and as measured with all together.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from typing import Any

from qonnx.allocation import pareto
from qonnx.data import open_data
from qonnx.errors import QonnxError
from qonnx.harm import decibel
from qonnx.input_shapes import fix_input_shapes
from qonnx.model import load
from qonnx.passes import PASSES
from qonnx.recipe import BUDGET_RECIPE, Progress, Recipe, choose_recipe
from qonnx.settings import Settings
from qonnx.targets import target


@dataclasses.dataclass(frozen=True)
class Point:
    """One budget. size: bytes of the file. bits: a weight, scales and books included, over the layers up for choice.
    predicted, measured: dB at the outputs, both with plain rounding. agreement: share of rows whose largest output
    stays, 0…1. formats: name -> layers that get it."""

    size: int
    bits: float
    predicted: float
    measured: float
    agreement: float
    formats: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Front:
    """Points by growing size. model: file name; bytes: of the float file; layers: up for choice."""

    model: str
    bytes: int
    layers: int
    recipe: str
    samples: int
    points: tuple[Point, ...]


def front(
    model: str | os.PathLike,
    *,
    data: Any,
    settings: Settings,
    points: int = 12,
    progress: Progress | None = None,
) -> Front:
    """The front of the model at path `model` at up to `points` budgets, on `data` (see qonnx.data.open_data).

    Raises QonnxError without data, or where the recipe does not share out bits or finds no layer to choose for.
    """
    if data is None:
        raise QonnxError("a front is measured on samples; give --data")
    if points < 2:
        raise QonnxError(f"a front of {points} point is no front; give --points 2 or more")
    source, where = load(model), target(settings.target)
    settings.check_selection(source)
    fix_input_shapes(source, settings.input_shapes)
    samples = open_data(
        data, source, preprocess=settings.preprocess, limit=settings.samples, seed=settings.seed, labels=False
    ).unlabelled()
    recipe = choose_recipe(dataclasses.replace(settings, recipe=settings.recipe or BUDGET_RECIPE), has_data=True)
    names = [step.name for step in recipe.steps]
    if "allocate" not in names:
        raise QonnxError(
            f"recipe '{recipe.name}' does not share out bits; give one with pass 'allocate', as {BUDGET_RECIPE}"
        )
    last = names.index("allocate")
    before = Recipe(recipe.name, recipe.title, recipe.steps[:last])
    before.run(source, target=where, data=samples, settings=settings, progress=progress)
    tick = None if progress is None else lambda done: progress("allocate", done, None)
    allocate = PASSES["allocate"](
        data=samples, target=where, settings=settings, progress=tick, **recipe.steps[last].options
    )
    found = allocate.survey(source)
    if found is None:
        raise QonnxError("no layer of this model takes weights in blocks; there is nothing to choose")
    measured = []
    for number, allocation in enumerate(pareto(found.choices, points)):
        harm = found.measure(allocation)
        formats = Counter(format.name for format in found.chosen(allocation))
        bits = 8 * allocation.size / found.weights
        db = decibel(allocation.harm), decibel(harm.noise)
        measured.append(Point(allocation.size + found.rest, bits, *db, 1 - harm.disagreement, dict(formats)))
        if progress is not None:
            progress("front", number + 1, points)
    size = os.stat(model).st_size
    return Front(os.path.basename(model), size, len(found.layers), recipe.name, allocate.samples, tuple(measured))
