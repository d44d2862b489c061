"""One converted model in several runtimes: does it load, how far is it from the file's own word, how fast, how large.

ONNX Runtime without optimisation follows the file node by node; every other runtime is judged against it, and against
the float model for what is left of the accuracy there. A runtime that is missing is a row that says how to get it; one
that fails is a row that says at which operator and why.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx

from qonnx.compare_outputs import Interface
from qonnx.differences import Difference, Figures
from qonnx.disagreement import Reason, reason
from qonnx.errors import QonnxError
from qonnx.exports import written_as
from qonnx.model import load
from qonnx.options import nearest
from qonnx.runtime import session
from qonnx.runtimes import RUNTIMES, Runtime
from qonnx.runtimes.exchange import Job, Result, read_result
from qonnx.runtimes.ort import arithmetic
from qonnx.scores import TopOne
from qonnx.wording import decibel, duration, percent, plain, size

JUDGE = "ort-unoptimized"
EXPLAINED = 30.0  # dB: a runtime that agrees less is looked at operator by operator
SAMPLES = 4  # that every runtime runs, unless more are asked for
Feed = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class RuntimeRow:
    """One runtime. `state`: "ran", "failed" or "missing" (then `note` says why, or how to get it).

    agreement: against ONNX Runtime node by node, the worst output. top1: share of rows with the same largest entry,
    None where no output chooses. float_sqnr_db: against the float model. seconds: median of one sample. memory: bytes.
    reason: where agreement is under EXPLAINED dB, what each operator has to do with it.
    """

    runtime: str
    title: str
    state: str
    note: str = ""
    version: str = ""
    agreement: Figures | None = None
    top1: float | None = None
    float_sqnr_db: float | None = None
    load: float | None = None
    seconds: float | None = None
    memory: int | None = None
    fused: str = ""
    reason: Reason | None = None


def run_everywhere(
    reference: str | os.PathLike | None,
    result: str | os.PathLike,
    data: Iterable[Feed],
    runtimes: Sequence[str] = ("all",),
    *,
    samples: int = SAMPLES,
    threads: int = 2,
    libraries: Sequence[str] = (),
    node_modules: pathlib.Path | None = None,
    seconds: float = 2.0,
    progress: Callable[[Iterable, str], Iterable] = lambda items, title: items,
) -> tuple[RuntimeRow, ...]:
    """Run the model at path `result` in `runtimes` (keys of RUNTIMES, or "all"), on the first `samples` of `data`.

    reference: the float model, for the figures against it. node_modules: folder of npm packages.
    Raises QonnxError for an unknown runtime, no samples, or a model that ONNX Runtime itself refuses.
    """
    chosen = _chosen(runtimes)
    model = load(result)
    interface = Interface.of(model if reference is None else load(reference), model)
    kept = list(itertools.islice(data, samples))
    if not kept:
        raise QonnxError("the data has no samples; pass at least one with --data")
    feeds, outputs = [interface.result_feed(sample) for sample in kept], tuple(interface.outputs.values())
    way = {"threads": threads, "libraries": libraries}
    expected = _run(session(result, optimization="none", **way), feeds, outputs)
    floats = None
    if reference is not None:
        floats = _run(session(reference, **way), [interface.feed(sample) for sample in kept], tuple(interface.outputs))
    manner = _Manner(threads, tuple(map(os.path.abspath, libraries)), node_modules, seconds)
    rows = []
    for name in progress(chosen, "Running"):
        runtime = RUNTIMES[name]
        if why := runtime.missing(node_modules):
            rows.append(RuntimeRow(name, runtime.title, "missing", why))
            continue
        try:
            found = _whole(name, manner, result, feeds, outputs)
            row = _row(name, runtime, found, expected, floats)
            if row.agreement.sqnr_db < EXPLAINED:
                row = dataclasses.replace(row, reason=_reason(name, manner, result, feeds[0], found))
            rows.append(row)
        except QonnxError as error:
            rows.append(RuntimeRow(name, runtime.title, "failed", str(error)))
    return tuple(rows)


def _chosen(runtimes: Sequence[str]) -> list[str]:
    if "all" in runtimes:
        return list(RUNTIMES)
    for name in runtimes:
        if name not in RUNTIMES:
            raise QonnxError(f"unknown runtime '{name}'; {nearest(name, RUNTIMES)} (or 'all')")
    return list(dict.fromkeys(runtimes))


def _run(opened, feeds: Sequence[Feed], outputs: Sequence[str]) -> list[Feed]:
    return [dict(zip(outputs, opened.run(list(outputs), feed), strict=True)) for feed in feeds]


@dataclasses.dataclass(frozen=True)
class _Manner:
    """How every runtime is asked to run: fields of Job, and where npm packages are."""

    threads: int
    libraries: tuple[str, ...]
    node_modules: pathlib.Path | None
    seconds: float

    def done(self, name: str, folder: pathlib.Path, feeds: Sequence[Feed], outputs: tuple[str, ...]) -> Result:
        """Run "model.onnx" of `folder` in the runtime `name`; QonnxError with what it says if it fails."""
        runtime = RUNTIMES[name]
        job = Job(folder, name, "model.onnx", tuple(feeds), outputs, threads=runtime.threads or self.threads)
        job = dataclasses.replace(job, seconds=self.seconds, libraries=self.libraries)
        job.write()
        runtime.run(job, self.node_modules)
        return read_result(folder, runtime.title)


def _whole(
    name: str, manner: _Manner, source: str | os.PathLike, feeds: list[Feed], outputs: tuple[str, ...]
) -> Result:
    """The model at path `source`, in the form that the runtime reads."""
    with tempfile.TemporaryDirectory(prefix="qonnx-", ignore_cleanup_errors=True) as place:
        folder = pathlib.Path(place)
        written_as(source, RUNTIMES[name].form, folder / "model.onnx")
        found = manner.done(name, folder, feeds, outputs)
        optimized = folder / "node_optimized.onnx"
        if not found.fused and optimized.exists():
            graph = onnx.load(optimized, load_external_data=False).graph
            found = dataclasses.replace(found, fused=arithmetic([node.op_type for node in graph.node]))
        return found


def _reason(name: str, manner: _Manner, source: str | os.PathLike, feed: Feed, found: Result) -> Reason | None:
    """Each operator on its own in that runtime, on the first sample; None if the model has no quantizers."""
    untimed = dataclasses.replace(manner, seconds=0, libraries=())
    run = lambda folder, codes, outputs: untimed.done(name, folder, (codes,), outputs).samples[0]  # noqa: E731 - as short as what it does
    return reason(source, run, feed, found.samples[0], manner.threads)


def _row(name: str, runtime: Runtime, found: Result, expected: list[Feed], floats: list[Feed] | None) -> RuntimeRow:
    names = list(expected[0])
    worst, top = None, []
    for output in names:
        difference, choice = Difference(), TopOne(output)
        for right, got in zip(expected, found.samples, strict=True):
            if right[output].shape != got[output].shape:
                raise QonnxError(
                    f"output '{output}' has shape {list(got[output].shape)}, not {list(right[output].shape)}"
                )
            difference.add(right[output], got[output])
            choice.add(right[output], got[output])
        if worst is None or difference.figures.sqnr_db < worst.sqnr_db:
            worst = difference.figures
        top += [] if choice.agreement is None else [choice.agreement]
    against_float = []
    for place, output in enumerate(names if floats is not None else ()):
        difference = Difference()
        for right, got in zip(floats, found.samples, strict=True):
            difference.add(list(right.values())[place], got[output])
        against_float.append(difference.figures.sqnr_db)
    return RuntimeRow(
        runtime=name,
        title=runtime.title,
        state="ran",
        version=found.version,
        agreement=worst,
        top1=min(top, default=None),
        float_sqnr_db=min(against_float, default=None),
        load=found.load,
        seconds=statistics.median(found.seconds),
        memory=found.memory,
        fused=found.fused,
    )


def markdown(rows: Sequence[RuntimeRow]) -> str:
    """The rows as a Markdown table, for documents."""
    lines = ["| runtime | loads | SQNR | max error | top-1 | against float | latency | memory | what it made of it |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        if row.state != "ran":
            lines.append(f"| {row.runtime} | {row.state} | | | | | | | {row.note} |")
            continue
        figures = [decibel(row.agreement.sqnr_db), plain(row.agreement.max_abs), percent(row.top1)]
        figures += [
            decibel(row.float_sqnr_db),
            duration(row.seconds),
            size(row.memory),
            row.fused or "it does not tell",
        ]
        lines.append(f"| {row.runtime} ({row.version}) | yes | {' | '.join(figures)} |")
    for row in (row for row in rows if row.reason):
        lines += ["", f"{row.runtime}, every operator on its own: {row.reason}."]
    return "\n".join(lines) + "\n"
