"""Operators without weights: which of them get Q/DQ on a target, on which of their values, and whose grid they share.

1. Node units (`node_units`): every listed operator and every data movement gets Q/DQ on all inputs and outputs, since
   the runtime sends what lacks them elsewhere. Constant operands become codes too, the bias of a norm int32.
2. Otherwise a listed operator (`elementwise`) gets Q/DQ on its inputs, if integers reach all of them and are wanted
   behind it; between float neighbours it would only add work. An Add of a constant is a bias and stays one.
3. One branch (`residual_add`): an Add behind a quantized convolution reads its other input through Q/DQ, so that the
   runtime can fuse it into the convolution. Of two convolutions the later one keeps the Add.
4. Concat with one scale (`shared_scales`): Q/DQ in front of a quantized reader is also put on the inputs, on one grid.

Source: ONNX Runtime's QNN configuration (1), OpenVINO's low-precision transformations (2, 4), NVIDIA ModelOpt's
residual rule (3); see qonnx/targets.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from qonnx.formats import FORMATS, IntFormat
from qonnx.notes import note
from qonnx.passes.rewire import is_constant, is_op
from qonnx.plan import Plan
from qonnx.targets import Target

NORMS = ("LayerNormalization", "InstanceNormalization")
CONVOLUTIONS = ("Conv", "ConvTranspose")
WEIGHTED = (*CONVOLUTIONS, "MatMul", "Gemm")
_BOTH = ("Add", "Sub", "Mul", "Div", "PRelu", *NORMS)  # inputs 0 and 1 are numbers; of all others only input 0 is
_THROUGH = ("Relu", "Clip", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "MaxPool", "Slice", "Split")
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def number_inputs(node: ir.Node) -> tuple[int, ...]:
    """Indices of the inputs that carry numbers to be quantized (not shapes, bounds or indices)."""
    if node.op_type == "Concat":
        return tuple(range(len(node.inputs)))
    return (0, 1) if node.op_type in _BOTH else (0,)


def activations(node: ir.Node) -> list[ir.Value]:
    """Computed number inputs."""
    return [x for i in number_inputs(node) if (x := node.inputs[i]) is not None and not is_constant(x)]


def concerned(node: ir.Node, target: Target) -> bool:
    """Whether `target` says anything about this operator; it must work on floats and on at least one activation."""
    kinds = {*target.elementwise}
    if target.node_units:
        kinds |= {*target.shared_scales}
    if "Concat" in target.shared_scales:
        kinds.add("Concat")
    if target.residual_add == "one-branch":
        kinds.add("Add")
    if not is_op(node, *kinds) or not node.inputs:
        return False
    found = activations(node)
    return bool(found) and all(value.dtype in _FLOATS for value in found)


def observed(node: ir.Node, target: Target) -> Iterator[ir.Value]:
    """Tensors of a concerned operator whose ranges are needed."""
    yield from activations(node)
    if target.node_units or node.op_type == "Concat":
        yield from (value for value in node.outputs if value is not None)


def elementwise_plan(node: ir.Node, target: Target, format: IntFormat) -> Plan | str:
    """The Plan of a concerned operator, or why there is none: a reason code, "" where it is no question at all."""
    if target.node_units:
        inputs = {i: format for i in number_inputs(node) if node.inputs[i] is not None}
        if node.op_type in NORMS and is_constant(node.inputs[1]):
            inputs[1] = FORMATS["u8"]
        bias = node.op_type in NORMS and len(node.inputs) > 2 and is_constant(node.inputs[2])
        return Plan(inputs, None, 1, True, bias and target.bias == "int32" and is_constant(node.inputs[1]))
    if node.op_type == "Concat":
        wanted = any(_is_planned(user, value) for value in node.outputs for user, value in readers(value))
        return Plan(dict.fromkeys(number_inputs(node), format)) if wanted and not _any_constant(node) else ""
    if is_op(node, "Add") and target.residual_add == "one-branch":
        branch = residual_branch(node)
        return "" if branch is None else Plan({branch: format})
    if _any_constant(node):
        return ""
    fed = all(_made_of_integers(value) for value in activations(node))
    if fed and any(_is_planned(user, value) for user, value in readers(node.outputs[0])):
        return Plan(dict.fromkeys(number_inputs(node), format))
    return "float-neighbours"


def residual_branch(node: ir.Node) -> int | None:
    """Index of the input that gets Q/DQ where a quantized convolution takes the Add in; None if none does."""
    if _any_constant(node) or node.inputs[0] is node.inputs[1]:
        return None
    direct = [_from_convolution(value) for value in node.inputs]
    if not any(direct):
        return None
    if all(direct):
        order = [node.graph.index(value.producer()) for value in node.inputs] if node.graph is not None else [0, 1]
        return order.index(min(order))
    return direct.index(False)


def readers(value: ir.Value) -> Iterator[tuple[ir.Node, ir.Value]]:
    """Nodes that read the value, behind Relu, Clip and data movement, with the value that each reads."""
    for user in value.consumers():
        if is_op(user, *_THROUGH):
            for output in user.outputs:
                yield from readers(output)
        else:
            yield user, value


def _is_planned(user: ir.Node, value: ir.Value) -> bool:
    plan = note(user).plan
    return isinstance(plan, Plan) and any(user.inputs[index] is value for index in plan.inputs)


def _made_of_integers(value: ir.Value) -> bool:
    """Whether a planned operator makes the value, behind a bias, Relu, Clip and data movement."""
    node = value.producer()
    while node is not None:
        plan = note(node).plan
        if isinstance(plan, Plan) and plan.inputs:
            return True
        computed = [x for x in node.inputs if x is not None and not is_constant(x)]
        is_bias = is_op(node, "Add") and len(computed) == 1
        if not (is_bias or is_op(node, *_THROUGH)) or not computed:
            return False
        node = computed[0].producer()
    return False


def _from_convolution(value: ir.Value) -> bool:
    """Whether a planned convolution makes the value for this reader alone."""
    node = value.producer()
    plan = None if node is None else note(node).plan
    alone = len(value.uses()) == 1 and not value.is_graph_output()
    return is_op(node, *CONVOLUTIONS) and isinstance(plan, Plan) and bool(plan.inputs) and alone


def _any_constant(node: ir.Node) -> bool:
    return any(is_constant(node.inputs[i]) for i in number_inputs(node))
