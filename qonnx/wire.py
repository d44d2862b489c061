"""Protobuf's wire format, as far as needed to read and write a model without holding its weights in memory.

A message is a list of fields, each a varint key `number << 3 | type` and a value; types 0 (varint), 1 (8 bytes), 2 (a
length and that many bytes) and 5 (4 bytes). Weights are the `raw_data` of TensorProtos. `strip` replaces each long one
by a reference (as if it were external data) to its place in the file, so that the parsed model is small and the weights
can be mapped; `append_tensor` and `graph_header` let a writer put tensors at the end of a serialised graph one after
the other.
"""

from __future__ import annotations

from collections.abc import Iterator

SELF = "qonnx:this-file"  # location of external data that lies in the model file itself
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14  # fields of TensorProto

# Which fields of which message can hold tensors, by onnx.proto: field number -> message of the field.
_TENSOR: dict = {}
_GRAPH: dict = {}
_NODE: dict = {5: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH}}  # attribute: t, g, tensors, graphs
_GRAPH.update({1: _NODE, 5: _TENSOR})  # node, initializer
_MODEL: dict = {7: _GRAPH, 25: {7: _NODE}}  # graph, functions


class Truncated(ValueError):
    """The bytes end inside a field."""


def varint(number: int) -> bytes:
    """An unsigned number in 7-bit groups, lowest first."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def strip(data, limit: int) -> bytes:
    """The ModelProto in `data` (any buffer), with every `raw_data` of more than `limit` bytes referred to, not held.

    Raises Truncated if the buffer ends too early, ValueError if it is no protobuf message.
    """
    return b"".join(_strip(data, 0, len(data), _MODEL, limit))


def _strip(data, start: int, end: int, message: dict, limit: int) -> list[bytes]:
    pieces: list[bytes] = []
    copied = start  # everything before it is in `pieces`
    reference = b""
    for number, kind, key, value, stop in _fields(data, start, end):
        if kind != 2 or stop - value <= limit:
            continue
        if message is _TENSOR and number == _RAW_DATA:
            pieces.append(bytes(data[copied:key]))
            reference = _reference(value, stop - value)
        elif message is not _TENSOR and number in message:
            inner = b"".join(_strip(data, value, stop, message[number], limit))
            pieces += [bytes(data[copied:key]), field(number, inner)]
        else:
            continue
        copied = stop
    pieces.append(bytes(data[copied:end]))
    pieces.append(reference)
    return pieces


def _fields(data, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(number, type, start of the key, start of the value, end of the value) of each field."""
    position = start
    while position < end:
        key_start = position
        key, position = _read_varint(data, position, end)
        kind, number = key & 7, key >> 3
        if number == 0:
            raise ValueError("field number 0")
        if kind == 0:
            value = position
            _, position = _read_varint(data, position, end)
        elif kind == 2:
            length, value = _read_varint(data, position, end)
            position = value + length
        elif kind in (1, 5):
            value, position = position, position + (8 if kind == 1 else 4)
        else:
            raise ValueError(f"wire type {kind}")
        if position > end:
            raise Truncated(f"{position - end} bytes are missing")
        yield number, kind, key_start, value, position


def _read_varint(data, position: int, end: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise Truncated("the file ends inside a number")
        byte = data[position]
        position += 1
        result |= (byte & 127) << shift
        if byte < 128:
            return result, position
    raise ValueError("number of more than 64 bits")


def _reference(offset: int, length: int) -> bytes:
    entries = (("location", SELF), ("offset", str(offset)), ("length", str(length)))
    pairs = [field(1, k.encode()) + field(2, v.encode()) for k, v in entries]
    return b"".join(field(_EXTERNAL_DATA, pair) for pair in pairs) + varint(_DATA_LOCATION << 3) + varint(1)


def tensor_prefix(header: bytes, size: int) -> bytes:
    """What goes before the `size` raw bytes of an initializer at the end of a GraphProto; `header` is the rest of
    it."""
    tail = varint(_RAW_DATA << 3 | 2) + varint(size)
    return varint(5 << 3 | 2) + varint(len(header) + len(tail) + size) + header + tail


def graph_prefix(size: int) -> bytes:
    """What goes before the `size` bytes of the graph at the end of a ModelProto."""
    return varint(7 << 3 | 2) + varint(size)
