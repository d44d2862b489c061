"""TINY: tiny seeded models by name, for the laws of passes; the texts are in tiny_texts.py."""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from models import llama
from models.tiny_texts import TEXTS

_WEIGHT = re.compile(r"(w|b|gamma|beta|mean|variance|table|empty)(_\w+|\d*)$")


def build(text: str, seed: int = 0) -> ir.Model:
    """The model of an ONNX text, with the inputs that are named like weights turned into seeded initializers.

    Weights are normal with variance 1/√(inputs of the layer); scales and variances lie in [0.5, 1.5].
    """
    model = ir.from_onnx_text(text)
    for value in [v for v in model.graph.inputs if _WEIGHT.match(v.name)]:
        generator = np.random.default_rng([seed, zlib.crc32(value.name.encode())])
        shape = value.shape.numpy()
        if value.name.startswith(("gamma", "variance", "w_scale")):
            data = generator.uniform(0.5, 1.5, shape)
        else:
            data = generator.standard_normal(shape) / max(1, np.prod(shape[1:])) ** 0.5
        value.const_value = ir.tensor(data.astype(value.dtype.numpy()), name=value.name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    for body in model.graphs():
        for i, node in enumerate(body):
            node.name = node.name or f"{node.op_type}_{node.outputs[0].name}_{i}"
            ir.convenience.get_const_tensor(
                node.outputs[0]
            )  # names the tensor of a Constant, as the first reader would
    model.graph.sort()
    return model


def tiny_llama() -> ir.Model:
    """Two layers of width 64 with one past and two new tokens, the numbers that make their sum fit."""
    shape = llama.Shape(layers=2, heads=4, groups=2, head_width=16)
    arrays = llama.random_arrays(shape, tokens=32, width=64, inner=96)
    return llama.build(arrays, shape, llama.Sizes("B", 2, 1, 3))


TINY: dict[str, Callable[[], ir.Model]] = {
    **{name: functools.partial(build, text) for name, text in TEXTS.items()},
    "Llama with past keys and values": tiny_llama,
}


def inputs(model: ir.Model, seed: int = 0, open_dimension: int = 3) -> dict[str, np.ndarray]:
    """Random feeds: standard normal floats, integers of 0 to 3, coin flips; open dimensions take `open_dimension`."""
    generator = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.inputs:
        shape = [d if isinstance(d, int) else open_dimension for d in value.shape]
        if value.dtype == ir.DataType.BOOL:
            feeds[value.name] = generator.integers(0, 2, shape).astype(bool)
        elif value.dtype.is_integer():
            feeds[value.name] = generator.integers(0, 4, shape).astype(value.dtype.numpy())
        else:
            feeds[value.name] = generator.standard_normal(shape).astype(value.dtype.numpy())
    return feeds
