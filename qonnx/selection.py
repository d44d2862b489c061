"""Which nodes the user wants quantized: names and operator types, exact, glob or regular expression.

A pattern is tried, in this order, as: `re:…` (a regular expression that must match the whole name), the exact name, a
glob (`*`, `?`, `[ab]`). A node answers to its own name and to the names of its outputs, because many exporters (Paddle,
older torch) leave nodes unnamed.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from qonnx.errors import QonnxError
from qonnx.options import nearest


@functools.lru_cache(maxsize=512)
def _regular(pattern: str) -> re.Pattern:
    text = pattern[3:] if pattern.startswith("re:") else fnmatch.translate(pattern)
    try:
        return re.compile(text)
    except re.error as error:
        raise QonnxError(f"'{pattern}' is not a regular expression ({error}); correct it or give a name") from error


def matches(pattern: str, name: str) -> bool:
    """Whether `name` is what `pattern` says: `re:` expression, exact name or glob."""
    return (not pattern.startswith("re:") and pattern == name) or _regular(pattern).fullmatch(name) is not None


def names(node: ir.Node) -> list[str]:
    """The names a node answers to: its own, then those of its outputs."""
    return [name for name in (node.name, *(value.name for value in node.outputs)) if name]


def first_match(patterns: Sequence[str], candidates: Sequence[str]) -> str | None:
    """The first pattern that matches any of the candidate names, or None."""
    return next((pattern for pattern in patterns if any(matches(pattern, name) for name in candidates)), None)


def check_patterns(option: str, patterns: Iterable[str], candidates: Sequence[str]) -> None:
    """Raise QonnxError for a pattern that matches none of the model's names: a typo would be ignored in silence."""
    for pattern in patterns:
        if not any(matches(pattern, name) for name in candidates):
            if pattern.startswith("re:") or set(pattern) & set("*?["):
                remedy = "list the names with 'qonnx inspect MODEL --nodes' (a re: pattern must match the whole name)"
            else:
                hint = nearest(pattern, candidates)
                remedy = hint if hint.startswith("did") else "list the names with 'qonnx inspect MODEL --nodes'"
            raise QonnxError(f"{option} '{pattern}' matches nothing in this model; {remedy}")
