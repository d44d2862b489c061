"""Statistics on disk: one .npz file of plain arrays and a JSON header, so that calibration can resume, split and merge.

Layout: `header` is UTF-8 JSON bytes: version, fingerprint of the model, and for each tensor a number and scalars;
arrays are stored as `<number>/<field>`. Nothing in it is pickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from qonnx.errors import QonnxError
from qonnx.histogram import Histogram
from qonnx.stats import Gram, Stats, Window

VERSION = 1
_SCALARS = ("samples", "elements", "minimum", "maximum", "non_finite", "shape", "channel_axis")
_ARRAYS = ("channel_minimum", "channel_maximum", "channel_sum")


def fingerprint(model: ir.Model) -> str:
    """A name for the model's graph and weights: statistics of one model mean nothing for another."""
    digest = hashlib.blake2b(digest_size=16)
    for graph in model.graphs():
        for value in graph.inputs:
            digest.update(f"in {value.name}".encode())
        for node in graph:
            names = [[v.name if v is not None else "" for v in side] for side in (node.inputs, node.outputs)]
            digest.update(f"{node.domain}:{node.op_type} {names}".encode())
            for attribute in node.attributes.values():
                if attribute.type is ir.AttributeType.TENSOR:
                    digest.update(attribute.as_tensor().tobytes())
                elif attribute.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                    digest.update(f"{attribute.name}={attribute.value}".encode())
        for name, value in getattr(graph, "initializers", {}).items():
            if value.const_value is not None:
                digest.update(f"{name} {value.const_value.dtype} {value.const_value.shape}".encode())
                digest.update(value.const_value.tobytes())
    return digest.hexdigest()


def save_stats(path: str | os.PathLike, stats: Mapping[str, Stats], fingerprint: str) -> None:
    """Write atomically: a temporary file in the same folder, then a rename."""
    path = pathlib.Path(path)
    tensors, arrays = {}, {}
    for number, (name, s) in enumerate(stats.items()):
        row = {field: getattr(s, field) for field in _SCALARS}
        kept = {field: getattr(s, field) for field in _ARRAYS if getattr(s, field) is not None}
        if s.histogram is not None:
            row["histogram"] = [s.histogram.exponent, s.histogram.first]
            kept["histogram"] = s.histogram.counts
        if s.gram is not None:
            row["gram"] = [s.gram.rows, s.gram.window and dataclasses.asdict(s.gram.window)]
            kept["gram"], kept["gram_mean"] = s.gram.matrix, s.gram.mean
        tensors[name] = {"number": number, **row}
        arrays.update({f"{number}/{field}": array for field, array in kept.items()})
    header = json.dumps({"version": VERSION, "fingerprint": fingerprint, "tensors": tensors})
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as out:
            np.savez(out, header=np.frombuffer(header.encode(), np.uint8), **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_stats(path: str | os.PathLike, fingerprint: str | None = None) -> dict[str, Stats]:
    """Read statistics; those of another model than `fingerprint` names are refused."""
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(bytes(file["header"]))
            if header["version"] != VERSION:
                raise QonnxError(
                    f"statistics file '{path}' has version {header['version']}, but this program reads {VERSION}; "
                    "delete it and observe again"
                )
            if fingerprint is not None and header["fingerprint"] != fingerprint:
                raise QonnxError(
                    f"statistics file '{path}' belongs to another model (or the recipe prepares it differently); "
                    "choose another file name with --stats, or delete it"
                )
            return {name: _read(row, file) for name, row in header["tensors"].items()}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise QonnxError(f"'{path}' is not a statistics file ({error}); delete it and observe again") from error


def _read(row: dict, file: Mapping[str, np.ndarray]) -> Stats:
    number = row["number"]
    fields = {field: row[field] for field in _SCALARS}
    fields["shape"] = None if row["shape"] is None else tuple(row["shape"])
    for field in _ARRAYS:
        fields[field] = file.get(f"{number}/{field}")
    if "histogram" in row:
        fields["histogram"] = Histogram(*row["histogram"], file[f"{number}/histogram"])
    if "gram" in row:
        rows, window = row["gram"]
        window = window and Window(**{k: tuple(v) if isinstance(v, list) else v for k, v in window.items()})
        fields["gram"] = Gram(file[f"{number}/gram"], file[f"{number}/gram_mean"], rows, window)
    return Stats(**fields)
