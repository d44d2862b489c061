"""Harm: what quantizing a part of a model does to its outputs, measured on samples.

Noise of an output is Σ(y_q − y)² / Σy², its SQNR −10·log10 of that; a model is as good as its worst output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from qonnx.lean import lean_session

Feeds = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Judge:
    """Samples and what the float model says to them."""

    samples: tuple[Feeds, ...]
    expected: tuple[tuple[np.ndarray, ...], ...]  # per sample, per float output
    outputs: tuple[str, ...]
    threads: int | None
    libraries: tuple[str, ...]

    def noise(self, model: ir.Model) -> float:
        """Relative error power of the worst output of `model`; the model is used up (its weights are handed over)."""
        session = lean_session(model, threads=self.threads, libraries=self.libraries)
        error, power = np.zeros(len(self.outputs)), np.zeros(len(self.outputs))
        for feeds, expected in zip(self.samples, self.expected, strict=True):
            for index, (want, got) in enumerate(zip(expected, session.run(list(self.outputs), feeds), strict=True)):
                if want.shape != got.shape:
                    return np.inf
                error[index] += np.square(got.astype(np.float64) - want).sum()
                power[index] += np.square(want.astype(np.float64)).sum()
        noise = float((error / np.maximum(power, 1e-30)).max())
        return noise if np.isfinite(noise) else np.inf


def judge(model: ir.Model, samples: Iterable[Feeds], threads: int | None, libraries: Sequence[str]) -> Judge:
    """Run the float `model` (a clone of it) on `samples` and keep its float outputs."""
    kept = tuple(samples)
    outputs = tuple(v.name for v in model.graph.outputs if v.dtype is None or v.dtype.is_floating_point())
    session = lean_session(model.clone(), threads=threads, libraries=libraries)
    expected = tuple(tuple(session.run(list(outputs), feeds)) for feeds in kept)
    return Judge(kept, expected, outputs, threads, tuple(libraries))


def decibel(noise: float) -> float:
    """SQNR of a relative error power."""
    return float("inf") if noise == 0 else -10 * float(np.log10(noise))
