"""OpenVINO on the CPU, from PyPI; reads ONNX files without functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from qonnx.errors import QonnxError
from qonnx.runtimes.exchange import Job

_PRODUCTS = ("Convolution", "Deconvolution", "MatMul", "FullyConnected", "GroupConvolution")


def open_model(job: Job) -> tuple[Callable, Callable[[], str], str]:
    import openvino

    core = openvino.Core()
    try:
        model = core.read_model(job.folder / job.model)
    except RuntimeError as error:
        raise QonnxError(_reason(str(error))) from error
    # f32: on CPUs with bf16 or f16 units OpenVINO rounds all floats to 16 bits by default, which is no fault of a file.
    options = {"INFERENCE_NUM_THREADS": job.threads, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    compiled = core.compile_model(model, "CPU", options)
    request = compiled.create_infer_request()
    outputs = {name: compiled.output(name) for name in job.outputs}

    def run(sample) -> dict:
        found = request.infer(dict(sample))
        return {name: np.array(found[port]) for name, port in outputs.items()}

    return run, lambda: _fused(compiled), f"openvino {openvino.__version__.split('-')[0]}"


def _fused(compiled) -> str:
    """Products of the compiled graph by the number type that they ran with."""
    found: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        told = node.get_rt_info()
        kind = str(told["layerType"].value if hasattr(told["layerType"], "value") else told["layerType"])
        if kind in _PRODUCTS:
            precision = told["runtimePrecision"]
            found[f"{kind} {precision.value if hasattr(precision, 'value') else precision}"] += 1
    return ", ".join(f"{count} {name}" for name, count in found.most_common()) or "no products"


def _reason(message: str) -> str:
    """The line of OpenVINO's message that names operators, else its last."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    named = [line for line in lines if "No conversion rule" in line or "not supported" in line.lower()]
    return (named or lines[-1:])[0][:400]
