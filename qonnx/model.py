"""Load, save and walk models. A model is an `onnx_ir.Model`, never wrapped.

Weights are mapped, not read: `load` parses the file without them (see wire.py) and gives each tensor a view of the
mapped file, whether it lies inside or in external data beside it. `save` streams one tensor at a time. Neither holds a
second copy of the weights, and the 2 GiB limit of a protobuf message shows only in that longer models get a data file.
"""

from __future__ import annotations

import difflib
import hashlib
import mmap
import os
import pathlib
import re
import tempfile
from collections.abc import Iterable, Iterator

import google.protobuf.message
import numpy as np
import onnx
import onnx_ir as ir

from qonnx import soundness, wire
from qonnx.errors import QonnxError

PROTOBUF_LIMIT = 2**31 - 2**20
_MAPPED = 1024  # bytes; smaller tensors are parsed with the rest
_FILES = "qonnx.files"  # key of Model.meta: the files that a loaded model's data lies in
_MAPS = "qonnx.maps"  # likewise: the mapped files, to give their pages back
_RESIDENT = 1 << 24  # bytes of mapped weights read before they are given back
_ALIGNMENT = 64  # of tensors in a data file: what vector instructions like

# First bytes of files that people take for ONNX, and what they are.
_MISTAKEN = {
    b"PK\x03\x04": "a zip archive (a PyTorch checkpoint or an archive to unpack)",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file with 'git lfs pull'",
    b"\x89HDF": "an HDF5 file",
    b"<!DOCTYPE": "a web page; the download failed",
    b"<html": "a web page; the download failed",
    b"\x1f\x8b": "gzip-compressed; unpack it first",
}


def load(path: str | os.PathLike) -> ir.Model:
    """Read an ONNX model of any size; weights and external data are mapped, not read.

    Raises QonnxError (one sentence that names the file and the fault) if there is no such file, if it is no ONNX model,
    truncated or inconsistent, if external data is missing, short or outside the model's folder, if a weight is not
    finite, or if the opset is not supported.
    """
    path = pathlib.Path(path)
    data = _map(_existing(path))
    try:
        proto = onnx.ModelProto.FromString(wire.strip(data, _MAPPED))
        model = ir.from_proto(proto)
    except wire.Truncated as error:
        raise QonnxError(f"'{path}' is truncated or not an ONNX model ({error}); {_guess(data)}") from error
    except (google.protobuf.message.DecodeError, ValueError, TypeError, KeyError, ir.serde.SerdeError) as error:
        raise QonnxError(f"'{path}' is not an ONNX model; {_guess(data)}") from error
    maps = {wire.SELF: data}
    files = [path.resolve()]
    _attach(model, path, maps, files)
    model.meta[_FILES], model.meta[_MAPS] = tuple(files), tuple(maps.values())
    soundness.check(model, str(path), lambda: release(model))
    return model


def _existing(path: pathlib.Path) -> pathlib.Path:
    if path.is_dir():
        inside = sorted(path.glob("*.onnx"))
        hint = f"give the file in it, such as '{inside[0]}'" if inside else "give the path of an .onnx file"
        raise QonnxError(f"'{path}' is a folder; {hint}")
    if not path.exists():
        folder = path.parent if path.parent.is_dir() else None
        near = difflib.get_close_matches(path.name, [p.name for p in folder.iterdir()], 1) if folder else []
        hint = f"did you mean '{path.parent / near[0]}'?" if near else "check the path"
        raise QonnxError(f"'{path}' does not exist; {hint}")
    if not path.is_file():
        raise QonnxError(f"'{path}' is not a regular file; give the path of an .onnx file")
    if path.stat().st_size == 0:
        raise QonnxError(f"'{path}' is empty; export or download it again")
    return path


def _map(path: pathlib.Path) -> mmap.mmap:
    try:
        with open(path, "rb") as handle:
            return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise QonnxError(f"'{path}' cannot be read: {error.strerror}") from error


def release(model: ir.Model) -> None:
    """Give back the memory of mapped weights that were read; they are read again when needed.

    Worth calling after all weights were gone through: what stays resident counts as the process's memory.
    """
    for data in model.meta.get(_MAPS, ()):
        if data and hasattr(mmap, "MADV_DONTNEED"):
            data.madvise(mmap.MADV_DONTNEED)


def _guess(data: mmap.mmap) -> str:
    head = bytes(data[:64])
    for start, what in _MISTAKEN.items():
        if head.startswith(start):
            return f"it is {what}"
    if head[4:8] == b"TFL3":
        return "it is a TensorFlow Lite model; convert it with tf2onnx"
    if head[4:8] == b"ORTM":
        return "it is in ORT format; give the .onnx file that it was made from"
    return "check that the file is complete"


