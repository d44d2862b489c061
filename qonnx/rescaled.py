"""Tensors that the result holds in other units than the reference, and compensates behind them.

Channel folds, SmoothQuant and centring scale and shift the channels of a tensor and undo it in the weights that read
it. Such a tensor may keep its name, but comparing it would blame an innocent layer. It is recognised by value: far from
the reference as it is, close after one gain and offset for each channel, and what its readers make of it is close
again. A real fault fails the last test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from qonnx.differences import Difference, decibels

_FAR = 20.0  # dB: better tensors are taken as they are
_GAIN = 10.0  # dB that the affine map must win
_RECOVERY = 6.0  # dB by which a reader's output must be better than the tensor


def direct_and_affine(right: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """SQNR in dB of `found` as it is, and after the best gain and offset for each channel.

    Channels lie on the last axis or on axis 1; of tensors that are split into heads, on axis 1 and one of the last two.
    """
    difference = Difference()
    difference.add(right, found)
    direct = difference.figures.sqnr_db
    if not direct < _FAR or right.ndim < 2:
        return direct, direct
    axes = {(right.ndim - 1,), (1,), *(((1, 2), (1, 3)) if right.ndim == 4 else ())}
    return direct, max(_affine(right, found, axis) for axis in axes)


def _affine(right: np.ndarray, found: np.ndarray, axes: tuple[int, ...]) -> float:
    """Least squares of `right` on `found`, channel by channel; SQNR in dB of what remains."""
    ends = tuple(range(-len(axes), 0))
    count = math.prod(right.shape[axis] for axis in axes)
    r, s = (np.moveaxis(x, axes, ends).reshape(-1, count).astype(np.float64) for x in (right, found))
    if r.shape[0] < 8:  # a line through so few points explains anything
        return -math.inf
    centred_r, centred_s = r - r.mean(0), s - s.mean(0)
    power = np.maximum((centred_s**2).sum(0), np.finfo(float).tiny)
    gain = (centred_r * centred_s).sum(0) / power
    rest = ((centred_r - gain * centred_s) ** 2).sum()
    return decibels(float((r**2).sum()), float(rest))


def rescaled(graph: ir.Graph, quality: Mapping[str, tuple[float, float]]) -> set[str]:
    """Names among `quality` (tensor -> direct and affine SQNR, from one sample) that are in other units.

    From the outputs backwards: behind a tensor in other units may stand another one, so those found are looked through.
    """
    left = dict(quality)
    for node in reversed(list(graph)):
        for value in node.outputs:
            direct, affine = quality.get(value.name, (math.inf, math.inf))
            if direct < _FAR and affine >= direct + _GAIN:
                behind = [left[name][0] for name in _next(value, left)]
                if behind and min(behind) >= direct + _RECOVERY:
                    del left[value.name]
    return set(quality) - set(left)


def _next(value: ir.Value, quality: Mapping[str, tuple[float, float]]) -> set[str]:
    """The nearest judged tensors behind `value`."""
    found, waiting, seen = set(), [use.node for use in value.uses()], set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        for output in node.outputs:
            if output.name in quality:
                found.add(output.name)
            else:
                waiting += [use.node for use in output.uses()]
    return found
