"""Perplexity of a language model beside the float model's, on text that no conversion has seen.

exp(mean negative log-likelihood of the next token), over windows of 512 tokens that each start without a past, so that
every prediction has the same context for every model. A window takes about 4 CPU seconds, so 40 take some 160.

    python -m models.perplexity calibration 32 data.npz      writes what `qonnx convert --data` reads
"""

from __future__ import annotations

import hashlib
import os
import sys

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from models import prose, real, smollm2
from qonnx import runtime

WINDOW = 512

Source = str | os.PathLike | bytes | ir.Model


def evaluate(result: Source, *, count: int = 40, optimization: str = "all", threads: int = 2) -> dict[str, float]:
    """Perplexity over `count` evaluation windows, its ratio to the float model's, and how often both predict alike."""
    windows = prose.windows("evaluation", count, WINDOW)
    expected, expected_best = _float_predictions(windows, threads)
    found, best = predictions(runtime.session(result, optimization=optimization, threads=threads), windows)
    return {
        "perplexity": float(np.exp(found.mean())),
        "float_perplexity": float(np.exp(expected.mean())),
        "perplexity_ratio": float(np.exp(found.mean() - expected.mean())),
        "ratio_error": float((found - expected).mean(axis=1).std(ddof=1) / len(windows) ** 0.5) if count > 1 else 0.0,
        "same_best_token": float((best == expected_best).mean()),
    }


def predictions(session: ort.InferenceSession, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Negative log-likelihood of every next token, in nats, and the likeliest token: both [windows, length - 1]."""
    losses, best = [], []
    for window in windows:
        (logits,) = session.run(["logits"], feeds(session, window[None]))
        losses.append(surprise(logits[0, :-1], window[1:]))
        best.append(logits[0, :-1].argmax(axis=-1))
    return np.stack(losses), np.stack(best)


def surprise(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """−log softmax(logits)[token] in nats: logits [n, vocabulary], tokens [n]; float64 [n]."""
    highest = logits.max(axis=-1)
    total = np.exp(logits - highest[:, None]).sum(axis=-1, dtype=np.float64)
    return np.log(total) + highest - logits[np.arange(len(tokens)), tokens]


def feeds(session: ort.InferenceSession, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Inputs for ids [batch, sequence] that follow nothing: no padding, positions from 0, an empty past."""
    return {
        value.name: _input(value.name, ids, tuple(d for d in value.shape if isinstance(d, int)))
        for value in session.get_inputs()
    }


def _input(name: str, ids: np.ndarray, fixed: tuple[int, ...]) -> np.ndarray:
    """`fixed`: for past keys and values their heads and the width of one."""
    if name == "input_ids":
        return ids
    if name == "attention_mask":
        return np.ones_like(ids)
    if name == "position_ids":
        return np.broadcast_to(np.arange(ids.shape[1]), ids.shape).copy()
    return np.zeros((len(ids), fixed[0], 0, fixed[1]), np.float32)


def one() -> dict[str, np.ndarray]:
    """One evaluation window as feeds, for timing."""
    return samples("evaluation", 1)


def samples(split: str, count: int) -> dict[str, np.ndarray]:
    """The first windows of a split as feeds."""
    session = runtime.session(smollm2.path())
    return feeds(session, prose.windows(split, count, WINDOW))


def _float_predictions(windows: np.ndarray, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Those of the float model, kept in the cache."""
    digest = hashlib.sha256(windows.tobytes() + ort.__version__.encode()).hexdigest()[:16]
    kept = real.cache() / "float" / f"smollm2-{digest}.npz"
    if kept.exists():
        stored = np.load(kept)
        return stored["losses"], stored["best"]
    losses, best = predictions(runtime.session(smollm2.path(), threads=threads), windows)
    kept.parent.mkdir(parents=True, exist_ok=True)
    unfinished = kept.with_suffix(f".{os.getpid()}.npz")
    np.savez(unfinished, losses=losses, best=best)
    unfinished.replace(kept)
    return losses, best


def main(arguments: list[str]) -> int:
    if len(arguments) != 3 or not arguments[1].isdigit():
        print(f"usage: python -m models.perplexity {{{','.join(prose.SPLITS)}}} COUNT FILE.npz")
        return 2
    split, count, file = arguments
    np.savez(file, **samples(split, int(count)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
