"""Outputs of two models over all samples: figures, agreement of choices, a task metric, and the gap between oracles."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from qonnx.comparison import Metric, OracleCoverage, OracleGap, OutputError
from qonnx.data import LABELS
from qonnx.differences import Difference
from qonnx.errors import QonnxError
from qonnx.oracles import runner
from qonnx.runtime import RUN_ERRORS
from qonnx.scores import TopOne

Feed = Mapping[str, np.ndarray]
Source = ir.Model | str | os.PathLike
Score = Callable[[Mapping[str, np.ndarray], Feed], float]


@dataclasses.dataclass(frozen=True)
class Interface:
    """Inputs and outputs of the reference, and what the result calls them."""

    inputs: dict[str, str]
    outputs: dict[str, str]
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, reference: ir.Model, result: ir.Model) -> Interface:
        """Paired by name, else by position if both have as many; QonnxError if they have not."""
        pairs, warnings = [], []
        for what in ("inputs", "outputs"):
            ours, theirs = ([v.name for v in getattr(m.graph, what)] for m in (reference, result))
            if what == "inputs":  # files of IR version 3 list their weights among the inputs
                ours, theirs = (
                    [n for n in names if n not in m.graph.initializers]
                    for names, m in ((ours, reference), (theirs, result))
                )
            if set(ours) == set(theirs):
                theirs = ours
            elif len(ours) != len(theirs):
                raise QonnxError(
                    f"the models cannot be compared: {what} are {', '.join(ours)} and {', '.join(theirs)}; "
                    "pass two models of one interface"
                )
            else:
                renamed = ", ".join(f"{a} → {b}" for a, b in zip(ours, theirs, strict=True) if a != b)
                warnings.append(f"{what} are paired by position, their names differ: {renamed}")
            pairs.append(dict(zip(ours, theirs, strict=True)))
        return cls(*pairs, tuple(warnings))

    def feed(self, sample: Feed) -> dict[str, np.ndarray]:
        """What the reference is fed with; entries that are no inputs (labels) are left out."""
        missing = [name for name in self.inputs if name not in sample]
        if missing:
            raise QonnxError(
                f"the data lacks input '{missing[0]}'; it has {', '.join(map(str, sample)) or 'nothing'}, "
                f"the model wants {', '.join(self.inputs)}"
            )
        return {name: np.asarray(sample[name]) for name in self.inputs}

    def result_feed(self, sample: Feed) -> dict[str, np.ndarray]:
        return {self.inputs[name]: array for name, array in self.feed(sample).items()}


def score_function(metric: str | Score | None) -> tuple[str, Score] | None:
    """(name, function) of a metric: "top1" or a function of the user's."""
    if metric is None:
        return None
    if callable(metric):
        return getattr(metric, "__name__", "metric"), metric
    if metric != "top1":
        raise QonnxError(f"unknown metric '{metric}'; known: top1, or a function from the Python API")
    return "top-1 accuracy", _top_one


def _top_one(outputs: Mapping[str, np.ndarray], sample: Feed) -> float:
    label = next((sample[name] for name in LABELS if name in sample), None)
    if label is None:
        raise QonnxError(f"metric top1 needs labels; put an integer array named '{LABELS[0]}' into every sample")
    chosen = next(iter(outputs.values())).argmax(-1).reshape(-1)
    label = np.asarray(label).reshape(-1)
    if label.size != chosen.size:
        raise QonnxError(f"metric top1: {label.size} labels for {chosen.size} rows of the first output")
    return float((chosen == label).mean())


