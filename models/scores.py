"""How far a result is from a reference: signal to noise, overlap of maps, matching of boxes, distance of texts.

Every function takes the reference first. None of them knows a model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def sqnr(reference: np.ndarray, result: np.ndarray) -> float:
    """Signal to quantization noise in dB, 10 log10(sum of reference² / sum of error²); inf where nothing differs."""
    signal = np.square(reference, dtype=np.float64).sum()
    noise = np.square(reference.astype(np.float64) - result).sum()
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal > 0 else float("-inf")


def cosine(reference: np.ndarray, result: np.ndarray) -> float:
    """Cosine of the angle between two arrays of any shape, in float64; 1 where both are zero, 0 where one is."""
    a, b = reference.astype(np.float64).ravel(), result.astype(np.float64).ravel()
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    if lengths == 0:
        return float(np.linalg.norm(a) == np.linalg.norm(b))
    return float(a @ b / lengths)


def map_iou(reference: np.ndarray, result: np.ndarray, threshold: float = 0.8) -> float:
    """Intersection over union of two maps [H,W], each stretched to [0, 1] and cut at `threshold`; 1 if both empty."""
    a, b = _stretched(reference) > threshold, _stretched(result) > threshold
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 1.0


def _stretched(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def edit_distance(reference: str, result: str) -> int:
    """Levenshtein distance: the fewest insertions, deletions and replacements of one character."""
    row = list(range(len(result) + 1))
    for i, wanted in enumerate(reference, 1):
        previous, row[0] = row[0], i
        for j, got in enumerate(result, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (wanted != got))
    return row[-1]


def character_error_rate(references: Sequence[str], results: Sequence[str]) -> float:
    """Edits needed over the characters of the references, over all texts together."""
    characters = sum(map(len, references))
    edits = sum(edit_distance(a, b) for a, b in zip(references, results, strict=True))
    return edits / characters if characters else float(edits > 0)


def matched_boxes(reference: np.ndarray, result: np.ndarray, overlap: float = 0.5) -> int:
    """The number of pairs of boxes [n,4] (left, top, right, bottom) with IoU of `overlap` or more, best pairs first.

    A box is used once.
    """
    if not len(reference) or not len(result):
        return 0
    ious = box_iou(reference, result)
    matched = 0
    while ious.size and ious.max() >= overlap:
        row, column = np.unravel_index(ious.argmax(), ious.shape)
        ious = np.delete(np.delete(ious, row, axis=0), column, axis=1)
        matched += 1
    return matched


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every box of `a` [n,4] with every box of `b` [m,4]: [n,m]."""
    a, b = a[:, None, :].astype(np.float64), b[None, :, :].astype(np.float64)
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    return shared / (_area(a) + _area(b) - shared)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def f1(matched: int, references: int, results: int) -> float:
    """Harmonic mean of precision and recall; 1 where there was nothing to find and nothing was found."""
    return 2 * matched / (references + results) if references + results else 1.0