def _attach(model: ir.Model, path: pathlib.Path, maps: dict, files: list[pathlib.Path]) -> None:
    """Replace every reference to data in a file by a view of the mapped file."""
    for body in [*model.graphs(), *(f.graph for f in model.functions.values())]:
        for value in body.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = _view(value.const_value, path, maps, files)
        for node in body:
            for name, attribute in list(node.attributes.items()):
                if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                    node.attributes[name] = ir.AttrTensor(name, _view(attribute.value, path, maps, files))


def _view(tensor: ir.ExternalTensor, path: pathlib.Path, maps: dict, files: list[pathlib.Path]) -> ir.TensorProtocol:
    location = os.fspath(tensor.location)
    if location not in maps:
        found = _beside(path, location, tensor.name or "")
        maps[location] = _map(found) if found.stat().st_size else b""
        files.append(found.resolve())
    count, offset = tensor.size, tensor.offset or 0
    size = (count * tensor.dtype.bitwidth + 7) // 8
    available = len(maps[location]) - offset if tensor.length is None else tensor.length
    if available < size or offset + size > len(maps[location]):
        where = "its own data" if location == wire.SELF else f"'{location}'"
        have = max(0, min(available, len(maps[location]) - offset))
        raise QonnxError(f"'{path}': tensor '{tensor.name}' needs {size} bytes and {where} has {have}; copy it again")
    if tensor.dtype.bitwidth < 8:
        codes = np.frombuffer(maps[location], np.uint8, size, offset)
        return ir.PackedTensor(codes, tensor.dtype, shape=tensor.shape, name=tensor.name)
    data = np.frombuffer(maps[location], tensor.dtype.numpy(), count, offset).reshape(tensor.shape.numpy())
    return ir.Tensor(data, dtype=tensor.dtype, shape=tensor.shape, name=tensor.name)


def _beside(path: pathlib.Path, location: str, name: str) -> pathlib.Path:
    """The external data file; it must lie in the model's folder (or, for links of a download cache, beside the
    target)."""
    outside = QonnxError(
        f"'{path}': tensor '{name}' refers to '{location}', which is outside the model's folder; "
        "put the data beside the model"
    )
    relative = os.path.normpath(location)
    if os.path.isabs(location) or relative.split(os.sep)[0] == "..":
        raise outside
    found = path.parent / relative
    if not found.is_file():
        raise QonnxError(f"'{path}': its data file '{found}' is missing; copy it beside the model")
    target = found.resolve()
    if not any(target.is_relative_to(folder) for folder in (path.parent.resolve(), path.resolve().parent)):
        raise outside
    return found


def files(model: ir.Model) -> tuple[pathlib.Path, ...]:
    """The files that the model was loaded from; nothing is ever written over them."""
    return model.meta.get(_FILES, ())


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


def sizes(model: ir.Model) -> dict[str, int]:
    """Bytes of every initializer of every graph, by name; sub-byte types packed as the file packs them."""
    return {
        value.name: value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    }


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as one protobuf message, weights included; QonnxError above the format's 2 GiB."""
    if sum(sizes(model).values()) > PROTOBUF_LIMIT:
        raise QonnxError("the model is longer than the 2 GiB of a protobuf message; save it to a file instead")
    return ir.to_proto(model)


def save(model: ir.Model, path: str | os.PathLike, *, force: bool = False, check: bool = False) -> int:
    """Write the model, with a data file beside it if it is longer than a protobuf message may be; the bytes on disk.

    Both files are written under temporary names and renamed when complete, the data file under a name that depends on
    its content: a full disk or a killed process leaves what was there. `check` runs ONNX's full checker on the result
    before the rename. Raises QonnxError if the path exists without `force`, belongs to the model's own input, or cannot
    be written.
    """
    path = pathlib.Path(path)
    _may_write(model, path, force)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            temporary = pathlib.Path(folder) / path.name
            data = write(model, temporary, external=sum(sizes(model).values()) > PROTOBUF_LIMIT)
            if check:
                onnx.checker.check_model(os.fspath(temporary), full_check=True)
            written = [temporary] if data is None else [data, temporary]
            total = sum(p.stat().st_size for p in written)
            for file in written:  # data first: a model without its data must never be seen
                os.replace(file, path.parent / file.name)
    except OSError as error:
        raise QonnxError(f"'{path}' could not be written: {error.strerror}; nothing was changed") from error
    _remove_old_data(model, path, data)
    return total


