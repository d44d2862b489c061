"""inline_functions: the model's local functions become plain nodes, so that every pass sees what is inside.

Exporters wrap whole layers in functions; weights passed to a function are not constants in its body, so nothing in
there could be quantized. Functions of qonnx's own domain stay: they are the specification of an operator, not its
spelling.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from qonnx.passes.base import Change, Pass

OWN_DOMAIN = "ai.qonnx"


@dataclasses.dataclass
class InlineFunctions(Pass):
    """Inline every function but those of `ai.qonnx`."""

    tolerance = 0.0

    def changes(self, model: ir.Model) -> Iterator[Change]:
        names = [f.name for f in model.functions.values() if f.domain != OWN_DOMAIN]
        if not names:
            return
        InlinePass(criteria=lambda function: function.domain != OWN_DOMAIN)(model)
        for key in [key for key in model.functions if key[0] != OWN_DOMAIN]:
            del model.functions[key]
        for name in names:
            yield Change(name, "function inlined")
