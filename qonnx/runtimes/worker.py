"""A process for a runtime with a Python package: opens the model of a job, runs the samples, times, writes the result.

    python -m qonnx.runtimes.worker FOLDER

A process of its own keeps the runtime's memory countable and its crashes away from the comparison. The module of the
runtime has `open_model(job) -> (run, fused, version)`: run maps a sample to outputs by name, fused() says what it made
of the graph.
"""

from __future__ import annotations

import importlib
import pathlib
import sys
import time

from qonnx.errors import QonnxError
from qonnx.runtimes.exchange import Result, read_job, write_error

# Runtime -> module of qonnx.runtimes that opens it.
MODULES = {
    "ort": "ort",
    "ort-unoptimized": "ort",
    "ort-portable": "ort",
    "ort-cuda": "ort",
    "reference": "reference",
    "openvino": "openvino",
    "ncnn": "ncnn",
    "tensorrt": "tensorrt",
}
ROUNDS = (1, 50)  # timed runs of the first sample: at least, at most


def main(folder: pathlib.Path) -> int:
    job = read_job(folder)
    try:
        module = importlib.import_module(f"qonnx.runtimes.{MODULES[job.runtime]}")
        before = _held("VmRSS")
        start = time.perf_counter()
        run, fused, version = module.open_model(job)
        load = time.perf_counter() - start
        samples = tuple(run(sample) for sample in job.samples)
        seconds, end = [], time.perf_counter() + job.seconds
        while len(seconds) < ROUNDS[0] or (len(seconds) < ROUNDS[1] and time.perf_counter() < end):
            start = time.perf_counter()
            run(job.samples[0])
            seconds.append(time.perf_counter() - start)
        memory = max(_held("VmHWM") - before, 0) or None
        Result(load, tuple(seconds), memory, fused(), version, samples).write(folder)
    except QonnxError as error:
        write_error(folder, str(error))
    except Exception as error:  # whatever a foreign runtime raises is its answer
        write_error(folder, f"{type(error).__name__}: {error}"[:2000])
    return 0


def _held(what: str) -> int:
    """Bytes of memory: "VmRSS" held now, "VmHWM" the most so far (getrusage counts the parent's as well)."""
    try:
        rows = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
        return int(rows[what].split()[0]) * 1024
    except (OSError, KeyError):
        return 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
