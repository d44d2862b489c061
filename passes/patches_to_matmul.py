"""Patches to MatMul: a convolution whose kernel is its stride cuts the image into patches; multiply them as rows.

Runtimes fuse an integer Conv only if its output is quantized as well, and the output of a patch embedding is the
residual stream of the whole transformer (29.5 dB at the features of a ViT-S, the worst of all layers). An integer
MatMul may end in float. With patch size p×q, [N, C, H, W] becomes [N, H/p · W/q, C·p·q] by Reshape, Transpose, Reshape;
the product [N, L, O] is transposed back to [N, O, H/p, W/q]. Exact up to the order of addition.

Handled: two spatial dimensions of known size, group 1, no padding, no dilation, constant weight, an output that no
activation function follows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import array, bodies, drop_initializer, initializer, integer, integers, is_op, replace
from qonnx.targets import Target


@dataclasses.dataclass
class PatchesToMatMul(Pass):
    """Conv with kernel = stride > 1 → MatMul, if `target` quantizes outputs of Conv but not of MatMul."""

    target: Target

    def changes(self, model: ir.Model) -> Iterator[Change]:
        if "Conv" not in self.target.outputs or "MatMul" in self.target.outputs:
            return
        for graph in bodies(model):
            for node in list(graph):
                if is_op(node, "Conv") and _cuts_patches(node):
                    _rewrite(node)
                    yield Change(node.name or node.outputs[0].name, "patches multiplied as rows of a MatMul")


def _cuts_patches(node: ir.Node) -> bool:
    value, weight = node.inputs[0], node.inputs[1]
    if array(weight) is None or len(weight.shape) != 4 or integer(node, "group", 1) != 1:
        return False
    if len(node.inputs) > 2 and node.inputs[2] is not None and array(node.inputs[2]) is None:
        return False
    kernel = tuple(weight.shape.numpy()[2:])
    if value.shape is None or len(value.shape) != 4 or not all(isinstance(d, int) for d in value.shape[1:]):
        return False
    whole = all(d % k == 0 for d, k in zip(value.shape[2:], kernel, strict=True))
    plain = not any(integers(node, "pads") or (0,)) and set(integers(node, "dilations") or (1,)) == {1}
    named = node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    readers = [use.node for use in node.outputs[0].uses()]
    bare = not any(is_op(reader, "Relu", "Clip", "Gelu", "HardSwish", "Sigmoid") for reader in readers)
    return math.prod(kernel) > 1 and kernel == integers(node, "strides") and whole and plain and named and bare


def _rewrite(node: ir.Node) -> None:
    graph, value, old = node.graph, node.inputs[0], [x for x in node.inputs[1:] if x is not None]
    weight = array(node.inputs[1])
    out, channels, rows, columns = weight.shape
    height, width = value.shape[2] // rows, value.shape[3] // columns
    name = node.name or node.outputs[0].name
    matrix = initializer(graph, f"{node.inputs[1].name}_rows", np.ascontiguousarray(weight.reshape(out, -1).T))
    length = channels * rows * columns

    def add(kind: str, inputs: Sequence[ir.Value], suffix: str, shape: Sequence, **attributes) -> ir.Value:
        made = ir.node(kind, inputs=inputs, attributes=attributes, name=f"{name}_{suffix}")
        made.metadata_props.update(node.metadata_props)
        output = made.outputs[0]
        output.name, output.type, output.shape = f"{name}_{suffix}_output", value.type, ir.Shape(shape)
        graph.insert_before(node, made)
        return output

    def sizes(suffix: str, *dims: int) -> ir.Value:
        return initializer(graph, f"{name}_{suffix}", np.array(dims, np.int64))

    batch = value.shape[0]
    cut = (channels, height, rows, width, columns)
    grid = add("Reshape", [value, sizes("grid_shape", 0, *cut)], "grid", [batch, *cut])
    moved = add("Transpose", [grid], "order", [batch, height, width, channels, rows, columns], perm=(0, 2, 4, 1, 3, 5))
    shape = sizes("patches_shape", 0, height * width, length)
    patches = add("Reshape", [moved, shape], "patches", [batch, height * width, length])
    product = add("MatMul", [patches, matrix], "product", [batch, height * width, out])
    if len(old) > 1:
        bias = initializer(graph, f"{name}_bias", array(old[1]))
        product = add("Add", [product, bias], "biased", [batch, height * width, out])
    back = add("Transpose", [product], "channels_first", [batch, out, height * width], perm=(0, 2, 1))
    result = add("Reshape", [back, sizes("map_shape", 0, out, height, width)], "map", [batch, out, height, width])
    replace(node.outputs[0], result)
    graph.remove(node, safe=True)
    for constant in old:
        drop_initializer(constant)
