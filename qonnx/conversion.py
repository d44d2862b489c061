"""convert: a float model and a handful of samples in, a small, fast, proven model out.

The road: load → recipe (the passes, in order) → save → compare with the original → report. Nothing is written before
the last pass is done, and the input file is never touched.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from typing import Any

import onnx_ir as ir

import qonnx
from qonnx import notes
from qonnx.compare import compare
from qonnx.comparison import Bounds
from qonnx.data import Data, open_data, split
from qonnx.errors import BoundBroken, QonnxError
from qonnx.families import is_vision_transformer
from qonnx.input_shapes import fix_input_shapes
from qonnx.model import load, save
from qonnx.recipe import Progress, Recipe, choose_recipe
from qonnx.report import Report, timed
from qonnx.settings import Settings, settings_of
from qonnx.targets import target


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What `convert` returns. `path` is the file written, None if only the model was asked for."""

    model: ir.Model
    report: Report
    path: pathlib.Path | None = None


def convert(
    model: str | os.PathLike,
    *,
    data: Any = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Conversion:
    """Quantize the model at path `model`.

    data: anything that `qonnx.data.open_data` takes; without it only weights are quantized. `options` are fields of
    Settings, an alternative to `settings`. Raises QonnxError for bad input (nothing is written then) and BoundBroken if
    nothing could be quantized. A broken accuracy bound is in `report.broken`; the file is written all the same.
    """
    settings = settings or settings_of(options)
    source = load(model)
    where = target(settings.target)
    settings.check_selection(source)
    fix_input_shapes(source, settings.input_shapes)
    samples = None if data is None else _open(data, source, settings)
    has_data = samples is not None or settings.stats is not None
    recipe = choose_recipe(settings, has_data=has_data, vision_transformer=is_vision_transformer(source))
    check_output(settings, model)

    report = Report.start(model, recipe=recipe.to_dict(), target=where.name)
    if samples is None and settings.stats is not None:
        if settings.min_sqnr is not None or settings.max_drop is not None:
            raise QonnxError("--min-sqnr and --max-drop are measured on samples; give --data beside --stats")
        report = report.with_warning(
            "no samples: ranges come from the statistics; nothing was protected, corrected or checked (give --data)"
        )
    judged = _judged(recipe, settings)
    calibration, held_out = _split(samples, judged)
    for record in recipe.run(
        source, target=where, **_fed(data=calibration, held_out=held_out), settings=settings, progress=progress
    ):
        report = report.with_step(record)
    report = report.with_warning(*notes.warnings(source))
    _stamp(source, recipe, report)
    fates = [notes.note(node).fate for node in source.graph.all_nodes()]
    if recipe.quantizes and not any(fate is not None and fate.state == "done" for fate in fates):
        raise BoundBroken(_nothing(source))
    if settings.output is None or settings.dry_run:
        return Conversion(source, report.finish(None, model=source))
    save(source, settings.output, force=settings.force)
    if samples is not None:
        seen = held_out is None or held_out is samples
        if seen:
            remedy = "give ten or more to hold some out" if judged else "run qonnx check on others"
            report = report.with_warning(f"the result was checked on the samples that it was calibrated with; {remedy}")
        with timed("check") as step:
            comparison = compare(
                model,
                settings.output,
                samples if seen else held_out,
                threads=settings.threads,
                libraries=settings.custom_op_library,
                metric=settings.metric,
                bounds=_bounds(settings, report),
                **({"progress": progress.track} if hasattr(progress, "track") else {}),
            )
        report = report.with_step(step.record)
        return Conversion(source, report.finish(settings.output, model=source, comparison=comparison), settings.output)
    return Conversion(source, report.finish(settings.output, model=source), settings.output)


def _bounds(settings: Settings, report: Report) -> Bounds:
    """What the user asked of the result."""
    share = None if settings.size is None else settings.size / report.reference.bytes
    return Bounds(min_sqnr=settings.min_sqnr, max_drop=settings.max_drop, max_size=share)


def check_output(settings: Settings, model: str | os.PathLike) -> None:
    """Refuse, before any work, an output that would overwrite the input or an existing file."""
    output = settings.output
    if output is None:
        return
    if output.exists() and os.path.samefile(output, model):
        raise QonnxError(f"output '{output}' is the input itself; choose another name with -o")
    if output.exists() and not settings.force and not settings.dry_run:
        raise QonnxError(f"'{output}' exists; pass --force to overwrite it or choose another name with -o")
    if not output.parent.is_dir():
        raise QonnxError(f"folder '{output.parent}' does not exist; create it or choose another name with -o")


def _open(data: Any, model: ir.Model, settings: Settings) -> Data:
    return open_data(
        data,
        model,
        preprocess=settings.preprocess,
        limit=settings.samples,
        seed=settings.seed,
        labels=settings.metric is not None,
    )


def _fed(**samples: Data | None) -> dict[str, Data | None]:
    """What passes run models on: inputs alone, without the labels of a metric."""
    return {name: None if one is None else one.unlabelled() for name, one in samples.items()}


def _judged(recipe: Recipe, settings: Settings) -> bool:
    """Whether a pass judges results while it converts: 'protect', by the user's bounds or by its own."""
    if not any(step.name == "protect" for step in recipe.steps):
        return False
    asked = settings.min_sqnr is not None or settings.max_drop is not None
    return asked or any(s.options.get("min_sqnr", 0.0) > -math.inf for s in recipe.steps if s.name == "protect")


def _split(samples: Data | None, judged: bool) -> tuple[Any, Any]:
    """Samples to calibrate on and samples to judge on: every fifth is held out where there are at least ten."""
    if samples is None or not judged:
        return samples, None
    count = _count(samples)
    return split(samples, 5) if count >= 10 else (samples, samples)


def _count(samples: Data) -> int:
    try:
        return len(samples)
    except TypeError:
        return sum(1 for _ in samples)


def _stamp(model: ir.Model, recipe: Recipe, report: Report) -> None:
    """Say in the file itself where it came from and how it was made."""
    model.metadata_props["qonnx.version"] = qonnx.__version__
    model.metadata_props["qonnx.recipe"] = json.dumps(recipe.to_dict(), sort_keys=True)
    model.metadata_props["qonnx.source_sha256"] = report.reference.sha256
    model.producer_name, model.producer_version = "qonnx", qonnx.__version__


def _nothing(model: ir.Model) -> str:
    """Why nothing was quantized: the most frequent reason of the ledger."""
    from collections import Counter

    fates = Counter(
        notes.REASONS[fate.reason] for node in model.graph.all_nodes() if (fate := notes.note(node).fate) is not None
    )
    why = fates.most_common(1)[0][0] if fates else "no operator of this model can be quantized"
    return f"nothing was quantized: {why}; see what is in the model with 'qonnx inspect'"
