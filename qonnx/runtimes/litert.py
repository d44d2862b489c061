"""LiteRT (TensorFlow Lite) by way of onnx2tf, in an environment of their own: onnx2tf pins its versions of ONNX and
ONNX Runtime, so that it is never installed beside qonnx.
"""

from __future__ import annotations

import os
import pathlib
import shutil

from qonnx.errors import QonnxError
from qonnx.runtimes import processes
from qonnx.runtimes.exchange import Job

_SCRIPT = pathlib.Path(__file__).with_name("litert_runner.py")
LIMIT = 900  # seconds, for conversion and for running
_GET = (
    "not installed; an environment of its own, of Python 3.12 or newer: "
    "python3 -m venv litert && litert/bin/pip install onnx2tf, then QONNX_LITERT=litert"
)


def converter() -> str | None:
    """The program onnx2tf of the environment that QONNX_LITERT names, else of the path."""
    named = os.environ.get("QONNX_LITERT")
    return shutil.which("onnx2tf", path=os.path.join(named, "bin")) if named else shutil.which("onnx2tf")


def missing() -> str:
    """How to get onnx2tf; "" if it is there."""
    return "" if converter() else _GET


def run_job(job: Job) -> None:
    """Convert the model and run the job; QonnxError names what onnx2tf or LiteRT say."""
    program = converter()
    if program is None:
        raise QonnxError(_GET)
    program = os.path.abspath(program)
    first = job.samples[0]
    shapes = [f"{name}:{','.join(map(str, array.shape))}" for name, array in first.items()]
    command = [program, "-i", job.model, "-o", "converted", "-n", "-v", "error"]
    command += ["-ois", *shapes, "-kat", *first]  # layouts as in the ONNX file, not channels last
    _, said = processes.run(command, job, LIMIT)
    if not (job.folder / "converted" / f"{pathlib.Path(job.model).stem}_float32.tflite").exists():
        raise QonnxError(f"onnx2tf does not convert it: {processes.fault(said)}")
    python = os.path.join(os.path.dirname(program), "python")
    processes.leave_result([python, str(_SCRIPT), str(job.folder)], job, LIMIT, {"PYTHONPATH": ""})
