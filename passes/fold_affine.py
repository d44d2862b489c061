"""fold_affine: multiplications by and additions of constants become part of the linear layer before or behind them.

Exporters leave such steps everywhere: LayerScale, attention's 1/√d, Paddle's learnable affine blocks. Each is a pass
over memory at run time, and a tensor more whose rounding error counts when quantized.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qonnx.model import release
from qonnx.passes.base import Change, Pass
from qonnx.passes.fold_norms import fold_scale_shift, norm_behind, scale_shift
from qonnx.passes.linear import LINEAR, Linear, fits, linear, per_channel
from qonnx.passes.rewire import (
    array,
    bodies,
    dims_of,
    initializer,
    is_constant,
    is_op,
    only_use,
    rank,
    remove_unused,
    scalar,
    set_input,
)

_STEPS = ("Mul", "Div", "Add", "Sub", "Neg")
_MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")  # a scalar factor passes through them


@dataclasses.dataclass
class FoldAffine(Pass):
    """Cases, for a step whose constant is a scalar or one number a channel:

    1. layer, then step (or a BatchNormalization that steps stood in front of): into the layer's weight and bias;
    2. layer, then moves (Reshape, Transpose, …), then a scalar factor: the same;
    3. factor, then layer: into the weight's input channels, exact even where the layer pads with zeros;
    4. shift, then layer that does not pad and has a bias: into the bias;
    5. factor, then shift, then layer that pads: the factor goes into the weight, the shift is divided by it.

    A value with a second reader ends a chain, and so does a weight that two layers share.
    """

    def changes(self, model: ir.Model) -> Iterator[Change]:
        for body in bodies(model):
            for node in list(body):
                if is_op(node, *LINEAR):
                    yield from _behind(node)
            for node in list(body):
                if is_op(node, *LINEAR):
                    yield from _before(node)
        release(model)


def _affine(node: ir.Node, index: int, value: ir.Value, channels: int, axis: int) -> tuple | None:
    """(scale, shift) of a step that reads `value` at input `index`, float64 [channels] each; None if it is no such
    step."""
    if not is_op(node, *_STEPS):
        return None
    ones, zeros = np.ones(channels), np.zeros(channels)
    if node.op_type == "Neg":
        return -ones, zeros
    constant = per_channel(node.inputs[1 - index], value, channels, axis)
    if constant is None:
        return None
    if node.op_type == "Mul":
        return constant, zeros
    if node.op_type == "Add":
        return ones, constant
    if node.op_type == "Sub":
        return (ones, -constant) if index == 0 else (-ones, constant)
    return (1 / constant, zeros) if index == 0 and constant.all() else None


def _behind(node: ir.Node) -> Iterator[Change]:
    """Cases 1 and 2."""
    while (layer := linear(node)) is not None and only_use(layer.result):
        use = next(iter(layer.result.uses()))
        step = use.node
        if step.graph is not node.graph:
            return
        norm = norm_behind(layer)
        found = scale_shift(norm) if norm else _affine(step, use.idx, layer.result, layer.outputs, layer.axis)
        if found is None:
            moved = _scalar_behind_moves(step)
            if moved is None or not _fold_far(layer, moved):
                return
            step = moved
        elif layer.node.op_type == "MatMul" and layer.bias_node is None and (found[0] == 1).all():
            return  # an Add behind a MatMul is its bias: the canonical spelling, unless it is shared
        elif not fold_scale_shift(layer, *found, step):
            return
        yield Change(step.name or "", f"{step.op_type} folded into {node.op_type} '{node.name}'")


def _scalar_behind_moves(node: ir.Node) -> ir.Node | None:
    """The Mul or Div by a scalar at the end of a chain of moves that starts at `node`."""
    start = node
    while is_op(node, *_MOVES) and only_use(node.outputs[0]):
        use = next(iter(node.outputs[0].uses()))
        if use.node.graph is not start.graph or (use.idx != 0 and is_op(use.node, *_MOVES)):
            return None
        node = use.node
        if is_op(node, "Mul", "Div"):
            data = node.inputs[0]
            index = 0 if data is not None and not is_constant(data) else 1
            constant = node.inputs[1 - index]
            factor = scalar(constant)
            if factor in (None, 0.0) or (node.op_type == "Div" and index == 1):
                return None
            known = rank(node.inputs[index])
            return node if len(dims_of(constant)) <= (1 if known is None else known) else None
    return None


def _fold_far(layer: Linear, step: ir.Node) -> bool:
    """Case 2: put the scalar factor of `step` into the layer and remove the step."""
    index = 1 if is_constant(step.inputs[0]) else 0
    factor = scalar(step.inputs[1 - index])
    factor = 1 / factor if step.op_type == "Div" else factor
    weight, bias = array(layer.weight).astype(np.float64) * factor, layer.bias
    kind = layer.weight.dtype
    output, source = step.outputs[0], step.inputs[index]
    if not fits(weight, kind) or (bias is not None and not fits(bias * factor, kind)):
        return False
    name, type_, shape = output.name, output.type, output.shape
    output.name = f"{name}.folded"
    output.replace_all_uses_with(source, replace_graph_outputs=True)
    remove_unused([step])
    source.name, source.type, source.shape = name, type_ or source.type, shape or source.shape
    layer.set_weight(weight)
    if bias is not None:
        layer.set_bias(bias * factor)
    return True


def _before(node: ir.Node) -> Iterator[Change]:
    """Cases 3 to 5."""
    while (layer := linear(node)) is not None:
        source = node.inputs[0]
        step = source.producer() if source is not None else None
        if step is None or step.graph is not node.graph or not only_use(source) or is_op(step, "Neg"):
            return
        if is_op(node, "Gemm") and node.attributes.get("transA") is not None and node.attributes["transA"].as_int():
            return
        found = _step_before(step, layer)
        if found is None:
            return
        scale, shift, index = found
        if shift.any():
            done = _fold_shift(layer, step, shift, index) or _fold_factor_behind_shift(layer, step, shift, index)
        else:
            done = (scale != 1).any() and _fold_factor(layer, step, scale, index)
        if not done:
            return
        yield Change(step.name or "", f"{step.op_type} folded into {node.op_type} '{node.name}' behind it")


def _step_before(step: ir.Node, layer: Linear) -> tuple[np.ndarray, np.ndarray, int] | None:
    """(scale, shift, index of the data input) of a step in front of the layer."""
    if not is_op(step, "Mul", "Div", "Add", "Sub"):
        return None
    for index in (0, 1):
        data = step.inputs[index]
        if data is None or is_constant(data):
            continue
        found = _affine(step, index, data, layer.inputs, layer.axis)
        if found is not None and (found[0] > -np.inf).all():
            return (*found, index)
    return None


def _pass_by(layer: Linear, step: ir.Node, index: int) -> None:
    layer.node.replace_input_with(0, step.inputs[index])
    remove_unused([step])


def _fold_factor(layer: Linear, step: ir.Node, scale: np.ndarray, index: int) -> bool:
    """Case 3."""
    weight = layer.input_scaled(scale)
    if not fits(weight, layer.weight.dtype):
        return False
    layer.set_weight(weight)
    _pass_by(layer, step, index)
    return True


def _fold_shift(layer: Linear, step: ir.Node, shift: np.ndarray, index: int) -> bool:
    """Case 4: W·(x + t) + b = W·x + (b + W·t)."""
    if layer.pads or layer.bias is None or step.op_type not in ("Add", "Sub") or (step.op_type == "Sub" and index == 1):
        return False
    weight = layer.input_scaled(shift)
    if layer.node.op_type == "Conv":
        added = weight.reshape(weight.shape[0], -1).sum(axis=1)
    elif weight.ndim != 2:
        return False
    else:
        transposed = layer.node.op_type == "Gemm" and layer.node.attributes.get("transB") is not None
        added = weight.sum(axis=1 if transposed and layer.node.attributes["transB"].as_int() else 0)
    bias = layer.bias + added
    if not fits(bias, layer.weight.dtype):
        return False
    layer.set_bias(bias)
    _pass_by(layer, step, index)
    return True


def _fold_factor_behind_shift(layer: Linear, step: ir.Node, shift: np.ndarray, index: int) -> bool:
    """Case 5: W·(s·x + t) = (W·s)·(x + t/s), zeros around the input included."""
    if step.op_type not in ("Add", "Sub") or (step.op_type == "Sub" and index == 1):
        return False
    data = step.inputs[index]
    factor = data.producer()
    if factor is None or not only_use(data) or not is_op(factor, "Mul", "Div") or factor.graph is not step.graph:
        return False
    found = _step_before(factor, layer)
    if found is None or not found[0].all() or (found[0] == 1).all():
        return False
    scale, _, inner = found
    constant = step.inputs[1 - index]
    weight, moved = layer.input_scaled(scale), shift / scale
    if not fits(weight, layer.weight.dtype) or not fits(moved, layer.weight.dtype):
        return False
    moved = moved if step.op_type == "Add" else -moved
    if (scale == scale[0]).all():
        dims = dims_of(constant)
        moved = array(constant).astype(np.float64) / scale[0]
    else:
        dims = [len(moved)] + [1] * (len(dims_of(layer.weight)) - 2 if layer.axis == 1 else 0)
    data_type = array(constant).dtype
    set_input(
        step, 1 - index, initializer(step.graph, f"{step.outputs[0].name}.shift", moved.reshape(dims).astype(data_type))
    )
    layer.set_weight(weight)
    step.replace_input_with(index, factor.inputs[inner])
    remove_unused([factor])
    return True
