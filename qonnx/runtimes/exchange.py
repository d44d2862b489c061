"""The folder in which a runtime gets its work and leaves its results, whatever language it speaks.

    job.json       {"runtime", "model", "threads", "seconds", "libraries", "outputs",
                    "samples": [{input: {"file", "dtype", "shape"}}]}
    result.json    {"load": seconds, "seconds": [seconds of one run, …], "memory": bytes or null, "fused": sentence,
                    "version": text, "samples": [{output: {"file", "dtype", "shape"}}]} or {"error": sentence}

Arrays are raw little-endian files in row order, so that JavaScript reads them as typed arrays.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from qonnx.errors import QonnxError

Feed = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Job:
    """What a runtime is asked to do. `model`: a file in `folder`. `seconds`: how long to repeat the first sample."""

    folder: pathlib.Path
    runtime: str
    model: str
    samples: tuple[Feed, ...]
    outputs: tuple[str, ...]
    threads: int = 2
    seconds: float = 1.0
    libraries: tuple[str, ...] = ()

    def write(self) -> None:
        """Put job.json and the arrays into the folder."""
        rows = [_written(self.folder, f"in{i}", sample) for i, sample in enumerate(self.samples)]
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "folder"}
        (self.folder / "job.json").write_text(json.dumps({**plain, "samples": rows}, indent=1))


@dataclasses.dataclass(frozen=True)
class Result:
    """What a runtime answered. `seconds` of single runs; `memory`: bytes that loading and running added, or None."""

    load: float
    seconds: tuple[float, ...]
    memory: int | None
    fused: str
    version: str
    samples: tuple[Feed, ...]

    def write(self, folder: pathlib.Path) -> None:
        rows = [_written(folder, f"out{i}", sample) for i, sample in enumerate(self.samples)]
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        (folder / "result.json").write_text(json.dumps({**plain, "samples": rows}, indent=1))


def read_job(folder: pathlib.Path) -> Job:
    rows = json.loads((folder / "job.json").read_text())
    samples = tuple(_read(folder, row) for row in rows.pop("samples"))
    lists = {key: tuple(value) for key, value in rows.items() if isinstance(value, list)}
    return Job(folder=folder, samples=samples, **{**rows, **lists})


def read_result(folder: pathlib.Path, name: str) -> Result:
    """The result in `folder`; QonnxError with the runtime's own sentence if it failed."""
    try:
        rows = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError) as error:
        raise QonnxError(f"{name} ended without a result; run it by hand to see why") from error
    if "error" in rows:
        raise QonnxError(" ".join(str(rows["error"]).split()))
    samples = tuple(_read(folder, row) for row in rows.pop("samples"))
    return Result(samples=samples, seconds=tuple(rows.pop("seconds")), **rows)


def write_error(folder: pathlib.Path, sentence: str) -> None:
    (folder / "result.json").write_text(json.dumps({"error": sentence}))


def _written(folder: pathlib.Path, stem: str, arrays: Feed) -> dict:
    row = {}
    for index, (name, array) in enumerate(arrays.items()):
        array = np.asarray(array)
        data = array.astype(array.dtype.newbyteorder("<"), copy=False)
        file = f"{stem}_{index}.bin"
        np.ascontiguousarray(data).tofile(folder / file)
        row[name] = {"file": file, "dtype": array.dtype.name, "shape": list(array.shape)}
    return row


def _read(folder: pathlib.Path, row: Mapping[str, Mapping]) -> dict[str, np.ndarray]:
    return {
        name: np.fromfile(folder / one["file"], np.dtype(one["dtype"]).newbyteorder("<")).reshape(one["shape"])
        for name, one in row.items()
    }


def counts(words: Sequence[str]) -> str:
    """ "48 MatMul, 3 Conv", most frequent first."""
    numbers = {word: words.count(word) for word in dict.fromkeys(words)}
    return ", ".join(f"{number} {word}" for word, number in sorted(numbers.items(), key=lambda row: -row[1]))
