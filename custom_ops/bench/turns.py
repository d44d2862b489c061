"""Timing in turns: candidates run one after the other, round after round, and medians are compared.

A shared machine drifts by tens of percent within seconds; candidates that take turns drift together. With one thread
the clock is the thread's own CPU time, which stands still while another process has the core; with more threads it is
the wall clock, and samples during which the calling thread lost its core are dropped. "hot" repeats a call; "cold"
streams 64 MB through the caches before each call, so that weights come from far away, as they do in a model.
"""

from __future__ import annotations

import dataclasses
import resource
import time
from collections.abc import Callable, Mapping

import numpy as np

_BULK = np.ones(16 << 20, np.float32)


def evict() -> None:
    """Streams 64 MB through the caches."""
    _BULK.sum()


@dataclasses.dataclass(frozen=True)
class Timing:
    """Medians in microseconds by candidate, and how many samples each median rests on."""

    median: dict[str, float]
    samples: dict[str, int]

    def ratio(self, baseline: str, candidate: str) -> float:
        """How many times faster the candidate is."""
        return self.median[baseline] / self.median[candidate]


def time_in_turns(
    candidates: Mapping[str, Callable[[], object]],
    *,
    threads: int,
    cold: bool = False,
    seconds: float = 1.0,
    rounds: int = 7,
) -> Timing:
    """Run every candidate for `seconds` in all, in `rounds` bursts that take turns."""
    timed = _cpu_time if threads == 1 else _wall_time
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for call in candidates.values():
        call()
    for _ in range(rounds):
        for name, call in candidates.items():
            end = time.perf_counter() + seconds / rounds
            if not cold:
                call()
            while True:
                if cold:
                    evict()
                taken, clean = timed(call)
                if clean:
                    samples[name].append(taken)
                if time.perf_counter() > end:
                    break
    return Timing(
        {name: float(np.median(taken)) if taken else float("nan") for name, taken in samples.items()},
        {name: len(taken) for name, taken in samples.items()},
    )


def _cpu_time(call: Callable[[], object]) -> tuple[float, bool]:
    begin = time.thread_time_ns()
    call()
    return (time.thread_time_ns() - begin) / 1e3, True


def _wall_time(call: Callable[[], object]) -> tuple[float, bool]:
    switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    begin = time.perf_counter_ns()
    call()
    taken = (time.perf_counter_ns() - begin) / 1e3
    return taken, resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw == switches
