"""Encodings as Qualcomm's tools read them: a float model without Q/DQ and a JSON file of its grids.

AIMET writes such files, and qairt-converter takes them with --quantization_overrides. A grid there is always unsigned:
value = scale · (code + offset) with codes from 0 to 2^bits − 1, so that offset = −(zero_point − lowest code).
Version 1.0.0: lists of {name, dtype, enc_type, is_sym, bw, scale, offset}; version 0.6.1: a dict by name of lists of
{bitwidth, dtype, is_symmetric, min, max, offset, scale}, one entry a channel.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

import numpy as np
import onnx_ir as ir

from qonnx.errors import QonnxError
from qonnx.model import load, save
from qonnx.operators import ELIGIBLE
from qonnx.passes.rewire import array, bodies, initializer, integer, is_op, remove_unused

VERSIONS = ("1.0.0", "0.6.1")


@dataclasses.dataclass(frozen=True)
class Grid:
    """The grid of one float tensor: scale and zero_point [entries], axis and block as in DequantizeLinear."""

    name: str
    dtype: ir.DataType
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None
    block: int
    weight: bool

    @property
    def bits(self) -> int:
        return self.dtype.bitwidth

    @property
    def offset(self) -> np.ndarray:
        lowest = -(2 ** (self.bits - 1)) if self.dtype.is_signed() else 0
        return -(self.zero_point.astype(np.int64) - lowest)

    @property
    def symmetric(self) -> bool:
        return bool((self.offset == -(2 ** (self.bits - 1))).all())


@dataclasses.dataclass(frozen=True)
class Encodings:
    """What `encode` wrote. `missing`: tensors of products and convolutions for which the file has no grid."""

    model: pathlib.Path
    file: pathlib.Path
    activations: int
    weights: int
    missing: tuple[str, ...]


def encode(
    model: str | os.PathLike, folder: str | os.PathLike, *, version: str = VERSIONS[0], force: bool = False
) -> Encodings:
    """Write STEM.float.onnx and STEM.encodings.json for the Q/DQ model at path `model`.

    Weights of the float model lie on their grids, so that encoding them again gives the same codes. Raises QonnxError
    for a model without Q/DQ, an unknown version, or files that exist without `force`.
    """
    if version not in VERSIONS:
        raise QonnxError(f"encodings have no version '{version}'; choose {' or '.join(VERSIONS)}")
    folder, stem = pathlib.Path(folder), pathlib.Path(model).stem
    plain = load(model)
    grids = take_grids(plain)
    if not grids:
        raise QonnxError(f"'{model}' has no Q/DQ to take encodings from; convert it with 'qonnx convert --target qnn'")
    folder.mkdir(parents=True, exist_ok=True)
    float_file, file = folder / f"{stem}.float.onnx", folder / f"{stem}.encodings.json"
    if file.exists() and not force:
        raise QonnxError(f"'{file}' exists; pass --force to overwrite it or choose another folder with -o")
    save(plain, float_file, force=force)
    file.write_text(json.dumps(as_json(grids, version), indent=1) + "\n")
    count = sum(grid.weight for grid in grids)
    return Encodings(float_file, file, len(grids) - count, count, missing(plain, grids))


def take_grids(model: ir.Model) -> list[Grid]:
    """Remove every Q/DQ from `model` and return their grids, under the names of the float tensors that are left."""
    found: dict[str, Grid] = {}
    for graph in bodies(model):
        for node in [node for node in graph if is_op(node, "DequantizeLinear")]:
            codes = node.inputs[0]
            if array(codes) is not None:
                grid = _weight(node)
            elif is_op(codes.producer(), "QuantizeLinear") and all(
                is_op(user, "DequantizeLinear") for user in codes.consumers()
            ):
                grid = _activation(node)
            else:
                continue
            if grid is not None and grid.bits <= 16:
                found.setdefault(grid.name, grid)
    return list(found.values())


def missing(model: ir.Model, grids: list[Grid]) -> tuple[str, ...]:
    """Inputs of products and convolutions that have no grid: a tool would make up one or stay in float."""
    known, found = {grid.name for grid in grids}, []
    for graph in bodies(model):
        for node in graph:
            if node.op_type in ELIGIBLE and node.op_type != "Gather":
                found += [v.name for v in node.inputs[:2] if v is not None and v.name not in known]
    return tuple(dict.fromkeys(found))


def as_json(grids: list[Grid], version: str) -> dict:
    """The file's content."""
    parts = {True: [grid for grid in grids if grid.weight], False: [grid for grid in grids if not grid.weight]}
    rows = {
        "activation_encodings": [_row(grid) for grid in parts[False]],
        "param_encodings": [_row(grid) for grid in parts[True]],
    }
    if version == "0.6.1":
        rows = {
            "activation_encodings": {grid.name: _old_rows(grid) for grid in parts[False]},
            "param_encodings": {grid.name: _old_rows(grid) for grid in parts[True]},
        }
    return {"version": version, **rows}


