"""ONNX Runtime sessions, opened one way: providers, threads, custom-op libraries, optimisation level."""

from __future__ import annotations

import os
import pathlib
import re
import tempfile
from collections.abc import Sequence

import onnx
import onnx_ir as ir

from qonnx.custom_ops import library_path
from qonnx.errors import QonnxError
from qonnx.model import sizes, write

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


# A model longer than this is handed over in files that ONNX Runtime maps: no copy of the weights in a message, no limit
# of 2 GiB. Below, files would cost more than they save.
_IN_MEMORY = 1 << 20


def session(
    model: ir.Model | str | os.PathLike | bytes,
    *,
    optimization: str = "all",
    threads: int | None = None,
    libraries: Sequence[str] = (),
    providers: Sequence[str] = ("CPUExecutionProvider",),
    options: ort.SessionOptions | None = None,
    native: bool = True,
    disabled: Sequence[str] = (),
) -> ort.InferenceSession:
    """Open `model` in ONNX Runtime.

    `libraries` are custom-op libraries of the user; the native library of qonnx is registered as well when it is
    installed, unless `native` is False. `disabled` names optimisers of ONNX Runtime to leave out. `options` may carry
    anything else (config entries, execution order); its level and threads are set here.
    Raises QonnxError if ONNX Runtime refuses the model or a library; an unknown operator is named.
    """
    options = options or ort.SessionOptions()
    options.graph_optimization_level = LEVELS[optimization]
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    own = library_path() if native else None
    # A bare file name would be looked for in the system's folders, and a domain registered twice is refused.
    for library in dict.fromkeys(os.path.abspath(name) for name in [*libraries, *([own] if own else [])]):
        if not os.path.isfile(library):
            raise QonnxError(f"custom-op library '{library}' does not exist; check the path")
        try:
            options.register_custom_ops_library(library)
        except RUN_ERRORS as error:
            raise QonnxError(f"'{library}' is no custom-op library that can be loaded ({_sentence(error)})") from error
    if not isinstance(model, ir.Model):
        return _open(model if isinstance(model, bytes) else os.fspath(model), options, providers, disabled)
    if sum(sizes(model).values()) <= _IN_MEMORY:
        return _open(ir.to_proto(model).SerializeToString(), options, providers, disabled)
    with tempfile.TemporaryDirectory(prefix="qonnx-", ignore_cleanup_errors=True) as folder:  # may still be mapped
        path = pathlib.Path(folder) / "model.onnx"
        write(model, path, external=True)
        return _open(os.fspath(path), options, providers, disabled)


def optimized(model: ir.Model | str | os.PathLike, *, optimization: str = "all", **arguments) -> onnx.ModelProto:
    """The graph that ONNX Runtime really runs: `model` after its optimisation at the given level.

    Other arguments are those of `session`. Above the "basic" level the result holds operators of ONNX Runtime's own.
    """
    with tempfile.TemporaryDirectory(prefix="qonnx-", ignore_cleanup_errors=True) as folder:
        path = pathlib.Path(folder) / "optimized.onnx"
        options = arguments.pop("options", None) or ort.SessionOptions()
        options.optimized_model_filepath = os.fspath(path)
        # Weights go beside it, so that a long model can be written at all.
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.data")
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        session(model, optimization=optimization, options=options, **arguments)
        return onnx.load(path)


def _open(
    model: str | bytes,
    options: ort.SessionOptions,
    providers: Sequence[str],
    disabled: Sequence[str] = (),
    keep_signed: bool = False,
) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(
            model, options, providers=list(providers), disabled_optimizers=list(disabled) or None
        )
    except RUN_ERRORS as error:
        if _SIGNED_MOVED in str(error) and not keep_signed:
            options.add_session_config_entry("session.qdqisint8allowed", "1")
            return _open(model, options, providers, disabled, keep_signed=True)
        unknown = _UNKNOWN.search(str(error))
        if unknown:
            raise QonnxError(
                f"ONNX Runtime does not know the operator '{unknown.group(1)}'; "
                "give the library that holds it with --custom-op-library"
            ) from error
        missing = _NO_KERNEL.search(str(error))
        if missing:
            raise QonnxError(
                f"ONNX Runtime has no kernel for {missing.group(1)} '{missing.group(2)}' with the types that it has "
                "there (its CPU provider has next to none for bfloat16); convert without data, which quantizes weights "
                "only, or export the model in float32 or float16"
            ) from error
        raise QonnxError(f"ONNX Runtime cannot open the model: {_sentence(error)}") from error


# On x86, ONNX Runtime 1.32 turns s8 activations into u8, and from opset 21 on fails over the copies of Q/DQ that it has
# made behind data movement. Told to keep s8, it loads the model and computes the same.
_SIGNED_MOVED = "output_dtype INT8 does not match y_zero_point type UINT8"
_NO_KERNEL = re.compile(r"Could not find an implementation for (\w+)\(\d+\) node with name '([^']*)'")
_UNKNOWN = re.compile(r"Fatal error: (\S+?)\(-?\d*\) is not a registered function/op|No Op registered for (\S+)")


def _sentence(error: Exception) -> str:
    """The message without ONNX Runtime's status prefix and stack."""
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error)).strip().splitlines()[0]
