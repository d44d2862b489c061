"""ONNX Runtime sessions, opened one way: providers, threads, custom-op libraries, optimisation level."""

from __future__ import annotations

import os
from collections.abc import Sequence

import onnx_ir as ir

from qonnx.custom_ops import library_path
from qonnx.errors import QonnxError

try:
    import onnxruntime as ort
except ImportError as error:  # pragma: no cover - exercised by an install without extras
    raise QonnxError("ONNX Runtime is missing; install it with: pip install 'qonnx-toolkit[cpu]' (or [gpu])") from error

_STATE = ort.capi.onnxruntime_pybind11_state
# What ONNX Runtime raises: it has a class per status code, derived from nothing in common.
RUN_ERRORS = tuple(
    getattr(_STATE, name)
    for name in (
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NoSuchFile",
        "NotImplemented",
        "RuntimeException",
        "EPFail",
    )
)

LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def session(
    model: ir.Model | str | os.PathLike | bytes,
    *,
    optimization: str = "all",
    threads: int | None = None,
    libraries: Sequence[str] = (),
    providers: Sequence[str] = ("CPUExecutionProvider",),
    options: ort.SessionOptions | None = None,
) -> ort.InferenceSession:
    """Open `model` in ONNX Runtime.

    `libraries` are custom-op libraries of the user; the native library of qonnx is registered as well when it is
    installed. `options` may carry anything else (config entries, execution order); its level and threads are set here.
    """
    options = options or ort.SessionOptions()
    options.graph_optimization_level = LEVELS[optimization]
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    native = library_path()
    for library in dict.fromkeys([*libraries, *([native] if native else [])]):  # a domain registered twice is refused
        options.register_custom_ops_library(library)
    if isinstance(model, ir.Model):
        model = ir.to_proto(model).SerializeToString()
    elif not isinstance(model, bytes):
        model = os.fspath(model)
    return ort.InferenceSession(model, options, providers=list(providers))
