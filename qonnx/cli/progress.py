"""Progress on stderr: silent for two seconds, then one line that says what is being done and how far it is."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

PATIENCE = 2.0  # seconds without a word


class Ticker:
    """Called with what is being done, how many samples of it are done, and how many there are if known."""

    def __init__(self, console: Console, patience: float = PATIENCE):
        self._begun = time.perf_counter()
        self._patience = patience
        self._what, self._task = "", None
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]:<9}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )

    def __call__(self, what: str, done: int = 0, total: int | None = None) -> None:
        if self._task is None and time.perf_counter() - self._begun < self._patience:
            return
        count = (f"{done}/{total}" if total else str(done)) if done or total else ""
        if what != self._what:  # a new row: one without a known total pulses, and rich cannot take a total back
            self._bars.start()
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._what = what
            self._task = self._bars.add_task(what.replace("_", " "), total=total, count=count)
        self._bars.update(self._task, completed=done, total=total, count=count)

    def track(self, items: Iterable, what: str) -> Iterator:
        """`items`, each of which counts as one step of `what`."""
        total = len(items) if hasattr(items, "__len__") else None
        self(what, 0, total)
        for done, item in enumerate(items, 1):
            yield item
            self(what, done, total)

    def stop(self) -> None:
        self._bars.stop()


@contextlib.contextmanager
def ticking(*, quiet: bool) -> Iterator[Ticker | None]:
    """A Ticker on stderr for the length of the block; None when quiet or when stderr is not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    ticker = Ticker(Console(stderr=True))
    try:
        yield ticker
    finally:
        ticker.stop()
