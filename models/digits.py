"""The small models that travel with the source: classifiers of handwritten digits, and the data they were trained on.

`digits_cnn.onnx` is a convolutional network with its batch normalisations unfolded, `digits_vit.onnx` a vision
transformer of four blocks with LayerNorm and GELU decomposed, as exporters write them. Both take `image` [N,1,8,8] in
[0, 1] and give `logits` [N,10]. models/train_digits.py trained them, once, on the calibration split.
"""

from __future__ import annotations

import functools
import os
import pathlib

import numpy as np
import onnx_ir as ir

from qonnx import runtime
from qonnx.errors import QonnxError

CNN = pathlib.Path(__file__).with_name("digits_cnn.onnx")
VIT = pathlib.Path(__file__).with_name("digits_vit.onnx")
INPUT, OUTPUT = "image", "logits"

_SPLITS = {"evaluation": (0,), "tuning": (1,), "calibration": (2, 3, 4)}  # by index modulo 5


def samples(split: str, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` (None: all) images float32 [n,1,8,8] in [0, 1] and their labels int64 [n] of a split.

    scikit-learn's digits (1797 images): 360 for evaluation, 360 for tuning, 1077 for calibration and training.
    """
    if split not in _SPLITS:
        raise QonnxError(f"there is no split '{split}' of the digits; choose one of {', '.join(_SPLITS)}")
    images, labels = _digits()
    chosen = np.flatnonzero(np.isin(np.arange(len(labels)) % 5, _SPLITS[split]))[:count]
    return images[chosen], labels[chosen]


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise QonnxError("scikit-learn is missing; install it with: pip install scikit-learn") from error
    images, labels = load_digits(return_X_y=True)
    return (images.reshape(-1, 1, 8, 8) / 16).astype(np.float32), labels.astype(np.int64)


def accuracy(model: str | os.PathLike | bytes | ir.Model, split: str = "evaluation") -> float:
    """The share of a split's images that the model gets right."""
    images, labels = samples(split)
    logits = runtime.session(model).run([OUTPUT], {INPUT: images})[0]
    return float((logits.argmax(axis=1) == labels).mean())
