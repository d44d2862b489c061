"""fuse_layer_norm and fuse_rms_norm: a decomposed normalisation becomes one operator.

Inside a normalisation nothing may be quantized, and its scale and shift are where channel factors can be put for free:
both need it to be one node.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qonnx.passes.base import Change, Pass
from qonnx.passes.norm_patterns import Normalised, normalised, through_casts
from qonnx.passes.rewire import (
    array,
    bodies,
    initializer,
    is_constant,
    is_op,
    new_node,
    only_use,
    remove_unused,
    replace,
)


@dataclasses.dataclass
class FuseLayerNorm(Pass):
    """Cases: 1. with a constant scale and shift of the normalised shape behind it; 2. with a scale only; 3. bare, if
    the normalised shape is known (the scale becomes ones). Opset 17 and later. See norm_patterns for the spellings.
    """

    def changes(self, model: ir.Model) -> Iterator[Change]:
        if model.graph.opset_imports.get("", 0) >= 17:
            yield from _fuse(model, centred=True)


@dataclasses.dataclass
class FuseRmsNorm(Pass):
    """As fuse_layer_norm, without mean and shift. The operator exists from opset 23; below, the nodes stay as they
    are."""

    def changes(self, model: ir.Model) -> Iterator[Change]:
        if model.graph.opset_imports.get("", 0) >= 23:
            yield from _fuse(model, centred=False)


def _fuse(model: ir.Model, centred: bool) -> Iterator[Change]:
    for body in bodies(model):
        for node in list(body):
            found = normalised(node) if node.graph is not None else None
            if found is not None and found.centred == centred:
                name = _emit(node, found)
                if name is not None:
                    yield Change(name, f"{'Layer' if centred else 'RMS'}Normalization over {found.axes} axes")


def _emit(node: ir.Node, found: Normalised) -> str | None:
    """Replace the normalisation that ends in `node`, and the affine steps behind it; the new node's name."""
    last, scale, shift = node.outputs[0], None, None
    dims = _normalised_dims(found)
    value = _cast_back(last, found.x)
    step = _constant_step(value, "Mul", found.axes, dims)
    if step is not None:
        last, scale = step
        step = _constant_step(last, "Add", found.axes, dims) if found.centred else None
        if step is not None:
            last, shift = step
    elif value is not last and value.dtype == found.x.dtype:
        last = value
    kind = last.dtype or found.x.dtype
    x = None if kind is None else _input_of_type(found.x, kind)
    if x is None:
        return None
    if dims is None and scale is not None:
        dims = [*scale.shape][-found.axes :] if scale.ndim >= found.axes else None
    if dims is None:
        return None
    end, graph = last.producer(), node.graph
    number = kind.numpy()
    ones = np.ones((), np.float64) if scale is None else scale
    inputs = [x, _parameter(graph, f"{last.name}.scale", ones, dims, number)]
    attributes = {"axis": -found.axes, "epsilon": found.epsilon}
    if shift is not None:
        inputs.append(_parameter(graph, f"{last.name}.bias", shift, dims, number))
    new = new_node("LayerNormalization" if found.centred else "RMSNormalization", inputs, attributes, like=end)
    graph.insert_before(end, new)
    new.outputs[0].type, new.outputs[0].shape = ir.TensorType(kind), last.shape or x.shape
    replace(last, new.outputs[0])
    remove_unused([end])
    return new.name or new.outputs[0].name or ""


def _parameter(graph: ir.Graph, name: str, data: np.ndarray, dims: list[int], kind: np.dtype) -> ir.Value:
    return initializer(graph, name, np.broadcast_to(data.reshape(data.shape[-len(dims) :]), dims).astype(kind))


def _normalised_dims(found: Normalised) -> list[int] | None:
    """The sizes of the normalised axes, if known."""
    shape = found.x.shape
    dims = None if shape is None else list(shape)[-found.axes :]
    return dims if dims is not None and len(dims) == found.axes and all(isinstance(d, int) for d in dims) else None


def _cast_back(value: ir.Value, x: ir.Value) -> ir.Value:
    """The end of the island: the value behind a Cast back to the type that came in."""
    if only_use(value):
        node = next(iter(value.uses())).node
        if (
            is_op(node, "Cast")
            and node.graph is value.producer().graph
            and node.outputs[0].dtype == through_casts(x).dtype
        ):
            return node.outputs[0]
    return value


def _constant_step(value: ir.Value, kind: str, axes: int, dims: list[int] | None) -> tuple[ir.Value, np.ndarray] | None:
    """(output, constant) of the only reader of `value` if it is a `kind` with a constant of the normalised shape."""
    if not only_use(value):
        return None
    use = next(iter(value.uses()))
    if not is_op(use.node, kind) or use.node.graph is not value.producer().graph:
        return None
    constant = use.node.inputs[1 - use.idx]
    if not is_constant(constant):
        return None
    data = array(constant)
    outer, inner = list(data.shape[:-axes]), list(data.shape[-axes:])
    if any(d != 1 for d in outer) or (value.shape is not None and data.ndim > len(value.shape)):
        return None
    if dims is None:
        if len(inner) != axes or 1 in inner:
            return None
    elif any(d not in (1, full) for d, full in zip(inner[::-1], dims[::-1], strict=False)):
        return None
    return use.node.outputs[0], data.astype(np.float64)


def _input_of_type(x: ir.Value, kind: ir.DataType) -> ir.Value | None:
    """`x`, or what it was before a Cast, or another Cast of that, whichever has the type."""
    outside = through_casts(x)
    casts = [use.node.outputs[0] for use in outside.uses() if is_op(use.node, "Cast")]
    return next((value for value in (x, outside, *casts) if value.dtype == kind), None)