class OutputTrial:
    """Runs both models over the data and keeps the sums."""

    def __init__(self, interface: Interface, oracles: Sequence[str], score: tuple[str, Score] | None) -> None:
        self.interface, self.score = interface, score
        self.others = [oracle for oracle in oracles if oracle not in ("runtime", "reference")]
        self.samples = 0
        self._figures = {name: Difference() for name in interface.outputs}
        self._top = {name: TopOne(name) for name in interface.outputs}
        self._gaps = {(oracle, name): Difference() for oracle in self.others for name in interface.outputs}
        self._shapes: dict[str, set[tuple[int, ...]]] = {name: set() for name in interface.outputs}
        self._scores = ([], [])

    def over(self, reference: Source, result: Source, data: Iterable[Feed], keep: int, settings: dict) -> list[Feed]:
        """Run over `data` and return its first `keep` samples."""
        kept = []
        with contextlib.ExitStack() as stack:
            right = stack.enter_context(runner("runtime", reference, **settings))
            found = stack.enter_context(runner("runtime", result, **settings))
            others = [stack.enter_context(runner(oracle, result, **settings)) for oracle in self.others]
            for sample in data:
                self._add(sample, right, found, others)
                if len(kept) < keep:
                    kept.append(sample)
        if not self.samples:
            raise QonnxError("the data has no samples; pass at least one with --data")
        return kept

    def _add(self, sample: Feed, right, found, others) -> None:
        feed, result_feed = self.interface.feed(sample), self.interface.result_feed(sample)
        try:
            expected = _named(right.infer(feed, check_inputs=False), self.interface.outputs.keys())
            got = _named(found.infer(result_feed, check_inputs=False), self.interface.outputs.values())
        except RUN_ERRORS as error:
            shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in feed.items())
            raise QonnxError(f"sample {self.samples} ({shapes}) does not run: {str(error).splitlines()[0]}") from error
        for (name, a), b in zip(expected.items(), got.values(), strict=True):
            if a.shape != b.shape:
                raise QonnxError(
                    f"output '{name}' has shape {list(a.shape)}, in the result {list(b.shape)}; "
                    "pass two models of one interface"
                )
            self._shapes[name].add(a.shape)
            self._figures[name].add(a, b)
            self._top[name].add(a, b)
        for oracle, runner_ in zip(self.others, others, strict=True):
            other = _named(runner_.infer(result_feed, check_inputs=False), self.interface.outputs.values())
            for (name, a), b in zip(other.items(), got.values(), strict=True):
                self._gaps[oracle, next(k for k, v in self.interface.outputs.items() if v == name)].add(a, b)
        if self.score:
            for scores, outputs in zip(self._scores, (expected, got), strict=True):
                scores.append(self.score[1](outputs, sample))
        self.samples += 1

    def outputs(self) -> tuple[OutputError, ...]:
        return tuple(
            OutputError(name, _shape(self._shapes[name]), d.figures, self._top[name].agreement, self._top[name].basis)
            for name, d in self._figures.items()
        )

    def gaps(self) -> tuple[OracleGap, ...]:
        return tuple(
            OracleGap(f"runtime − {oracle}", name, "output", difference.figures)
            for (oracle, name), difference in self._gaps.items()
        )

    def coverage(self) -> tuple[OracleCoverage, ...]:
        count = len(self.interface.outputs)
        note = f"{self.samples} samples"
        return tuple(OracleCoverage(o, "outputs", count, count, note) for o in ("runtime", *self.others))

    def metric(self) -> Metric | None:
        if self.score is None:
            return None
        return Metric(self.score[0], *(float(np.mean(scores)) for scores in self._scores), self.samples)


def _named(outputs: Mapping[str, np.ndarray], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Numeric outputs by name, as arrays."""
    return {name: np.asarray(outputs[name]) for name in names}


def _shape(seen: set[tuple[int, ...]]) -> str:
    """ "1×1000", or with ranges where samples differ: "1×20…40×6625"."""
    if len({len(shape) for shape in seen}) != 1:
        return "varies"
    sizes = [(min(axis), max(axis)) for axis in zip(*sorted(seen), strict=True)]
    return "×".join(str(low) if low == high else f"{low}…{high}" for low, high in sizes) or "scalar"
