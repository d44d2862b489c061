"""A finding of the linter, and a rule that makes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

import onnx_ir as ir

from qonnx.linter.view import View
from qonnx.targets import Target

Severity = Literal["error", "warning", "hint"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a runtime will not like. severity: "error" (wrong numbers, or does not load), "warning" (runs, but
    not on integers or slower than it could), "hint" (worth knowing)."""

    rule: str
    severity: Severity
    node: str
    operator: str
    sentence: str
    remedy: str


@dataclasses.dataclass(frozen=True)
class Rule:
    """A check and what is said about it.

    check yields (node, sentence). everywhere: holds on every target; otherwise only on those whose `forbid` names it.
    """

    check: Callable[[View, Target], Iterator[tuple[ir.Node, str]]]
    severity: Severity
    everywhere: bool
    remedy: str

    @property
    def summary(self) -> str:
        """First paragraph of the check's docstring."""
        return " ".join((self.check.__doc__ or "").strip().split("\n\n")[0].split())
