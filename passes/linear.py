"""Conv, ConvTranspose, Gemm and MatMul with a constant weight, seen as one thing: y = W·x + b with a channel axis.

`MatMul` has no bias input; the Add of a constant vector behind it is its bias, and `result` is what comes out of that
Add.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from qonnx.passes.rewire import (
    array,
    dims_of,
    floats,
    initializer,
    integer,
    integers,
    is_constant,
    is_op,
    new_node,
    only_use,
    rank,
    set_input,
)

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclasses.dataclass
class Linear:
    """One linear node and where its bias is. `outputs` channels lie on axis `axis` of the result."""

    node: ir.Node
    result: ir.Value  # after the bias
    outputs: int  # number of output channels
    axis: int  # channel axis of the result: 1, or −1 for MatMul and Gemm
    bias_node: ir.Node | None  # node whose input `bias_index` is the bias, if there is one
    bias_index: int

    @property
    def weight(self) -> ir.Value:
        return self.node.inputs[1]

    @property
    def bias(self) -> np.ndarray | None:
        """float64 [outputs], or None."""
        if self.bias_node is None:
            return None
        data = array(self.bias_node.inputs[self.bias_index]).astype(np.float64)
        return np.broadcast_to(data.reshape(-1), (self.outputs,))

    def scaled(self, scale: np.ndarray) -> np.ndarray:
        """The weight with output channel c multiplied by scale[c]; float64, in the weight's own layout."""
        weight = array(self.weight).astype(np.float64)
        if self.node.op_type == "MatMul" or (self.node.op_type == "Gemm" and not integer(self.node, "transB", 0)):
            return weight * scale
        if self.node.op_type == "ConvTranspose":  # [inputs, outputs/group, …]: channels of a group lie together
            group = integer(self.node, "group", 1)
            split = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:])
            by_group = scale.reshape(group, 1, weight.shape[1], *[1] * (weight.ndim - 2))
            return (split * by_group).reshape(weight.shape)
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))

    def input_scaled(self, scale: np.ndarray) -> np.ndarray:
        """The weight with input channel c multiplied by scale[c]; `scale` has one element or one a channel."""
        weight = array(self.weight).astype(np.float64)
        if scale.size == 1:
            return weight * scale.reshape(())
        if self.node.op_type == "MatMul" or (self.node.op_type == "Gemm" and not integer(self.node, "transB", 0)):
            return weight * scale[:, None]
        if self.node.op_type == "Gemm":
            return weight * scale
        group = integer(self.node, "group", 1)
        if self.node.op_type == "ConvTranspose":
            return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        split = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:])
        by_group = scale.reshape(group, 1, weight.shape[1], *[1] * (weight.ndim - 2))
        return (split * by_group).reshape(weight.shape)

    @property
    def inputs(self) -> int:
        """Number of input channels."""
        shape = dims_of(self.weight)
        if self.node.op_type == "Conv":
            return shape[1] * integer(self.node, "group", 1)
        if self.node.op_type == "Gemm":
            return shape[1 if integer(self.node, "transB", 0) else 0]
        return shape[-2] if self.node.op_type == "MatMul" else shape[0]

    @property
    def pads(self) -> bool:
        """Whether zeros are put around the input, so that a shift of the input is not a shift of the output."""
        return pads(self.node)

    def set_weight(self, data: np.ndarray) -> None:
        """Store a new weight in the old one's type, under its name."""
        old = self.weight
        set_input(self.node, 1, _renewed(self.node.graph, old, data))

    def set_bias(self, data: np.ndarray) -> None:
        """Store the bias [outputs]; a MatMul without one gets an Add behind it."""
        if self.bias_node is not None:
            old = self.bias_node.inputs[self.bias_index]
            set_input(self.bias_node, self.bias_index, _renewed(self.bias_node.graph, old, data))
            return
        kind = array(self.weight).dtype
        value = initializer(self.node.graph, f"{self.node.outputs[0].name}.bias", data.astype(kind))
        if self.node.op_type != "MatMul":
            if self.node.op_type == "Gemm":
                self.node.attributes.pop("beta", None)
            set_input(self.node, 2, value)
            self.bias_node, self.bias_index = self.node, 2
            return
        output = self.node.outputs[0]
        add = new_node("Add", [output, value], like=self.node, suffix="bias")
        self.node.graph.insert_after(self.node, add)
        _rename_behind(output, add.outputs[0])
        add.replace_input_with(0, output)
        self.result, self.bias_node, self.bias_index = add.outputs[0], add, 1


def pads(node: ir.Node) -> bool:
    """Whether the layer puts zeros around its input."""
    if not is_op(node, "Conv"):
        return is_op(node, "ConvTranspose")
    automatic = node.attributes.get_string("auto_pad", "NOTSET")
    return automatic not in ("NOTSET", "VALID") or any(integers(node, "pads") or ())


