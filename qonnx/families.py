"""Families of models that have recipes of their own, known by their operators."""

from __future__ import annotations

import onnx_ir as ir

_BETWEEN = ("Reshape", "Transpose", "Cast", "Dropout", "Identity", "Where", "Mul")  # of Softmax and attention × V
_BEFORE = ("Cast", "Sub", "Div", "Mul", "Add", "Transpose", "Reshape", "Identity", "Resize", "Pad")  # of the patches
_FEWEST = 2  # attention blocks


def is_vision_transformer(model: ir.Model) -> bool:
    """Whether an image is cut into patches by a convolution whose kernel is its stride, and attention follows."""
    nodes = list(model.graph.all_nodes())
    for function in model.functions.values():
        nodes += list(function.all_nodes())
    return any(map(_cuts_patches, nodes)) and sum(map(_attends, nodes)) >= _FEWEST


def _attends(node: ir.Node) -> bool:
    """Whether it is an attention, or a Softmax whose result is multiplied by a matrix."""
    if node.op_type in ("Attention", "MultiHeadAttention"):
        return True
    if node.op_type != "Softmax" or node.domain not in ("", "ai.onnx"):
        return False
    waiting, seen = [node.outputs[0]], 0
    while waiting and seen < 32:
        for reader in waiting.pop().consumers():
            seen += 1
            if reader.op_type in ("MatMul", "Einsum"):
                return True
            if reader.op_type in _BETWEEN:
                waiting.append(reader.outputs[0])
    return False


def _cuts_patches(node: ir.Node) -> bool:
    """Whether it is a convolution of two or more spatial axes, stride = kernel > 1, on an input of its graph."""
    if node.op_type != "Conv" or node.domain not in ("", "ai.onnx"):
        return False
    kernel = node.attributes.get_ints("kernel_shape", ())
    if len(kernel) < 2 or min(kernel) < 2 or tuple(node.attributes.get_ints("strides", ())) != tuple(kernel):
        return False
    value = node.inputs[0]
    for _ in range(16):
        maker = None if value is None else value.producer()
        if maker is None:
            return value is not None
        if maker.op_type not in _BEFORE:
            return False
        value = next((x for x in maker.inputs if x is not None and x.const_value is None), None)
    return False
