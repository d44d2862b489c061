"""int32 biases: their codes, and weight scales that leave room for them.

A bias is stored on the grid of the products, input scale × weight scale. A channel whose weights are all but zero (dead
after training, with only its bias left) has such a fine grid that its bias does not fit into int32, or leaves no room
for the products: its weights then get the finest scale on which the bias stays below 2³⁰ in magnitude, on which they
are as good as zero, which they were.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from qonnx.formats import FORMATS, QuantizedTensor

_LARGEST = 2**30 * (1 - 2**-20)  # half of int32 is for the products; float32 scales are exact to 2⁻²⁴


def with_room(weight: QuantizedTensor, bias: np.ndarray, input_scale: float) -> QuantizedTensor:
    """`weight` with coarser scales where bias codes would reach 2³⁰; the same object if there are none.

    bias: float, [channels]. A weight with scales by block is left as it is: no integer bias goes with it.
    """
    if weight.format.granularity == "block" or not bias.size:
        return weight
    scale = np.asarray(weight.scale, np.float32)
    largest = np.abs(np.asarray(bias, np.float64)).reshape(-1, max(1, scale.size)).max(axis=0).reshape(scale.shape)
    least = (largest / (_LARGEST * float(input_scale))).astype(np.float32)
    tight = scale < least
    if not tight.any():
        return weight
    scale = np.where(tight, least, scale).astype(np.float32)
    wide, room, zero_point = (_spread(weight, parameter) for parameter in (tight, scale, weight.zero_point))
    codes = np.where(wide, weight.format.encode(weight.decode(), room, zero_point), weight.codes)
    return dataclasses.replace(weight, codes=codes.astype(weight.codes.dtype), scale=scale)


def bias_codes(bias: np.ndarray, weight_scale: np.ndarray, input_scale: float) -> QuantizedTensor:
    """`bias` [channels] as int32 on the grid of the products; zero points are 0."""
    scale = np.asarray(weight_scale, np.float32) * np.float32(input_scale)
    if scale.ndim:  # groups of a ConvTranspose share the scales of their channels
        scale = np.tile(scale, bias.shape[0] // scale.shape[0])
    limit = 2**31 - 1
    codes = np.clip(np.rint(np.asarray(bias, np.float64) / scale.astype(np.float64)), -limit, limit).astype(np.int32)
    stored = QuantizedTensor(FORMATS["s32"], codes, scale, np.zeros(scale.shape, np.int32), 0)
    if scale.ndim:
        stored = dataclasses.replace(stored, format=dataclasses.replace(stored.format, granularity="channel"))
    return stored


def _spread(weight: QuantizedTensor, parameter: np.ndarray) -> np.ndarray:
    """A scalar, or one number a channel, broadcast against the weight's codes."""
    parameter = np.asarray(parameter)
    return parameter.reshape(
        [-1 if i == weight.axis else 1 for i in range(weight.codes.ndim)] if parameter.ndim else ()
    )
