"""Frozen dataclasses to plain JSON values and back: the codec of every report.

JSON has no infinity and no NaN; they are written as the strings "inf", "-inf" and "nan" and read back as floats. The
law is `from_plain(type(x), to_plain(x)) == x` (NaN aside) for every record whose fields are declared with the types
below: bool, int, float, str, None, tuple[T, ...], dict[str, T], other records, and `X | None`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from qonnx.errors import QonnxError

T = TypeVar("T")


def to_plain(x: Any) -> Any:
    """`x` as dicts, lists, strings, finite numbers, booleans and None."""
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return {field.name: to_plain(getattr(x, field.name)) for field in dataclasses.fields(x)}
    if isinstance(x, Mapping):
        return {str(key): to_plain(value) for key, value in x.items()}
    if isinstance(x, list | tuple | set | frozenset):
        return [to_plain(value) for value in x]
    if isinstance(x, np.generic):
        return to_plain(x.item())
    if isinstance(x, float) and not math.isfinite(x):
        return "nan" if math.isnan(x) else "inf" if x > 0 else "-inf"
    if x is None or isinstance(x, bool | int | float | str):
        return x
    return str(x)  # paths, enums: what a person would read


def from_plain(kind: type[T], plain: Any) -> T:
    """The record of type `kind` that `to_plain` turned into `plain`; QonnxError names an unknown or missing field."""
    return _read(kind, plain, kind.__name__)


def _read(kind: Any, plain: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if plain is None:
            return None
        return _read(next(a for a in arguments if a is not type(None)), plain, where)
    if dataclasses.is_dataclass(kind):
        return _read_record(kind, plain, where)
    if origin is tuple:
        return tuple(_read(arguments[0], item, where) for item in plain)
    if origin is dict:
        return {key: _read(arguments[1], value, f"{where}.{key}") for key, value in plain.items()}
    return float(plain) if kind is float else plain


def _read_record(kind: type, plain: Any, where: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if not isinstance(plain, Mapping):
        raise QonnxError(f"{where} should be a JSON object, found {type(plain).__name__}; was the file edited?")
    for key in plain:
        if key not in fields:
            raise QonnxError(f"{where} has an unknown field '{key}'; it was written by another version of qonnx")
    hints = typing.get_type_hints(kind)
    try:
        return kind(**{key: _read(hints[key], value, f"{where}.{key}") for key, value in plain.items()})
    except TypeError as error:
        raise QonnxError(f"{where} lacks a field ({error}); it was written by another version of qonnx") from error
