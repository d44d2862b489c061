"""Options checked at the edge: names against dataclass fields (naming the nearest), values against annotations."""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from qonnx.errors import QonnxError

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", pathlib.Path: "a path"}


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, or the list of all when nothing is near."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(name.lower(), by_lower, 1, cutoff=0.55)
    return f"did you mean '{by_lower[near[0]]}'?" if near else f"known are {', '.join(by_lower.values())}"


def check_names(given: Iterable[str], known: Iterable[str], what: str, where: str = "") -> None:
    """Raise QonnxError for the first name of `given` that is not in `known`: "unknown {what} 'x' {where}; did you…"."""
    known = list(known)
    for name in given:
        if name not in known:
            raise QonnxError(f"unknown {what} '{name}'{' ' if where else ''}{where}; {nearest(name, known)}")


def annotations(kind: type) -> dict[str, Any]:
    """Resolved annotation of every dataclass field of `kind`."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def checked(value: Any, annotation: Any, what: str) -> Any:
    """`value` as `annotation` demands it (lists become tuples, strings paths, whole numbers floats).

    Understands bool, int, float, str, Path, Literal, unions with None, tuple[X, ...], tuple[X, Y], Mapping and dict;
    other annotations accept anything. `what` names the option in the error: "option 'bits' of pass 'assign'".
    """
    problem, result = _fit(value, annotation)
    if problem:
        raise QonnxError(f"{what} is {value!r} but must be {problem}")
    return result


def _fit(value: Any, annotation: Any) -> tuple[str, Any]:
    """(what it must be instead, value as the annotation demands); the first is empty when the value fits."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        tried = [_fit(value, choice) for choice in inner if choice is not type(None)]
        if value is None and type(None) in inner:
            return "", None
        fitting = [result for problem, result in tried if not problem]
        return ("", fitting[0]) if fitting else (" or ".join(problem for problem, _ in tried), value)
    if origin is typing.Literal:
        if value in inner:
            return "", value
        hint = f" ({nearest(value, [str(x) for x in inner])})" if isinstance(value, str) else ""
        return f"one of {', '.join(map(str, inner))}{hint if 'did you' in hint else ''}", value
    if origin is tuple:
        return _fit_tuple(value, inner)
    if origin in (dict, Mapping) or annotation in (dict, Mapping):
        return _fit_mapping(value, inner)
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return "", float(value)
    if annotation is pathlib.Path and isinstance(value, str):
        return "", pathlib.Path(value)
    if annotation in _WORDS:
        wrong_bool = isinstance(value, bool) and annotation is not bool
        return ("", value) if isinstance(value, annotation) and not wrong_bool else (_WORDS[annotation], value)
    return "", value


def _fit_tuple(value: Any, inner: tuple) -> tuple[str, Any]:
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        return "a list", value
    if len(inner) == 2 and inner[1] is Ellipsis:
        inner = (inner[0],) * len(value)
    elif inner and len(inner) != len(value):
        return f"a list of {len(inner)}", value
    fits = [_fit(x, kind) for x, kind in zip(value, inner or (Any,) * len(value), strict=True)]
    problem = next((problem for problem, _ in fits if problem), "")
    return (f"a list, each entry {problem}" if problem else ""), tuple(result for _, result in fits)


def _fit_mapping(value: Any, inner: tuple) -> tuple[str, Any]:
    if not isinstance(value, Mapping):
        return "a table of names and values", value
    kind = inner[1] if inner else Any
    fits = {key: _fit(x, kind) for key, x in value.items()}
    problem = next((problem for problem, _ in fits.values() if problem), "")
    return (f"a table, each value {problem}" if problem else ""), {k: x for k, (_, x) in fits.items()}
