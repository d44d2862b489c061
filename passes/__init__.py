"""PASSES: every pass by name, in the order in which recipes use them."""

from qonnx.passes.base import Change, Pass, PassResult

PASSES: dict[str, type[Pass]] = {}

__all__ = ["PASSES", "Change", "Pass", "PassResult"]
