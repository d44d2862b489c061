"""ONNX Runtime in Python: as users run it, node by node, without the native library of qonnx, and on CUDA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnxruntime

from qonnx.errors import QonnxError
from qonnx.operators import FLOAT_COMPUTE, INTEGER_OPERATORS, WEIGHT_ONLY_OPERATORS
from qonnx.runtime import optimized, session
from qonnx.runtimes.exchange import Job, counts

# Runtime -> options of qonnx.runtime.session.
_WAYS: dict[str, dict[str, Any]] = {
    "ort": {},
    "ort-portable": {"native": False},
    "ort-unoptimized": {"optimization": "none"},
    "ort-cuda": {"providers": ("CUDAExecutionProvider", "CPUExecutionProvider")},
}


def open_model(job: Job) -> tuple[Callable, Callable[[], str], str]:
    way = {"threads": job.threads, "libraries": job.libraries, **_WAYS[job.runtime]}
    if job.runtime == "ort-cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise QonnxError("this ONNX Runtime has no CUDA provider; pip install onnxruntime-gpu in its place")
    opened = session(str(job.folder / job.model), **way)
    run = lambda sample: dict(zip(job.outputs, opened.run(list(job.outputs), dict(sample)), strict=True))  # noqa: E731 - as short as what it does
    return run, lambda: _fused(job, way), f"onnxruntime {onnxruntime.__version__}"


def _fused(job: Job, way: dict[str, Any]) -> str:
    if way.get("optimization") == "none":
        return "nothing, as asked"
    graph = optimized(str(job.folder / job.model), **way).graph
    return arithmetic([node.op_type for node in graph.node])


def arithmetic(operators: list[str]) -> str:
    """What the compute nodes of an optimised graph are: "74 QLinearMatMul; float: 3 Conv"."""
    integer = [name for name in operators if name in INTEGER_OPERATORS or name in WEIGHT_ONLY_OPERATORS]
    floating = [name for name in operators if name in FLOAT_COMPUTE]
    parts = [counts(integer)] if integer else []
    parts += [f"float: {counts(floating)}"] if floating else []
    return "; ".join(parts) or "no products"
