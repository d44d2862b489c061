"""Harm: what quantizing a part of a model does to its outputs, measured on samples.

Noise of an output is Σ(y_q − y)² / Σy², its SQNR −10·log10 of that; a model is as good as its worst output.
Disagreement is the share of rows (along the last axis) whose largest entry is another one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from qonnx.lean import lean_session

Feeds = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Judge:
    """Samples and what the float model says to them: arrays of the tensors `names` for each sample.

    exact: ONNX Runtime keeps activations of products with integer weights as the file has them. By default it quantizes
    float and 16-bit ones to 8 bits at run time (MatMulNBits at accuracy level 4), which other runtimes do not.
    """

    samples: tuple[Feeds, ...]
    expected: tuple[tuple[np.ndarray, ...], ...]
    names: tuple[str, ...]
    threads: int | None
    libraries: tuple[str, ...]
    exact: bool = False

    def measure(self, model: ir.Model) -> Harm:
        """What is wrong with the worst tensor in `model`; the model is used up (its weights are handed over)."""
        return self.score(_run(model, self))

    def score(self, outputs: Iterable[Sequence[np.ndarray]]) -> Harm:
        """The same from what a model says to each sample."""
        error, power = np.zeros(len(self.names)), np.zeros(len(self.names))
        changed, rows = np.zeros(len(self.names)), np.zeros(len(self.names))
        for expected, got in zip(self.expected, outputs, strict=True):
            for index, (want, have) in enumerate(zip(expected, got, strict=True)):
                if want.shape != have.shape:
                    return Harm(np.inf, 1.0)
                error[index] += np.square(have.astype(np.float64) - want).sum()
                power[index] += np.square(want.astype(np.float64)).sum()
                if want.ndim and want.shape[-1] > 1:
                    changed[index] += (want.argmax(-1) != have.argmax(-1)).sum()
                    rows[index] += want.size // want.shape[-1]
        noise = float((error / np.maximum(power, 1e-30)).max())
        return Harm(noise if np.isfinite(noise) else np.inf, float((changed / np.maximum(rows, 1)).max()))


@dataclasses.dataclass(frozen=True)
class Harm:
    """noise: relative error power. disagreement: 0…1."""

    noise: float
    disagreement: float


def judge(
    model: ir.Model,
    samples: Iterable[Feeds],
    threads: int | None,
    libraries: Sequence[str],
    *,
    squashed: bool,
    exact: bool = False,
) -> Judge:
    """Run the float `model` (a clone of it) on `samples` and keep its float outputs.

    squashed: judge outputs as they are. Otherwise an output that Softmax or Sigmoid makes is judged in front of it:
    where the model is sure, probabilities hide errors that turn the next, less sure sample over.
    """
    outputs = [v for v in model.graph.outputs if v.dtype is None or v.dtype.is_floating_point()]
    names = tuple((v if squashed else _before_squashing(v)).name for v in outputs)
    empty = Judge(tuple(samples), (), names, threads, tuple(libraries), exact)
    return dataclasses.replace(empty, expected=tuple(tuple(arrays) for arrays in _run(model.clone(), empty)))


def _run(model: ir.Model, judge: Judge) -> Iterator[list[np.ndarray]]:
    """The tensors `judge.names` of `model` for each sample."""
    session = opened(model, judge)
    for feeds in judge.samples:
        yield session.run(list(judge.names), feeds)


def opened(model: ir.Model, judge: Judge) -> ort.InferenceSession:
    """A session of `model`, which is used up, that gives the tensors `judge.names`."""
    known = {value.name for value in model.graph.outputs}
    for node in model.graph:
        for value in node.outputs:
            if value.name in judge.names and value.name not in known:
                model.graph.outputs.append(value)
    options = ort.SessionOptions()
    if judge.exact:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return lean_session(model, threads=judge.threads, libraries=judge.libraries, options=options)


def _before_squashing(value: ir.Value) -> ir.Value:
    node = value.producer()
    squashes = node is not None and node.domain == "" and node.op_type in ("Softmax", "Sigmoid", "LogSoftmax")
    return node.inputs[0] if squashes and node.inputs[0].producer() is not None else value


def decibel(noise: float) -> float:
    """SQNR of a relative error power."""
    return float("inf") if noise == 0 else -10 * float(np.log10(noise))
