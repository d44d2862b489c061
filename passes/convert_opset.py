"""convert_opset: raise the standard operator set, so that later passes and targets meet one spelling of each operator.

ONNX's own converter works on a protobuf copy, stops at operators that it does not know and loses control-flow bodies;
here each node is rewritten in place by `opset_steps.STEPS`. A newer model than asked for stays as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import onnx_ir as ir

from qonnx.passes.base import Change, Pass
from qonnx.passes.infer_shapes import infer
from qonnx.passes.opset_steps import STEPS
from qonnx.passes.rewire import bodies, is_op

# The first IR version that may carry each opset, by the ONNX release table; ONNX Runtime reads 13 at most.
IR_VERSIONS = {21: 10, 22: 10, 23: 11, 24: 12, 25: 13}


@dataclasses.dataclass
class ConvertOpset(Pass):
    """Raise the opset of the default domain to `opset`; raises QonnxError where an operator cannot follow."""

    opset: int = 21

    tolerance = 0.0

    def changes(self, model: ir.Model) -> Iterator[Change]:
        have = model.graph.opset_imports.get("", self.opset)
        if have < self.opset:
            infer(model)  # steps ask for ranks and types: Softmax over the last axis needs no detour
            steps = 0
            for body in bodies(model):
                for node in list(body):
                    steps += _convert(node, have, self.opset)
            for body in bodies(model):
                body.opset_imports[""] = self.opset
            yield Change("opset", f"{have} to {self.opset}, {steps} nodes rewritten")
        wanted = max((v for o, v in IR_VERSIONS.items() if o <= max(have, self.opset)), default=8)
        if model.ir_version < wanted:
            yield Change("IR version", f"{model.ir_version} to {wanted}")
            model.ir_version = wanted


def _convert(node: ir.Node, have: int, wanted: int) -> int:
    """Bring one node from opset `have` to `wanted`; the number of steps that it took."""
    taken, version = 0, have
    while version < wanted:
        version += 1
        step = STEPS.get(node.op_type, {}).get(version) if is_op(node, node.op_type) else None
        if step is not None:
            step(node)
            taken += 1
    if taken:
        node.version = None
    return taken
