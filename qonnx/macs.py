"""Multiply-adds of each node of a float model, for the shapes that tensors really have."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from qonnx.multiply_adds import Shape, multiply_adds
from qonnx.probes import shapes


def macs(
    model: ir.Model, sample: dict[str, np.ndarray], *, threads: int | None = None, libraries: Sequence[str] = ()
) -> dict[str, int]:
    """Multiply-adds of every product and convolution of the main graph for `sample`, by name of node.

    The model is run once and says its own shapes: symbolic shape inference fails on models that compute shapes.
    """
    return {node.name: n for node, n in macs_from_shapes(model, shapes(model, sample, threads, libraries)).items()}


def macs_from_shapes(model: ir.Model, known: Mapping[str, Shape]) -> dict[ir.Node, int]:
    """Multiply-adds by node, from shapes by name of value (constants know their own); what is unknown is left out."""
    found = {}
    for node in model.graph:
        constants = ((value, ir.convenience.get_const_tensor(value)) for value in node.inputs if value is not None)
        own = {value.name: tuple(tensor.shape.numpy()) for value, tensor in constants if tensor is not None}
        count = multiply_adds(node, ChainMap(own, known)) if node.domain == "" else None
        if count is not None:
            found[node] = count
    return found
