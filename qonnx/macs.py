"""Multiply-adds of each node, for the shapes that tensors really have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from qonnx.calibrate import run
from qonnx.lean import lean_session
from qonnx.observers import expose_shapes

COUNTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")


def macs(
    model: ir.Model, sample: dict[str, np.ndarray], *, threads: int | None = None, libraries: Sequence[str] = ()
) -> dict[str, int]:
    """Multiply-adds of every Conv, ConvTranspose, MatMul and Gemm of the main graph for `sample`, by name of node.

    The model is run once and says its own shapes: symbolic shape inference fails on models that compute shapes.
    """
    clone = model.clone()
    wanted = [v.name for node in counted(model) for v in (node.inputs[0], node.outputs[0]) if v is not None]
    names = expose_shapes(clone, dict.fromkeys(wanted))
    session = lean_session(clone, threads=threads, libraries=libraries)
    found = run(session, list(names.values()), sample, 0)
    shapes = {name: tuple(int(n) for n in shape) for name, shape in zip(names, found, strict=True)}
    return {node.name: n for node, n in macs_from_shapes(model, shapes).items()}


def counted(model: ir.Model) -> list[ir.Node]:
    """The nodes of the main graph that multiply matrices or convolve."""
    return [node for node in model.graph if node.domain == "" and node.op_type in COUNTED]


def macs_from_shapes(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> dict[ir.Node, int]:
    """Multiply-adds by node, from shapes by name of value; nodes of unknown shape are left out."""
    result = {}
    for node in counted(model):
        first, weight, out = (_shape(v, shapes) for v in (node.inputs[0], node.inputs[1], node.outputs[0]))
        if first is None or out is None:
            continue
        if node.op_type == "MatMul":
            result[node] = int(np.prod(out)) * first[-1]
        elif node.op_type == "Gemm":
            result[node] = int(np.prod(out)) * first[0 if node.attributes.get_int("transA", 0) else -1]
        elif weight is not None:  # [M, C/group, taps…] slides over the output, [C, M/group, taps…] over the input
            places = out if node.op_type == "Conv" else first
            result[node] = int(np.prod(places)) * int(np.prod(weight[1:]))
    return result


def _shape(value: ir.Value | None, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    if value is None:
        return None
    if value.name in shapes:
        return shapes[value.name]
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tuple(tensor.shape.numpy())
