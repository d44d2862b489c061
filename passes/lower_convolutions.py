"""Convolutions of images with dequantized weights below 8 bits become ConvLowBit, whose codes are packed to the bit.

As DequantizeLinear and Conv, ONNX Runtime decodes the weight at every run. What ConvLowBit has no kernel for stays:
groups, one and three dimensions, padding that follows from the size of the image.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qonnx.custom_ops.lowbit import LowBitWeight
from qonnx.custom_ops.ops import WINDOW, add_to_model, node
from qonnx.passes.rewire import array, fresh_name, integer, integers, is_constant, is_op

CONV_LOW_BIT = "ConvLowBit"
_DEFAULTS = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}


def convolution_weight(conv: ir.Node) -> LowBitWeight | None:
    """The weight [N, height · width · channels] of a Conv that ConvLowBit can stand in for, in fewer than 8 bits."""
    if not is_op(conv, "Conv") or not is_op(dequantize := conv.inputs[1].producer(), "DequantizeLinear"):
        return None
    if not all(is_constant(x) for x in (*dequantize.inputs, *conv.inputs[2:]) if x is not None):
        return None
    codes, scale = (array(x) for x in dequantize.inputs[:2])
    padding = conv.attributes.get("auto_pad")
    explicit = padding is None or padding.as_string() in ("NOTSET", "VALID")
    if codes.ndim != 4 or integer(conv, "group", 1) != 1 or not explicit:
        return None
    lowest = int(codes.astype(np.int32).min()) if dequantize.inputs[0].dtype.is_signed() else 0
    shifted = codes.astype(np.int32) - lowest
    bits = max(int(shifted.max()).bit_length(), 1)
    if bits >= 8:
        return None
    given = dequantize.inputs[2] if len(dequantize.inputs) > 2 else None
    zero_point = np.zeros(scale.shape, np.int32) if given is None else array(given).astype(np.int32)
    outputs, axis, block = len(codes), integer(dequantize, "axis", 1) % 4, integer(dequantize, "block_size", 0)
    channels, taps = codes.shape[1], codes.shape[2] * codes.shape[3]
    if block:  # of channels, which are the fastest of a row
        if axis != 1 or (taps > 1 and channels % block):
            return None
        scale, zero_point = (x.transpose(0, 2, 3, 1).reshape(outputs, -1) for x in (scale, zero_point))
    elif scale.size > 1 and axis != 0:
        return None
    else:
        scale, zero_point = (np.broadcast_to(x.reshape(-1, 1), (outputs, 1)) for x in (scale, zero_point))
    zero_point = zero_point - lowest
    return LowBitWeight(
        codes=shifted.transpose(0, 2, 3, 1).reshape(outputs, -1),
        scale=np.ascontiguousarray(scale),
        zero_point=zero_point.astype(np.uint8 if zero_point.min() >= 0 else np.float32),
        block=block or codes[0].size,
        levels=2**bits,
    )


def convolution(model: ir.Model, conv: ir.Node, weight: LowBitWeight) -> ir.Node:
    """The ConvLowBit that stands in for a Conv with that weight; its arrays become initializers of the Conv's graph."""
    graph, x = conv.graph, conv.inputs[0]
    dtype = (x.dtype or ir.DataType.FLOAT).numpy()
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    arrays = {**weight.arrays(), "bias": np.zeros(1, dtype) if bias is None else array(bias).astype(dtype)}
    prefix = conv.inputs[1].name.removesuffix("_dequantized")
    values = []
    for name, data in arrays.items():
        name = fresh_name(graph, f"{prefix}/{name}")
        values.append(ir.Value(name=name, const_value=ir.tensor(data, name=name)))
        graph.register_initializer(values[-1])
    height, width = conv.inputs[1].producer().inputs[0].const_value.shape[2:]
    valid = "auto_pad" in conv.attributes and conv.attributes["auto_pad"].as_string() == "VALID"
    window = {name: integers(conv, name) or _DEFAULTS.get(name, (height, width)) for name in WINDOW}
    if valid:
        window["pads"] = _DEFAULTS["pads"]
    add_to_model(model, CONV_LOW_BIT)
    return node(CONV_LOW_BIT, [x, *values], node_name=conv.name, **weight.attributes(), **window)