def linear(node: ir.Node) -> Linear | None:
    """The node as a Linear if its weight is a constant that only it uses, and its bias (if any) constant too."""
    if not is_op(node, *LINEAR) or len(node.inputs) < 2 or not is_constant(node.inputs[1]):
        return None
    weight = node.inputs[1]
    dims = dims_of(weight)
    if len(weight.uses()) != 1 or len(dims) < 2 or not weight.dtype.is_floating_point():
        return None
    if node.op_type == "MatMul":
        return _matmul(node, dims)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if node.op_type == "Gemm":
        outputs = dims[0 if integer(node, "transB", 0) else 1]
        plain = floats(node, "alpha", 1.0) == 1.0 and (bias is None or floats(node, "beta", 1.0) == 1.0)
        if not plain or (bias is not None and not _is_vector(bias, outputs)):
            return None
        return Linear(node, node.outputs[0], outputs, -1, node if bias is not None else None, 2)
    outputs = dims[0] if node.op_type == "Conv" else dims[1] * integer(node, "group", 1)
    if bias is not None and not is_constant(bias):
        return None
    return Linear(node, node.outputs[0], outputs, 1, node if bias is not None else None, 2)


def _matmul(node: ir.Node, dims: tuple[int, ...]) -> Linear:
    output, outputs = node.outputs[0], dims[-1]
    if only_use(output):
        use = next(iter(output.uses()))
        if is_op(use.node, "Add") and use.node.graph is node.graph:
            other = use.node.inputs[1 - use.idx]
            if _is_vector(other, outputs) and len(other.uses()) == 1:
                return Linear(node, use.node.outputs[0], outputs, -1, use.node, 1 - use.idx)
    return Linear(node, output, outputs, -1, None, 1)


def _is_vector(value: ir.Value | None, size: int) -> bool:
    """Whether the constant has one element, or `size` on its last axis and 1 elsewhere."""
    if not is_constant(value):
        return False
    dims = dims_of(value)
    return len(dims) <= 1 and (len(dims) == 0 or dims[-1] in (1, size))


def per_channel(constant: ir.Value | None, value: ir.Value, channels: int, axis: int) -> np.ndarray | None:
    """A constant operand beside `value` as one number a channel, float64 [channels]; None if it is anything else.

    `axis` is the channel axis of `value`. The constant must not broadcast `value` to a higher rank.
    """
    if not is_constant(constant):
        return None
    dims = dims_of(constant)
    known = rank(value)
    if known is None:
        if len(dims) > 1 or (axis != -1 and dims not in ((), (1,))):
            return None
    elif len(dims) > known:
        return None
    place = len(dims) - 1 if axis == -1 else axis - (known or 0) + len(dims)
    if any(d != 1 and i != place for i, d in enumerate(dims)) or (
        0 <= place < len(dims) and dims[place] not in (1, channels)
    ):
        return None
    return np.broadcast_to(array(constant).astype(np.float64).reshape(-1), (channels,))


def fits(data: np.ndarray, kind: ir.DataType) -> bool:
    """Whether float64 numbers stay finite in the given type."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(data.astype(kind.numpy()).astype(np.float64)).all())


def _renewed(graph: ir.Graph, old: ir.Value, data: np.ndarray) -> ir.Value:
    """A constant with new data in the old one's type; it keeps the old name where nothing else uses that."""
    data = data.astype(array(old).dtype)
    name = old.name
    if len(old.uses()) == 1 and old.is_initializer() and old.graph is graph:
        old.name = f"{name}.replaced"
    return initializer(graph, name, data)


def _rename_behind(output: ir.Value, behind: ir.Value) -> None:
    """Let `behind` take over name and readers of `output`, which becomes its unnamed predecessor."""
    name, behind.type, behind.shape = output.name, output.type, output.shape
    output.name = f"{name}.product"
    behind.name = name
    output.replace_all_uses_with(behind, replace_graph_outputs=True)


def add_to_bias(linear: ir.Node, amount: np.ndarray, dtype: np.dtype) -> None:
    """Add `amount` [O] to the bias of a MatMul, Gemm or Conv; a new Add or input where there is none."""
    graph = linear.graph
    if is_op(linear, "Gemm", "Conv", "ConvTranspose"):
        has_bias = len(linear.inputs) > 2 and linear.inputs[2] is not None
        bias = array(linear.inputs[2]) if has_bias else np.zeros(amount.shape, dtype)
        name = linear.inputs[2].name if has_bias else f"{linear.name}_bias"
        set_input(linear, 2, initializer(graph, f"{name}_corrected", (bias + amount).astype(dtype)))
        return
    output = linear.outputs[0]
    uses = output.uses()
    if len(uses) == 1 and is_op(uses[0].node, "Add") and not output.is_graph_output():
        add = uses[0].node
        other = add.inputs[1 - uses[0].idx]
        bias = array(other)
        if bias is not None and bias.ndim >= 1 and bias.shape[-1] == amount.size and bias.size == amount.size:
            moved = (bias + amount.reshape(bias.shape)).astype(dtype)
            set_input(add, 1 - uses[0].idx, initializer(graph, f"{other.name}_corrected", moved))
            return
    bias = initializer(graph, f"{output.name}_bias", amount.astype(dtype))
    readers = list(output.uses())
    add = ir.node("Add", inputs=[output, bias], name=f"{linear.name or output.name}_bias_add")
    result = add.outputs[0]
    result.shape, result.type = output.shape, output.type
    graph.insert_after(linear, add)
    for use in readers:
        use.node.replace_input_with(use.idx, result)
    if output.is_graph_output():
        for index, value in enumerate(graph.outputs):
            if value is output:
                graph.outputs[index] = result
        output.name, result.name = f"{output.name}_unbiased", output.name
    else:
        result.name = f"{output.name}_biased"
