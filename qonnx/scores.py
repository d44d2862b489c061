"""Outputs that choose one of several classes: how often do both models choose the same?"""

from __future__ import annotations

import re

import numpy as np

_NAMES = re.compile(r"logit|prob|softmax|score|class", re.IGNORECASE)


def score_axis(name: str, array: np.ndarray) -> str:
    """Why the last axis of an output looks like class scores, in words; "" if it does not.

    A matrix [samples, classes] does. With more axes the rows must be probabilities (not negative, sum 1), or the
    output's name must say so: the last axis of a feature map or an image is a place, not a class.
    """
    if array.ndim < 2 or array.shape[-1] < 2 or array.dtype.kind != "f":
        return ""
    if array.size and (array >= 0).all() and np.allclose(array.sum(axis=-1, dtype=np.float64), 1, atol=1e-3):
        return "rows are probabilities: not negative, sum 1"
    if array.ndim == 2:
        return "a matrix of rows by classes"
    return f"its name says so, '{name}'" if _NAMES.search(name) else ""


class TopOne:
    """Running agreement of the largest entry along the last axis. Decided on the first sample and kept."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._same = self._rows = 0
        self._decided = False
        self.basis = ""

    def add(self, reference: np.ndarray, result: np.ndarray) -> None:
        if not self._decided:
            self.basis, self._decided = score_axis(self._name, reference), True
        if self.basis:
            self._same += int((reference.argmax(-1) == result.argmax(-1)).sum())
            self._rows += int(np.prod(reference.shape[:-1]))

    @property
    def agreement(self) -> float | None:
        return self._same / self._rows if self._rows else None
