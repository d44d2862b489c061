"""What the text models' outputs mean: greedy CTC decoding of recognition, boxes out of detection's probability map."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import onnx
from scipy import ndimage

from qonnx.errors import QonnxError


def characters(model: str | os.PathLike) -> list[str]:
    """The recognition model's classes in order: the blank (""), the characters of its metadata, the space."""
    for entry in onnx.load(model, load_external_data=False).metadata_props:
        if entry.key == "character":
            return ["", *entry.value.rstrip("\n").split("\n"), " "]
    raise QonnxError(f"'{os.fspath(model)}' has no metadata 'character'; read the characters from the float model")


def greedy(probabilities: np.ndarray, classes: Sequence[str]) -> str:
    """The text of one line [steps, classes]: the best class of each step, repeats merged, blanks (class 0) dropped.

    Connectionist temporal classification, best-path decoding (Graves et al. 2006, section 3.2).
    """
    best = probabilities.argmax(axis=-1)
    changed = np.concatenate([[True], best[1:] != best[:-1]])
    return "".join(classes[i] for i in best[changed & (best != 0)])


def boxes(probability: np.ndarray, threshold: float = 0.3, box_threshold: float = 0.5, smallest: int = 3) -> np.ndarray:
    """Upright boxes [n,4] (left, top, right, bottom; right and bottom exclusive) of the text in one map [H,W].

    A box bounds a connected region above `threshold` whose sides are at least `smallest` pixels and whose mean
    probability is at least `box_threshold`: differentiable binarization (Liao et al. 2020) without the polygon's
    growth, which is the same on both sides of a comparison.
    """
    labels, count = ndimage.label(probability > threshold, structure=np.ones((3, 3)))
    means = ndimage.mean(probability, labels, np.arange(1, count + 1))
    found = [
        (columns.start, rows.start, columns.stop, rows.stop)
        for (rows, columns), mean in zip(ndimage.find_objects(labels), means, strict=True)
        if mean >= box_threshold and min(rows.stop - rows.start, columns.stop - columns.start) >= smallest
    ]
    return np.array(found, np.int64).reshape(-1, 4)