def _row(grid: Grid) -> dict:
    kind = "PER_TENSOR" if grid.axis is None else "PER_BLOCK" if grid.block else "PER_CHANNEL"
    row = {"name": grid.name, "dtype": "INT", "enc_type": kind, "is_sym": grid.symmetric, "bw": grid.bits}
    row |= {"scale": grid.scale.reshape(-1).tolist(), "offset": grid.offset.reshape(-1).tolist()}
    return row | ({"block_size": grid.block} if grid.block else {})


def _old_rows(grid: Grid) -> list[dict]:
    if grid.block:
        raise QonnxError(f"encodings 0.6.1 have no blocks, and '{grid.name}' has blocks of {grid.block}; use 1.0.0")
    return [
        {
            "bitwidth": grid.bits,
            "dtype": "int",
            "is_symmetric": str(grid.symmetric),
            "min": scale * offset,
            "max": scale * (offset + 2**grid.bits - 1),
            "offset": offset,
            "scale": scale,
        }
        for scale, offset in zip(grid.scale.reshape(-1).tolist(), grid.offset.reshape(-1).tolist(), strict=True)
    ]


def _parameters(node: ir.Node, dtype: ir.DataType) -> tuple[np.ndarray, np.ndarray, int | None, int]:
    """scale, zero_point, axis, block of a DequantizeLinear; one scale repeated along an axis is one scale."""
    scale = array(node.inputs[1]).astype(np.float64)
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero = np.zeros(scale.shape, np.int64) if given is None else array(given).astype(np.int64)
    same = scale.size and (scale == scale.flat[0]).all() and (zero == zero.flat[0]).all()
    if scale.ndim == 0 or (same and array(node.inputs[0]) is None):
        return scale.reshape(-1)[:1], zero.reshape(-1)[:1], None, 0
    return scale, zero, integer(node, "axis", 1), integer(node, "block_size", 0)


def _weight(node: ir.Node) -> Grid | None:
    """A stored weight becomes a float initializer, under the name of what DequantizeLinear made."""
    codes, output = node.inputs[0], node.outputs[0]
    dtype = codes.dtype or codes.const_value.dtype
    scale, zero, axis, block = _parameters(node, dtype)
    wide = array(codes).astype(np.float64)
    if axis is not None:
        axis %= wide.ndim
        if block:
            spread = [np.repeat(part, block, axis).take(range(wide.shape[axis]), axis) for part in (scale, zero)]
        else:
            shape = [-1 if i == axis else 1 for i in range(wide.ndim)]
            spread = [part.reshape(shape) for part in (scale, zero)]
    else:
        spread = [scale.reshape(-1)[0], zero.reshape(-1)[0]]
    kind = array(node.inputs[1]).dtype
    name = output.name.removesuffix("_dequantized")
    stored = initializer(node.graph, name, ((wide - spread[1]) * spread[0]).astype(kind))
    if output.is_graph_output():
        return None
    output.replace_all_uses_with(stored)
    remove_unused([node])
    return Grid(stored.name, dtype, scale, zero, axis, block, True)


def _activation(node: ir.Node) -> Grid:
    """Readers of a Q/DQ pair read the float value; a graph output gives it its name."""
    quantize = node.inputs[0].producer()
    value, output, dtype = quantize.inputs[0], node.outputs[0], node.inputs[0].dtype
    if dtype is None:
        zero = quantize.inputs[2] if len(quantize.inputs) > 2 else None
        dtype = ir.DataType.UINT8 if zero is None else (zero.dtype or zero.const_value.dtype)
    scale, zero, axis, block = _parameters(node, dtype)
    if output.is_graph_output() and (value.producer() is None or value.is_graph_output()):
        raise QonnxError(f"output '{output.name}' is a quantized copy of '{value.name}'; encodings cannot say that")
    if output.is_graph_output():
        name, graph = output.name, node.graph
        output.name = None
        output.replace_all_uses_with(value, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        value.name = name
    else:
        output.replace_all_uses_with(value)
    remove_unused([node, quantize])
    return Grid(value.name, dtype, scale, zero, axis, block, False)
