"""ncnn by way of pnnx, both from PyPI: pnnx turns the ONNX file into ncnn's layers, as far as it knows operators."""

from __future__ import annotations

import pathlib
import re
import shutil
import sys
from collections.abc import Callable

import numpy as np

from qonnx.errors import QonnxError
from qonnx.runtimes import processes
from qonnx.runtimes.exchange import Job, counts

_TYPES = {"float32": "f32", "float16": "f16", "int64": "i64", "int32": "i32", "int8": "i8", "uint8": "u8", "bool": "b"}
_NOT_LAYERS = ("Input", "Split", "Noop")
_CONVERSION_LIMIT = 900  # seconds


def open_model(job: Job) -> tuple[Callable, Callable[[], str], str]:
    param, weights = _converted(job)
    import ncnn

    layers = [line.split() for line in param.read_text().splitlines()[2:]]
    kinds = [words[0] for words in layers if words and words[0] not in _NOT_LAYERS]
    unknown = [kind for kind in kinds if "." in kind or "::" in kind or kind in ("QuantizeLinear", "DequantizeLinear")]
    if unknown:
        raise QonnxError(f"pnnx wrote layers that ncnn does not have: {counts(unknown)}")
    net = ncnn.Net()
    net.opt.num_threads = job.threads
    if net.load_param(str(param)) or net.load_model(str(weights)):
        raise QonnxError("ncnn does not load what pnnx wrote")

    def run(sample) -> dict:
        with net.create_extractor() as extractor:
            for index, array in enumerate(sample.values()):  # ncnn has no batch axis
                extractor.input(f"in{index}", ncnn.Mat(np.ascontiguousarray(array[0])).clone())
            found = {}
            for index, name in enumerate(job.outputs):
                failed, value = extractor.extract(f"out{index}")
                if failed:
                    raise QonnxError(f"ncnn does not compute output {index}: it lacks memory or a layer failed")
                found[name] = np.array(value)[None]
            return found

    return run, lambda: counts(kinds), f"ncnn {ncnn.__version__}"


def _converted(job: Job) -> tuple[pathlib.Path, pathlib.Path]:
    """Files of ncnn's layers and weights, by pnnx in a process of its own: it ends the process on what it cannot do."""
    model = job.folder / job.model
    shapes = ",".join(
        f"[{','.join(map(str, array.shape))}]{_TYPES.get(array.dtype.name, 'f32')}" for array in job.samples[0].values()
    )
    beside = pathlib.Path(sys.executable).with_name("pnnx")
    program = str(beside) if beside.exists() else shutil.which("pnnx")
    if program is None:
        raise QonnxError("the program pnnx is missing; pip install pnnx")
    command = [program, model.name, f"inputshape={shapes}", "fp16=0"]
    code, said = processes.run(command, job, _CONVERSION_LIMIT)
    stem = re.sub(r"[^A-Za-z0-9_]", "_", model.stem)
    param, weights = job.folder / f"{stem}.ncnn.param", job.folder / f"{stem}.ncnn.bin"
    if code or not param.exists():
        raise QonnxError(f"pnnx does not convert it: {processes.fault(said)}")
    return param, weights
