"""Sessions that share weights with an `onnx_ir.Model`: the graph is serialised without them.

Measured on a 96 MB ViT: opening from bytes takes 1.6 CPU s and peaks at 492 MB, this way 0.6 CPU s and 437 MB.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from qonnx.runtime import session

SMALL = 1024  # bytes; smaller initializers stay in the file, where shape inference and constant folding see them
_PLAIN = {
    ir.DataType.FLOAT,
    ir.DataType.DOUBLE,
    ir.DataType.FLOAT16,
    ir.DataType.INT8,
    ir.DataType.UINT8,
    ir.DataType.INT32,
    ir.DataType.INT64,
}


def lean_session(
    model: ir.Model,
    *,
    threads: int | None = None,
    libraries: Sequence[str] = (),
    options: ort.SessionOptions | None = None,
    optimization: str = "all",
) -> ort.InferenceSession:
    """Open `model` on the CPU without copying its weights. `model` must be a clone: its weights are replaced.

    ONNX Runtime reads the arrays as long as the session lives and does not keep them alive itself, so the session does.
    """
    options = options or ort.SessionOptions()
    shared = _set_aside(model)
    # Threads that wait without spinning: a third less processor time on a ViT, and no more wall time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if shared:
        shared = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in shared.items()}
        options.add_external_initializers(list(shared), list(shared.values()))
    serialized = ir.to_proto(model).SerializeToString()
    opened = session(serialized, optimization=optimization, threads=threads, libraries=libraries, options=options)
    opened.shared_weights = shared
    return opened


def structure_bytes(model: ir.Model) -> int:
    """Length of the file without the weights: nodes, names, functions and small tensors."""
    copy = model.clone()
    _set_aside(copy)
    return ir.to_proto(copy).ByteSize()


def _set_aside(model: ir.Model) -> dict[str, np.ndarray]:
    """The arrays of large initializers, which become references to memory in `model`."""
    found = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < SMALL or tensor.dtype not in _PLAIN:
            continue
        found[name] = np.ascontiguousarray(tensor.numpy())
        value.const_value = ir.ExternalTensor("memory", 0, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=name)
    return found
