"""What changed in the meaning of standard operators between opsets 9 and 25, as rewriting steps.

`STEPS[op][version]` rewrites a node valid before `version` into one valid from it on. Operators and versions without an
entry changed in accepted types only, or by attributes whose default is the old behaviour. Where the old behaviour
cannot be written in the new opset a step raises QonnxError.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from qonnx.errors import QonnxError
from qonnx.passes.rewire import array, initializer, integer, new_node, rank, set_input

Step = Callable[[ir.Node], None]


def _give(node: ir.Node, index: int, suffix: str, data: np.ndarray) -> None:
    set_input(node, index, initializer(node.graph, f"{node.outputs[0].name}.{suffix}", data))


def axes_to_input(node: ir.Node) -> None:
    """Squeeze, Unsqueeze, Reduce*: the axes became the second input."""
    axes = node.attributes.pop("axes", None)
    if axes is not None:
        _give(node, 1, "axes", np.array(axes.as_ints(), np.int64))


def clip(node: ir.Node) -> None:
    kind = node.inputs[0].dtype or ir.DataType.FLOAT
    for index, name in ((1, "min"), (2, "max")):
        bound = node.attributes.pop(name, None)
        if bound is not None:
            _give(node, index, name, np.array(bound.as_float(), kind.numpy()))


def dropout(node: ir.Node) -> None:
    node.attributes.pop("seed", None)
    ratio = node.attributes.pop("ratio", None)
    if ratio is not None:
        _give(node, 1, "ratio", np.array(ratio.as_float(), np.float32))


def pad(node: ir.Node) -> None:
    pads, value = node.attributes.pop("pads"), node.attributes.pop("value", None)
    _give(node, 1, "pads", np.array(pads.as_ints(), np.int64))
    if value is not None and value.as_float():
        kind = node.inputs[0].dtype or ir.DataType.FLOAT
        _give(node, 2, "value", np.array(value.as_float(), kind.numpy()))


def slice_(node: ir.Node) -> None:
    for index, name in ((1, "starts"), (2, "ends"), (3, "axes")):
        found = node.attributes.pop(name, None)
        if found is not None:
            _give(node, index, name, np.array(found.as_ints(), np.int64))


def topk(node: ir.Node) -> None:
    _give(node, 1, "k", np.array([node.attributes.pop("k").as_int()], np.int64))


def upsample(node: ir.Node) -> None:
    """Upsample-9 is Resize-10: it maps coordinates by the scale alone and takes the pixel before."""
    node.op_type = "Resize"


def resize(node: ir.Node) -> None:
    """Resize-10 had `X, scales`, always asymmetric with floor; from 11 on it has a region of interest in between."""
    scales = node.inputs[1]
    node.resize_inputs(3)
    node.replace_input_with(1, None)
    node.replace_input_with(2, scales)
    node.attributes["coordinate_transformation_mode"] = ir.AttrString("coordinate_transformation_mode", "asymmetric")
    node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", "floor")


def resize_region(node: ir.Node) -> None:
    """Resize-13 made the region optional: an empty tensor, and empty scales beside sizes, become absent inputs."""
    for index in (1, 2):
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is not None and value.shape is not None and list(value.shape) == [0]:
            set_input(node, index, None)


def softmax(node: ir.Node) -> None:
    """Before 13, axes from `axis` on were flattened into one. Equal to the new meaning on the last axis only."""
    axis, dims = integer(node, "axis", 1), rank(node.inputs[0])
    if axis == -1 or (dims is not None and axis % dims == dims - 1):
        node.attributes["axis"] = ir.AttrInt64("axis", -1)
        return
    graph, output = node.graph, node.outputs[0]
    if axis < 0 and dims is None:
        raise QonnxError(
            f"'{node.name}': {node.op_type} over axis {axis} of a tensor of unknown rank; pass --input-shapes"
        )
    source = node.inputs[0]
    shape = new_node("Shape", [source], like=node, suffix="shape")
    flat = new_node("Flatten", [source], {"axis": axis if dims is None else axis % dims}, like=node, suffix="flatten")
    graph.insert_before(node, [shape, flat])
    node.replace_input_with(0, flat.outputs[0])
    node.attributes["axis"] = ir.AttrInt64("axis", -1)
    back = new_node("Reshape", [output, shape.outputs[0]], like=node, suffix="unflatten")
    graph.insert_after(node, back)
    name, type_, dims_ = output.name, output.type, output.shape
    output.name = f"{name}.flat"
    back.outputs[0].name, back.outputs[0].type, back.outputs[0].shape = name, type_, dims_
    output.replace_all_uses_with(back.outputs[0], replace_graph_outputs=True)
    back.replace_input_with(0, output)
    output.shape = None


def split(node: ir.Node) -> None:
    sizes = node.attributes.pop("split", None)
    if sizes is not None:
        _give(node, 1, "split", np.array(sizes.as_ints(), np.int64))


def split_number(node: ir.Node) -> None:
    """Split-18 asks for the number of outputs unless sizes are given."""
    if len(node.inputs) < 2 or node.inputs[1] is None:
        node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))


def batch_normalization(node: ir.Node) -> None:
    """Opset 14 turned "five outputs mean training" into `training_mode`."""
    if any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        raise QonnxError(f"'{node.name}': BatchNormalization in training mode; export the model for inference")
    if len(node.outputs) > 1:
        node.resize_outputs(1)
    node.attributes.pop("spatial", None)


def roi_align(node: ir.Node) -> None:
    mode = "coordinate_transformation_mode"
    node.attributes.setdefault(mode, ir.AttrString(mode, "output_half_pixel"))


def grid_sample(node: ir.Node) -> None:
    renamed = {"bilinear": "linear", "bicubic": "cubic"}
    mode = node.attributes.get("mode")
    mode = "bilinear" if mode is None else mode.as_string()
    node.attributes["mode"] = ir.AttrString("mode", renamed.get(mode, mode))


def dft(node: ir.Node) -> None:
    axis = node.attributes.pop("axis", None)
    _give(node, 2, "axis", np.array(1 if axis is None else axis.as_int(), np.int64))


def group_normalization(node: ir.Node) -> None:
    """Scale and bias were per group; from 21 on they are per channel."""
    groups, shape = integer(node, "num_groups", 1), node.inputs[0].shape
    for index, name in ((1, "scale"), (2, "bias")):
        data = array(node.inputs[index])
        if data is None or shape is None or not isinstance(shape[1], int):
            raise QonnxError(f"'{node.name}': GroupNormalization needs constant scales and a known channel count")
        _give(node, index, name, np.repeat(data, shape[1] // groups))


def scatter(node: ir.Node) -> None:
    node.op_type = "ScatterElements"


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")

STEPS: dict[str, dict[int, Step]] = {
    "Upsample": {10: upsample},
    "Resize": {11: resize, 13: resize_region},
    "Slice": {10: slice_},
    "TopK": {10: topk},
    "Scatter": {11: scatter},
    "Clip": {11: clip},
    "Pad": {11: pad},
    "Dropout": {12: dropout},
    "Softmax": {13: softmax},
    "LogSoftmax": {13: softmax},
    "Hardmax": {13: softmax},
    "Squeeze": {13: axes_to_input},
    "Unsqueeze": {13: axes_to_input},
    "ReduceSum": {13: axes_to_input},
    "Split": {13: split, 18: split_number},
    "BatchNormalization": {14: batch_normalization},
    "RoiAlign": {16: roi_align},
    "GridSample": {20: grid_sample},
    "DFT": {20: dft},
    "GroupNormalization": {21: group_normalization},
    **{f"Reduce{kind}": {18: axes_to_input} for kind in _REDUCTIONS},
}
