"""The Report: what a run of qonnx did and proved, as one frozen record with a versioned JSON form.

How `convert` builds one:

    report = Report.start(path, recipe=resolved, target="ort-cpu")
    with timed("observe") as step:            # seconds and peak memory
        step.changes = [change.what, ...]     # what the pass yielded
    report = report.with_step(step.record)
    report = report.finish("model.quant.onnx", model=model, comparison=comparison)
    report.write("model.quant.json")          # or render it: report_terminal, report_html
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from qonnx.comparison import Comparison
from qonnx.errors import QonnxError
from qonnx.ledger import LedgerRow, ledger
from qonnx.records import from_plain, to_plain

SCHEMA = "qonnx-report/1"
_PACKAGES = ("qonnx-toolkit", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "numpy")
_KEPT_CHANGES = 50  # changes of one pass that the report lists; the count is always whole


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """A model file: its name, SHA-256 of the .onnx file itself, and bytes with external data."""

    name: str
    sha256: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class StepRecord:
    """One pass or other step. `peak_mb`: the process's peak resident memory when the step ended, 0 where unknown."""

    name: str
    seconds: float
    changes: int
    peak_mb: float = 0.0
    details: tuple[str, ...] = ()  # the first changes, in words


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that a conversion or a check has to say. `recipe` is the resolved recipe as plain JSON values."""

    reference: FileRecord
    result: FileRecord | None = None
    verb: str = "convert"
    target: str = ""
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    steps: tuple[StepRecord, ...] = ()
    ledger: tuple[LedgerRow, ...] = ()
    comparison: Comparison | None = None
    warnings: tuple[str, ...] = ()
    schema: str = SCHEMA

    @classmethod
    def start(
        cls,
        reference: str | os.PathLike,
        *,
        verb: str = "convert",
        target: str = "",
        recipe: Mapping[str, Any] | None = None,
    ) -> Report:
        """A report on the model at `reference`, with the versions of this installation."""
        return cls(file_record(reference), verb=verb, target=target, recipe=to_plain(recipe or {}), versions=versions())

    def with_step(self, step: StepRecord) -> Report:
        return dataclasses.replace(self, steps=(*self.steps, step))

    def with_warning(self, *sentences: str) -> Report:
        return dataclasses.replace(self, warnings=(*self.warnings, *sentences))

    def finish(
        self,
        result: str | os.PathLike | None,
        *,
        model: ir.Model | None = None,
        comparison: Comparison | None = None,
    ) -> Report:
        """With the written file, the ledger of `model` (the converted model, notes and all) and the comparison."""
        return dataclasses.replace(
            self,
            result=self.result if result is None else file_record(result),
            ledger=self.ledger if model is None else _weighed(ledger(model), comparison),
            comparison=comparison or self.comparison,
        )

    @property
    def broken(self) -> tuple[str, ...]:
        """Bounds that do not hold, one sentence each."""
        return self.comparison.broken if self.comparison else ()

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    def to_json(self) -> str:
        return json.dumps(to_plain(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that `to_json` wrote; QonnxError for another schema or no JSON at all."""
        try:
            plain = json.loads(text)
        except json.JSONDecodeError as error:
            raise QonnxError(f"this is not a JSON report ({error}); pass a file written with --report") from error
        found = plain.get("schema") if isinstance(plain, dict) else None
        if found != SCHEMA:
            raise QonnxError(f"report schema is {found!r}, this version reads {SCHEMA!r}; make the report again")
        return from_plain(cls, plain)

    def write(self, path: str | os.PathLike) -> None:
        """Write JSON, or one HTML page if the name ends in .html; whole or not at all."""
        path = pathlib.Path(path)
        if path.suffix in (".html", ".htm"):
            from qonnx.report_html import render  # the page imports this module

            text = render(self)
        else:
            text = self.to_json()
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            raise QonnxError(f"cannot write the report '{path}' ({error}); choose another place") from error
        finally:
            temporary.unlink(missing_ok=True)


def _weighed(rows: tuple[LedgerRow, ...], comparison: Comparison | None) -> tuple[LedgerRow, ...]:
    """The rows with the multiply-adds that the comparison has counted, where no pass has noted them."""
    if comparison is None:
        return rows
    counted = {layer.node: layer.macs for layer in comparison.layers}
    return tuple(dataclasses.replace(r, macs=counted.get(r.node)) if r.macs is None else r for r in rows)


class Step:
    """A step in progress; see `timed`. `changes` are whatever the pass yielded (shown with `str`) or a plain count."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.changes: Sequence[Any] | int = ()
        self.record: StepRecord | None = None


@contextlib.contextmanager
def timed(name: str) -> Iterator[Step]:
    """Time a step; `step.record` is its StepRecord once the block has ended."""
    step, start = Step(name), time.perf_counter()
    yield step
    seconds = time.perf_counter() - start
    changes = step.changes
    if isinstance(changes, int):
        step.record = StepRecord(name, seconds, changes, peak_memory_mb())
        return
    details = tuple(f"{x.subject}: {x.what}" if hasattr(x, "what") else str(x) for x in changes[:_KEPT_CHANGES])
    step.record = StepRecord(name, seconds, len(changes), peak_memory_mb(), details)


def peak_memory_mb() -> float:
    """Peak resident memory of this process so far, in MB (10⁶ bytes); 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def file_record(path: str | os.PathLike) -> FileRecord:
    """Name, hash and size of a model file. External data counts for the size, not for the hash."""
    from qonnx.footprint import disk_bytes  # reads models; a report read back from JSON does not need it

    path = pathlib.Path(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return FileRecord(path.name, digest.hexdigest(), disk_bytes(path))


def versions() -> dict[str, str]:
    """Versions of Python, this package and those whose behaviour shows in the figures."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
