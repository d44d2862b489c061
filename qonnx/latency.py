"""Latency of two models, timed in turns on one sample.

On a busy or throttling machine two separate measurements differ by more than the models do. Turns share the weather:
each round times both models, in alternating order, and the figure that counts is the median of the rounds' ratios.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime as ort

from qonnx.comparison import Latency, Timing

WARM_UP = 2  # runs of each model that are not timed: memory patterns and packed weights settle
ROUNDS = (9, 101)  # at least, at most


def latency(
    reference: ort.InferenceSession,
    result: ort.InferenceSession,
    feeds: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]],
    *,
    threads: int | None = None,
    seconds: float = 4.0,
) -> Latency:
    """Time both sessions on `feeds` (one sample for each) for about `seconds`, with 9 to 101 rounds."""
    sessions = (reference, result)
    for session, feed in zip(sessions, feeds, strict=True):
        for _ in range(WARM_UP):
            session.run(None, dict(feed))
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while len(times[0]) < ROUNDS[0] or (len(times[0]) < ROUNDS[1] and time.perf_counter() < end):
        for which in (0, 1) if len(times[0]) % 2 == 0 else (1, 0):
            start = time.perf_counter()
            sessions[which].run(None, dict(feeds[which]))
            times[which].append(time.perf_counter() - start)
    ratios = _timing([b / a for a, b in zip(*times, strict=True)])
    return Latency(
        reference=_timing(times[0]),
        result=_timing(times[1]),
        ratio=ratios.median,
        ratio_p10=ratios.p10,
        ratio_p90=ratios.p90,
        rounds=len(times[0]),
        threads=threads or _cores(),
        provider=result.get_providers()[0].removesuffix("ExecutionProvider"),
    )


def _timing(seconds: Sequence[float]) -> Timing:
    p10, p90 = np.quantile(seconds, [0.1, 0.9])
    return Timing(statistics.median(seconds), float(p10), float(p90))


def _cores() -> int:
    """Threads that ONNX Runtime takes by itself: the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
