"""Split ConvTranspose into the convolutions of its phases, for targets that run Conv on integers but not ConvTranspose.

With stride s, output row o = s·q + r (phase r) only meets kernel taps t ≡ r + p (mod s). Writing t = t0 + s·j with
t0 = (r + p) mod s and d = (r + p − t0)/s, it reads input rows q + d − j, j = 0…n−1: an ordinary convolution with the
taps in reverse order, n − 1 − d rows of padding before and d behind. The s×s phases are concatenated as channels and
interleaved by DepthToSpace: the same products and sums, in another order of addition. Exact up to rounding. A Relu
that alone reads the result moves in front of the interleaving, into each convolution's integer unit.

Handled: two spatial dimensions, group 1, no dilation, equal strides, output exactly s times the input (kernel − pads
= s), constant weight and bias. Where all phases have the same padding (kernel = stride) one Conv makes all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import array, bodies, drop_initializer, initializer, integer, integers, is_op, replace
from qonnx.targets import Target


@dataclasses.dataclass
class SplitConvTranspose(Pass):
    """ConvTranspose → Conv per phase and DepthToSpace, if `target` has no integer ConvTranspose."""

    target: Target

    def changes(self, model: ir.Model) -> Iterator[Change]:
        if "ConvTranspose" in self.target.operators or "Conv" not in self.target.operators:
            return
        for graph in bodies(model):
            for node in list(graph):
                phases = _phases(node) if is_op(node, "ConvTranspose") else None
                if phases is None:
                    continue
                count = _split(node, *phases)
                yield Change(node.name or node.outputs[0].name, f"split into {count} convolutions and DepthToSpace")


def _phases(node: ir.Node) -> tuple[int, list[tuple[int, int, int]]] | None:
    """Stride and, for each phase of one axis, (t0, n, d); None if the node is not of the handled kind.

    Both axes must have the same kernel, stride and padding.
    """
    weight = node.inputs[1]
    if array(weight) is None or len(weight.shape) != 4 or integer(node, "group", 1) != 1:
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None and array(node.inputs[2]) is None:
        return None
    kernel = tuple(weight.shape.numpy()[2:])
    strides = integers(node, "strides") or (1, 1)
    pads = integers(node, "pads") or (0, 0, 0, 0)
    plain = (
        set(integers(node, "dilations") or (1,)) == {1}
        and not any(integers(node, "output_padding") or (0,))
        and integers(node, "output_shape") is None
        and (node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET")
        and len(set(kernel)) == len(set(strides)) == 1
        and pads[0] == pads[1]
        and pads[2] == pads[3]
    )
    stride, size = strides[0], kernel[0]
    if not plain or stride < 2 or size - pads[0] - pads[2] != stride:
        return None
    phases = []
    for r in range(stride):
        first = (r + pads[0]) % stride
        shift, taps = (r + pads[0] - first) // stride, -(-(size - first) // stride)
        if shift > taps - 1 or taps < 1:
            return None
        phases.append((first, taps, shift))
    return stride, phases


def _split(node: ir.Node, stride: int, phases: list[tuple[int, int, int]]) -> int:
    """Put the convolutions in the node's place; returns how many."""
    graph, name = node.graph, node.name or node.outputs[0].name
    weight = array(node.inputs[1])  # [I, O, k, k]
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    bias = array(node.inputs[2]) if has_bias else np.zeros(weight.shape[1], weight.dtype)
    parts = []  # per phase of both axes: (weight [O, I, n, n'], pads)
    for first_y, taps_y, shift_y in phases:
        for first_x, taps_x, shift_x in phases:
            taken = weight[:, :, first_y::stride, first_x::stride][:, :, ::-1, ::-1]
            pads = (taps_y - 1 - shift_y, taps_x - 1 - shift_x, shift_y, shift_x)
            parts.append((np.ascontiguousarray(taken.transpose(1, 0, 2, 3)), pads))
    same = len({(part.shape, pads) for part, pads in parts}) == 1
    if same:
        parts = [(np.concatenate([part for part, _ in parts]), parts[0][1])]
        bias = np.tile(bias, stride * stride)
    shared_bias = initializer(graph, f"{name}_bias", bias)
    made, outputs, relu = [], [], _only_relu(node)
    for index, (part, pads) in enumerate(parts):
        kernel = initializer(graph, f"{node.inputs[1].name}_phase{index}", part)
        attributes = {"pads": pads, "kernel_shape": part.shape[2:], "strides": (1, 1)}
        inputs = [node.inputs[0], kernel, shared_bias]
        made.append(ir.node("Conv", inputs=inputs, attributes=attributes, name=f"{name}_phase{index}"))
        made[-1].metadata_props.update(node.metadata_props)
        outputs.append(_named(made[-1], f"{name}_phase{index}_output", node.outputs[0], part.shape[0], stride))
        if relu is not None:
            made.append(ir.node("Relu", inputs=[outputs[-1]], name=f"{name}_phase{index}_relu"))
            outputs[-1] = _named(made[-1], f"{name}_phase{index}_relu_output", node.outputs[0], part.shape[0], stride)
    if len(outputs) > 1:
        made.append(ir.node("Concat", inputs=outputs, attributes={"axis": 1}, name=f"{name}_phases"))
        channels = weight.shape[1] * stride * stride
        outputs = [_named(made[-1], f"{name}_phases_output", node.outputs[0], channels, stride)]
    # the channel order is (phase, output channel): depth first, "DCR"
    attributes = {"blocksize": stride, "mode": "DCR"}
    made.append(ir.node("DepthToSpace", inputs=outputs, attributes=attributes, name=f"{name}_interleave"))
    for new in made:
        graph.insert_before(node, new)
    if relu is None:
        replace(node.outputs[0], made[-1].outputs[0])
    else:
        replace(relu.outputs[0], made[-1].outputs[0])
        graph.remove(relu, safe=True)
    old = [value for value in node.inputs if value is not None]
    graph.remove(node, safe=True)
    for value in old:
        drop_initializer(value)
    return len(parts)


def _only_relu(node: ir.Node) -> ir.Node | None:
    """The Relu that is the node's only reader."""
    uses = node.outputs[0].uses()
    alone = len(uses) == 1 and not node.outputs[0].is_graph_output() and is_op(uses[0].node, "Relu")
    return uses[0].node if alone else None


def _named(node: ir.Node, name: str, like: ir.Value, channels: int, stride: int) -> ir.Value:
    """The node's output with name, type and the shape of one phase."""
    output = node.outputs[0]
    output.name, output.type = name, like.type
    if like.shape is not None and len(like.shape) == 4:
        spatial = [d // stride if isinstance(d, int) else None for d in (like.shape[2], like.shape[3])]
        output.shape = ir.Shape([like.shape[0], channels, *spatial])
    return output
