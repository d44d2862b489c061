"""Load, save and walk models. A model is an `onnx_ir.Model`, never wrapped."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir

from qonnx.errors import QonnxError

OPSETS = range(9, 26)  # what `load` accepts; ONNX Runtime has no kernels above 25
PROTOBUF_LIMIT = 2**31 - 2**20


def load(path: str | os.PathLike) -> ir.Model:
    """Read an ONNX file; external data is mapped, not read."""
    try:
        return ir.load(path)
    except Exception as error:
        raise QonnxError(f"'{path}' is not a readable ONNX model ({error}); check that the file is complete") from error


def graphs(model: ir.Model) -> Iterator[ir.Graph | ir.Function]:
    """Every graph of the model: the main one, control-flow bodies, local functions."""
    yield from model.graphs()


def nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Every node, in topological order within its graph."""
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The value's array if it is an initializer or the output of a Constant node, else None."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def save(model: ir.Model, path: str | os.PathLike, *, force: bool = False) -> int:
    """Write atomically (a temporary file in the same folder, then a rename) and return the bytes on disk."""
    path = pathlib.Path(path)
    if path.exists() and not force:
        raise QonnxError(f"'{path}' exists; pass --force to overwrite it or choose another name with -o")
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as handle:
        temporary = pathlib.Path(handle.name)
    try:
        ir.save(model, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path.stat().st_size


def to_proto(model: ir.Model) -> onnx.ModelProto:
    return ir.to_proto(model)
