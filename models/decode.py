"""What the text models' outputs mean: greedy CTC decoding of recognition, boxes out of detection's probability map."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import onnx
from scipy import ndimage

from qonnx.errors import QonnxError

_SMALLEST = 3  # pixels; smaller regions are specks


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


def boxes(
    probability: np.ndarray, threshold: float = 0.3, box_threshold: float = 0.5, growth: float = 1.6
) -> np.ndarray:
    """Upright boxes [n,4] (left, top, right, bottom; right and bottom exclusive) of the text in one map [H,W].

    Differentiable binarization (Liao et al. 2020) with the settings that PP-OCR users get: regions above `threshold`,
    closed by one pixel; regions under 3 pixels or with a mean probability under `box_threshold` are dropped; the model
    is trained to shrink text, so a box grows by area x `growth` / perimeter on every side. Their boxes may be turned;
    these are not.
    """
    mask = ndimage.binary_dilation(probability > threshold, np.ones((2, 2)))
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    means = ndimage.mean(probability, labels, np.arange(1, count + 1))
    found = []
    for (rows, columns), mean in zip(ndimage.find_objects(labels), means, strict=True):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if mean < box_threshold or min(height, width) < _SMALLEST:
            continue
        by = height * width * growth / (2 * (height + width))
        found.append((columns.start - by, rows.start - by, columns.stop + by, rows.stop + by))
    limits = (probability.shape[1], probability.shape[0]) * 2
    return np.clip(np.array(found, np.float64).reshape(-1, 4), 0, limits)
