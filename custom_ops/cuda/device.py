"""Sessions whose nodes run on a GPU and nowhere else, and the sentence that says what a machine lacks for one."""

from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from qonnx.custom_ops import library_path, ops
from qonnx.custom_ops.log_quantize import QUANTIZE
from qonnx.errors import QonnxError
from qonnx.runtime import RUN_ERRORS, session

PROVIDER = "CUDAExecutionProvider"


def gpu_session(model: ir.Model | bytes, *, graph: bool = False) -> ort.InferenceSession:
    """`model` with every node on the GPU; with `graph`, its kernels are captured once and replayed as a CUDA graph.

    Raises:
        QonnxError: a node has no kernel for the GPU, or there is none.
    """
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    provider = (PROVIDER, {"enable_cuda_graph": "1"}) if graph else PROVIDER
    opened = session(model, options=options, providers=[provider])
    if PROVIDER not in opened.get_providers():
        raise QonnxError(f"{PROVIDER} did not start; ONNX Runtime's log says why")
    return opened


@functools.cache
def missing() -> str:
    """What keeps operators of `ai.qonnx` from a GPU here, in a sentence; empty where they run on one."""
    if PROVIDER not in ort.get_available_providers():
        return "onnxruntime-gpu is not installed; install it in the place of onnxruntime"
    if library_path() is None:
        return "the native library is not installed; reinstall with a C++ compiler and the CUDA toolkit"
    x = np.zeros((1, 64), np.float32)
    for native in (False, True):
        try:
            gpu_session(_small_model(native)).run(None, {"x": x})
        except (QonnxError, *RUN_ERRORS):
            if native:
                return "the native library holds no CUDA kernels; install it again with -DQONNX_CUDA=ON"
            return "no GPU that CUDAExecutionProvider can use was found; ONNX Runtime's log says why"
    return ""


def _small_model(native: bool) -> ir.Model:
    """Standard operators, or one of ours."""
    x = ir.Value(name="x", shape=ir.Shape([1, 64]), type=ir.TensorType(ir.DataType.FLOAT))
    initializers: list[ir.Value] = []
    if native:
        arrays = {"scale": np.ones((), np.float32), "table": np.array([1, 0.5], np.float32)}
        initializers = [ir.Value(name=name, const_value=ir.tensor(array, name=name)) for name, array in arrays.items()]
        node = ops.node(QUANTIZE, [x, *initializers], node_name="node", codes_per_octave=1.0)
    else:
        node = ir.node("Neg", [x], name="node")
    (y,) = node.outputs
    y.name, y.shape = "y", x.shape
    y.type = ir.TensorType(ir.DataType.UINT8 if native else ir.DataType.FLOAT)
    graph = ir.Graph([x], [y], nodes=[node], initializers=initializers, opset_imports={"": 21}, name="small")
    model = ir.Model(graph, ir_version=10)
    if native:
        ops.add_to_model(model, QUANTIZE)
    return model