def _may_write(model: ir.Model, path: pathlib.Path, force: bool) -> None:
    if path.is_dir():
        raise QonnxError(f"'{path}' is a folder; give a file name with -o")
    if not path.parent.is_dir():
        raise QonnxError(f"the folder '{path.parent}' does not exist; create it or choose another with -o")
    if path.resolve() in files(model):
        raise QonnxError(f"'{path}' is an input of this conversion and never overwritten; choose another name with -o")
    if path.exists() and not force:
        raise QonnxError(f"'{path}' exists; pass --force to overwrite it or choose another name with -o")


def _remove_old_data(model: ir.Model, path: pathlib.Path, data: pathlib.Path | None) -> None:
    """Data files that an overwritten model of this name left; only names of our own making."""
    ours = re.compile(re.escape(path.name) + r"\.[0-9a-f]{12}\.data")
    for old in path.parent.iterdir():
        current = data is not None and old.name == data.name
        if ours.fullmatch(old.name) and not current and old.resolve() not in files(model):
            old.unlink()


def write(model: ir.Model, path: pathlib.Path, *, external: bool) -> pathlib.Path | None:
    """Write the model to `path` as it is, tensor by tensor; the data file's path if `external`.

    Inside the file, long initializers go to the end of the graph, whose order has no meaning.
    """
    bodies = list(model.graphs()) if external else [model.graph]
    long = [
        value
        for body in bodies
        for value in body.initializers.values()
        if value.const_value is not None and value.const_value.nbytes > _MAPPED and value.dtype != ir.DataType.STRING
    ]
    tensors = [value.const_value for value in long]
    data, offsets = _write_data(model, tensors, path) if external else (None, [0] * len(long))
    try:
        for value, tensor, offset in zip(long, tensors, offsets, strict=True):
            value.const_value = ir.ExternalTensor(
                data.name if data else wire.SELF,
                offset,
                tensor.nbytes,
                tensor.dtype,
                shape=tensor.shape,
                name=value.name,
            )
        proto = ir.to_proto(model)
    finally:
        for value, tensor in zip(long, tensors, strict=True):
            value.const_value = tensor
    with open(path, "wb") as handle:
        if external:
            handle.write(proto.SerializeToString())
        else:
            _write_inside(model, proto, {v.name: t for v, t in zip(long, tensors, strict=True)}, handle)
        handle.flush()
        os.fsync(handle.fileno())
    return data


def _stream(model: ir.Model, tensors: Iterable[ir.TensorProtocol]) -> Iterator[bytes]:
    """The bytes of each tensor, giving back mapped memory on the way."""
    read = 0
    for tensor in tensors:
        yield tensor.tobytes()
        read += tensor.nbytes
        if read > _RESIDENT:
            release(model)
            read = 0
    release(model)


def _write_data(
    model: ir.Model, tensors: list[ir.TensorProtocol], path: pathlib.Path
) -> tuple[pathlib.Path, list[int]]:
    """The tensors one after the other, aligned; each distinct tensor object once."""
    places: dict[int, int] = {}
    digest = hashlib.blake2b(digest_size=6)
    temporary = path.with_name(f"{path.name}.data")
    distinct = list({id(tensor): tensor for tensor in tensors}.values())
    with open(temporary, "wb") as handle:
        for tensor, content in zip(distinct, _stream(model, distinct), strict=True):
            padding = bytes(-handle.tell() % _ALIGNMENT)
            places[id(tensor)] = handle.tell() + len(padding)
            for part in (padding, content):
                handle.write(part)
                digest.update(part)
        handle.flush()
        os.fsync(handle.fileno())
    final = path.with_name(f"{path.name}.{digest.hexdigest()}.data")
    return temporary.rename(final), [places[id(tensor)] for tensor in tensors]


def _write_inside(model: ir.Model, proto: onnx.ModelProto, tensors: dict[str, ir.TensorProtocol], handle) -> None:
    """Everything but the graph, then the graph with the long tensors at its end."""
    prefixes = []
    for entry in proto.graph.initializer:
        if entry.name in tensors:
            del entry.external_data[:]
            entry.ClearField("data_location")
            prefixes.append(
                (wire.tensor_prefix(entry.SerializeToString(), tensors[entry.name].nbytes), tensors[entry.name])
            )
    kept = [entry for entry in proto.graph.initializer if entry.name not in tensors]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    handle.write(proto.SerializeToString())
    handle.write(wire.graph_prefix(len(graph) + sum(len(p) + t.nbytes for p, t in prefixes)))
    handle.write(graph)
    for (prefix, _), data in zip(prefixes, _stream(model, [t for _, t in prefixes]), strict=True):
        handle.write(prefix)
        handle.write(data)
