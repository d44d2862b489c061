"""What ONNX Runtime really runs: its optimised graph, read back and mapped to the nodes of the file.

A quantized file promises nothing: a Q/DQ pair that the runtime cannot fuse costs time instead of saving it. So the
session writes its optimised graph, whose compute nodes are sorted into integer kernels, integer weights with other
arithmetic, and floats. The graph also tells how many bytes of constants the runtime keeps.
"""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence

import onnx
import onnx_ir as ir
import onnxruntime as ort

from qonnx.comparison import Fusion, RuntimeNode
from qonnx.multiply_adds import multiply_adds
from qonnx.operators import ELIGIBLE, FLOAT_COMPUTE, INTEGER_OPERATORS, WEIGHT_ONLY_OPERATORS
from qonnx.runtime import session


def optimized(
    model: ir.Model | str | os.PathLike,
    threads: int | None = None,
    libraries: Sequence[str] = (),
    *,
    native: bool = True,
) -> onnx.ModelProto:
    """The graph that ONNX Runtime makes of `model` at its default level, large constants without their data.

    native: with our library; without it, operators of ours become what their functions say.
    """
    with tempfile.TemporaryDirectory(prefix="qonnx-") as folder:
        path = pathlib.Path(folder, "optimized.onnx")
        options = ort.SessionOptions()
        options.optimized_model_filepath = os.fspath(path)
        # Constants go to a file beside it, which is never read: the graph stays small and has no 2 GB limit.
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "constants.bin")
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        session(model, threads=threads, libraries=libraries, options=options, native=native)
        return onnx.load(path, load_external_data=False)


def memory_bytes(graph: onnx.GraphProto) -> int:
    """Bytes of the graph's constants. Kernels that repack a weight hold as much again or free the original."""
    return sum(_tensor_bytes(tensor) for tensor in graph.initializer)


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    elements = 1
    for size in tensor.dims:
        elements *= size
    return (elements * ir.DataType(tensor.data_type).bitwidth + 7) // 8 if tensor.data_type != 8 else 0


def fusion(model: ir.Model, graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> Fusion:
    """Compute nodes of the optimised `graph`, by kind, with the nodes of `model` that they came from.

    `shapes` are those of the model's tensors on one sample; they weigh the shares. Empty: no shares.
    """
    eligible = ELIGIBLE | INTEGER_OPERATORS | WEIGHT_ONLY_OPERATORS
    originals = {n.name: n for n in model.graph if n.op_type in eligible and n.op_type != "Gather" and n.name}
    by_length = sorted(originals, key=len, reverse=True)
    producers = {value.name: node for node in model.graph for value in node.outputs if value.name}
    found = []
    for node in graph.node:
        kind = _kind(node.op_type)
        if kind:
            origin = _origin(node, originals, by_length, producers)
            count = multiply_adds(originals[origin], shapes) if origin else None
            found.append(RuntimeNode(node.op_type, origin, kind, count))
    unclear = sum(not node.origin for node in found)
    note = f"{unclear} of {len(found)} compute nodes could not be traced to the file" if unclear else ""
    return Fusion(tuple(found), _shares(found), note)


def _kind(operator: str) -> str:
    if operator in INTEGER_OPERATORS:
        return "integer"
    if operator in WEIGHT_ONLY_OPERATORS:
        return "weight-only"
    return "float" if operator in FLOAT_COMPUTE else ""


def _origin(node: onnx.NodeProto, originals: Mapping, by_length: Sequence[str], producers: Mapping) -> str:
    """Name of the file's compute node behind a runtime node: the same name, a name that contains it (fusions append to
    the name), or the nearest compute node behind its output."""
    if node.name in originals:
        return node.name
    for name in by_length:
        if node.name.startswith(name):
            return name
    for output in node.output:
        current = producers.get(output.removesuffix("_nchwc").removesuffix("_nhwc"))
        for _ in range(16):  # Q, DQ, bias, activation, … : a fused region is short
            if current is None or current.name in originals:
                break
            value = current.inputs[0] if current.inputs else None
            current = value.producer() if value is not None else None
        if current is not None and current.name in originals:
            return current.name
    return ""


def _shares(nodes: Sequence[RuntimeNode]) -> dict[str, float]:
    total = sum(node.macs or 0 for node in nodes)
    if not total:
        return {}
    return {k: sum(n.macs or 0 for n in nodes if n.kind == k) / total for k in ("integer", "weight-only", "float")}
