"""Label: say what each value is for, so that later passes can choose by role and not by name.

Roles written on values:
    probabilities  output of a Softmax that is multiplied with another tensor (attention × V)
    scores         what enters a Softmax, up to scaling and masking
    norm           output of a LayerNormalization, RMSNormalization or the like
    residual       output of an Add of two computed tensors
    shape          integers that only steer shapes
`note(value).after` names the activation that all readers of a value apply to it; ranges are then chosen by the error
behind that activation. Case 1: one reader, an activation operator. Case 2: x · Sigmoid(x), spelled as two nodes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import onnx_ir as ir

from qonnx.activations import activation_name
from qonnx.notes import note
from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import bodies, is_constant, is_op

NORMS = ("LayerNormalization", "RMSNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization")
MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Identity", "Cast", "Dropout")
_SCALINGS = ("Mul", "Div", "Add", "Sub", "Where")


@dataclasses.dataclass
class Label(Pass):
    """Write roles and following activations into notes; the graph stays as it is."""

    tolerance = 0.0

    def changes(self, model: ir.Model) -> Iterator[Change]:
        for graph in bodies(model):
            fixed = _fixed(graph)
            for node in graph:
                for output in node.outputs:
                    role, after = _role(output, fixed), _after(output)
                    known = note(output)
                    if (role, after) != (known.role, known.after):
                        known.role, known.after = role, after
                        yield Change(
                            output.name or node.name or "", f"is {role or 'read'}" + (f" by {after}" if after else "")
                        )


def _role(value: ir.Value, fixed: set[ir.Value]) -> str | None:
    node = value.producer()
    if is_op(node, "Softmax") and any(is_op(user, "MatMul") for user in _readers(value, fixed)):
        return "probabilities"
    if any(is_op(user, "Softmax") for user in _readers(value, fixed)):
        return "scores"
    if node.op_type in NORMS:
        return "norm"
    if is_op(node, "Add") and not any(is_constant(x) for x in node.inputs):
        return "residual"
    return None


def _readers(value: ir.Value, fixed: set[ir.Value]) -> Iterator[ir.Node]:
    """Nodes that read the value, looking through data movement and steps with a constant or a `fixed` value."""
    for user in value.consumers():
        yield user
        others = [x for x in user.inputs if x is not value]
        scaling = is_op(user, *_SCALINGS) and any(x in fixed or is_constant(x) for x in others)
        if is_op(user, *MOVES) or scaling:
            for output in user.outputs:
                yield from _readers(output, fixed)


def _fixed(graph: ir.Graph) -> set[ir.Value]:
    """Computed values that only constants and shapes decide, like a mask repeated for every image."""
    fixed: set[ir.Value] = set()
    for node in graph:
        given = [value for value in node.inputs if value is not None]
        if is_op(node, "Shape", "Size") or all(value in fixed or is_constant(value) for value in given):
            fixed.update(node.outputs)
    return fixed


def _after(value: ir.Value) -> str | None:
    if value.is_graph_output():
        return None
    users = [use.node for use in value.uses()]
    if len(users) == 1 and users[0].inputs[0] is value:
        return activation_name(users[0])
    if len(users) == 2 and {u.op_type for u in users} == {"Sigmoid", "Mul"}:
        sigmoid, product = sorted(users, key=lambda u: u.op_type, reverse=True)
        if sigmoid.outputs[0] in product.inputs and len(sigmoid.outputs[0].uses()) == 1:
            return "Silu"
    return None
