"""remove_identities: nodes that pass a tensor on unchanged."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import onnx_ir as ir

from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import array, bodies, dims_of, integer, integers, is_op, remove_unused, scalar


@dataclasses.dataclass
class RemoveIdentities(Pass):
    """Cases:

    1. Identity; 2. Dropout outside training whose mask nobody reads; 3. Cast to the type that the tensor has;
    4. Transpose with the identity permutation; 5. Mul or Div by one and Add or Sub of zero, by a scalar of no higher
    rank;
    6. Concat or Sum of one input; 7. Reshape, Flatten or Expand to the static shape that the tensor has;
    8. Pad by nothing.

    A node between a graph input (or initializer, or a value of an outer graph) and a graph output stays: both have
    names that users rely on.
    """

    tolerance = 0.0

    def changes(self, model: ir.Model) -> Iterator[Change]:
        for body in bodies(model):
            for node in list(body):
                kept = passes_on(node)
                if kept is not None and bypass(node, kept):
                    yield Change(node.name or "", f"{node.op_type} removed: it changes nothing")


def passes_on(node: ir.Node) -> ir.Value | None:
    """The input that the node's first output equals, if it always does."""
    if not node.inputs or node.inputs[0] is None:
        return None
    first, output = node.inputs[0], node.outputs[0]
    if is_op(node, "Identity"):
        return first
    if is_op(node, "Dropout"):
        training = node.inputs[2] if len(node.inputs) > 2 else None
        if (training is None or scalar(training) == 0) and all(not o.uses() for o in node.outputs[1:]):
            return None if any(o.is_graph_output() for o in node.outputs[1:]) else first
    if is_op(node, "Cast"):
        return first if first.dtype is not None and first.dtype == integer(node, "to", 0) else None
    if is_op(node, "Transpose"):
        permutation = integers(node, "perm")
        return first if permutation is not None and permutation == tuple(range(len(permutation))) else None
    if is_op(node, "Concat", "Sum"):
        return first if len(node.inputs) == 1 else None
    if is_op(node, "Reshape", "Flatten", "Expand"):
        same = first.shape is not None and first.shape.is_static() and first.shape == output.shape
        return first if same else None
    if is_op(node, "Pad"):
        pads = array(node.inputs[1]) if len(node.inputs) > 1 else integers(node, "pads")
        return first if pads is not None and not any(pads) else None
    return neutral(node)


def neutral(node: ir.Node) -> ir.Value | None:
    """The other operand of x·1, x/1, x+0, x−0, if the constant cannot broadcast it to a higher rank."""
    if not is_op(node, "Mul", "Div", "Add", "Sub") or len(node.inputs) != 2:
        return None
    wanted = 1.0 if node.op_type in ("Mul", "Div") else 0.0
    for index in (1,) if node.op_type in ("Div", "Sub") else (1, 0):
        constant, other = node.inputs[index], node.inputs[1 - index]
        if other is not None and scalar(constant) == wanted:
            dims = len(dims_of(constant))
            if dims == 0 or (other.shape is not None and dims <= len(other.shape)):
                return other
    return None


def bypass(node: ir.Node, kept: ir.Value) -> bool:
    """Let the readers of `node` read `kept`; False where a named output leaves no room to."""
    output = node.outputs[0]
    if output.is_graph_output():
        producer = kept.producer()
        if producer is None or kept.is_graph_output() or producer.graph is not node.graph:
            return False
        name, type_, shape = output.name, output.type, output.shape
        output.name = None
        output.replace_all_uses_with(kept, replace_graph_outputs=True)
        kept.name, kept.type, kept.shape = name, type_ or kept.type, shape or kept.shape
    else:
        output.replace_all_uses_with(kept)
    remove_unused([node])
    return True
