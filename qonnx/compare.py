"""Judge a model against another of equal interface: the engine of `qonnx check`, and the last step of `convert`.

Works on any two ONNX models, whoever made them. Figures are streamed over the samples, so memory does not depend on how
many there are; layers, oracles and latency look at the first few only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Sequence

import onnx_ir as ir

from qonnx.compare_layers import compare_layers
from qonnx.compare_outputs import Feed, Interface, OutputTrial, Score, Source, score_function
from qonnx.comparison import Bounds, Comparison
from qonnx.errors import QonnxError
from qonnx.footprint import disk_bytes, footprint, stored_bytes
from qonnx.fused import fusion, memory_bytes, optimized
from qonnx.latency import latency as measure_latency
from qonnx.model import load
from qonnx.oracles import ORACLES, against_reference
from qonnx.probes import Shapes, shapes
from qonnx.runtime import RUN_ERRORS, session

LAYER_SAMPLES = 2  # samples on which layers are compared; their errors vary little between samples


def _no_progress(items: Iterable, title: str) -> Iterable:
    return items


@dataclasses.dataclass(frozen=True)
class _Setting:
    """How models are run."""

    threads: int | None
    libraries: Sequence[str]
    providers: Sequence[str]

    @property
    def keywords(self) -> dict:
        return dataclasses.asdict(self)


def compare(
    reference: Source,
    result: Source,
    data: Iterable[Feed],
    *,
    oracles: Sequence[str] = ("runtime", "unoptimized", "reference"),
    layers: bool | int = True,
    latency: bool = True,
    threads: int | None = None,
    libraries: Sequence[str] = (),
    providers: Sequence[str] = ("CPUExecutionProvider",),
    metric: str | Score | None = None,
    bounds: Bounds | None = None,
    progress: Callable[[Iterable, str], Iterable] = _no_progress,
) -> Comparison:
    """Everything there is to say about `result` against `reference`.

    Args:
        data: samples, each a dict from input name to array; read once, a sample at a time.
        oracles: keys of ORACLES; "runtime" is always run.
        layers: compare layers on this many samples (True: 2).
        metric: "top1" (data carries integer "label"s) or a function (outputs, sample) -> score, higher is better.
        bounds: limits; those that do not hold are in `Comparison.broken`.
        progress: wraps an iterable and its title, like `rich.progress.track`.
    Raises:
        QonnxError: interfaces differ, the data has no samples or does not fit the inputs.
    """
    for oracle in oracles:
        if oracle not in ORACLES:
            raise QonnxError(f"unknown oracle '{oracle}'; known: {', '.join(ORACLES)}")
    models = _model(reference), _model(result)
    setting = _Setting(threads, libraries, providers)
    interface = Interface.of(*models)
    trial = OutputTrial(interface, oracles, score_function(metric))
    kept = LAYER_SAMPLES if layers is True else max(1, layers)
    samples = trial.over(reference, result, progress(data, "Comparing outputs"), kept, setting.keywords)
    pairs = [(interface.feed(sample), interface.result_feed(sample)) for sample in samples]
    found = Comparison(
        reference=_name(reference, "reference"),
        result=_name(result, "result"),
        samples=trial.samples,
        outputs=trial.outputs(),
        oracles=trial.gaps(),
        coverage=trial.coverage(),
        metric=trial.metric(),
        warnings=interface.warnings,
    )
    with _excused() as excuse:
        measured = tuple(shapes(model, feed, threads, libraries) for model, feed in zip(models, pairs[0], strict=True))
    found = _with_sizes(_warned(found, *excuse), (reference, result), models, {} if excuse else measured[1], setting)
    if not excuse:
        with _excused() as excuse:
            if "reference" in oracles:
                found = _with_reference(found, models[1], pairs[0][1], measured[1], setting)
            if layers:
                found = _with_layers(found, models, pairs, measured, setting, progress)
        found = _warned(found, *excuse)
    if latency:
        sessions = [session(source, **setting.keywords) for source in (reference, result)]
        found = dataclasses.replace(found, latency=measure_latency(*sessions, pairs[0], threads=threads))
    return dataclasses.replace(found, broken=(bounds or Bounds()).broken(found))


def _model(source: Source) -> ir.Model:
    return source if isinstance(source, ir.Model) else load(source)


def _name(source: Source, default: str) -> str:
    return (source.graph.name or default) if isinstance(source, ir.Model) else pathlib.Path(source).name


def _with_sizes(found: Comparison, sources, models, measured: Shapes, setting: _Setting) -> Comparison:
    """Footprints of both models and what the runtime made of the result."""
    prints, graph = [], None
    for source, model in zip(sources, models, strict=True):
        disk = stored_bytes(model) if isinstance(source, ir.Model) else disk_bytes(source)
        try:
            proto = optimized(source, setting.threads, setting.libraries)
            prints.append(footprint(model, disk, memory_bytes(proto.graph)))
            graph = proto.graph
        except RUN_ERRORS as error:
            prints.append(footprint(model, disk, None))
            graph = None
            found = _warned(found, f"the runtime does not show its optimised graph ({str(error).splitlines()[0]})")
    fused = None if graph is None else fusion(models[1], graph, measured)
    return dataclasses.replace(found, reference_footprint=prints[0], result_footprint=prints[1], fusion=fused)


def _with_reference(found: Comparison, model: ir.Model, feed: Feed, measured: Shapes, setting: _Setting) -> Comparison:
    """The specification's opinion of the result's nodes."""
    gaps, coverage = against_reference(model, feed, measured, threads=setting.threads, libraries=setting.libraries)
    return dataclasses.replace(found, oracles=(*found.oracles, *gaps), coverage=(*found.coverage, coverage))


def _with_layers(found: Comparison, models, pairs, measured, setting: _Setting, progress) -> Comparison:
    layers, quantizers, rescaled = compare_layers(
        *models, pairs, measured, threads=setting.threads, libraries=setting.libraries, progress=progress
    )
    return dataclasses.replace(found, layers=layers, quantizers=quantizers, layer_samples=len(pairs), rescaled=rescaled)


@contextlib.contextmanager
def _excused():
    """A list that gets a sentence if the runtime refuses a tapped copy: the verdict on outputs stands without it."""
    sentences: list[str] = []
    try:
        yield sentences
    except RUN_ERRORS as error:
        sentences.append(f"the inside of the models could not be read ({str(error).splitlines()[0][:200]})")


def _warned(found: Comparison, *sentences: str) -> Comparison:
    new = [sentence for sentence in sentences if sentence not in found.warnings]
    return dataclasses.replace(found, warnings=(*found.warnings, *new)) if new else found
