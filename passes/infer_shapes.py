"""infer_shapes: types and shapes of every value, from ONNX's shape inference.

Old exporters write shapes of intermediate values that are wrong, and one dimension name ("?") for different dimensions.
Inference then either fails or believes them. So recorded shapes of intermediate values are dropped first, and a name
that stands for nothing is not used.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import bodies

_LARGEST_KEPT = 1024  # bytes; larger constants cannot matter to a shape, and copying them costs memory


@dataclasses.dataclass
class InferShapes(Pass):
    """Infer shapes; `recorded` shapes in the file are trusted only where inference finds nothing."""

    tolerance = 0.0

    def changes(self, model: ir.Model) -> Iterator[Change]:
        found = infer(model)
        if found:
            yield Change("shapes", f"{found} values got a type or shape")


def infer(model: ir.Model) -> int:
    """Set type and shape of every intermediate value; the number of values that this changed."""
    before = {v: (v.type, v.shape) for v in _intermediate(model)}
    for value in before:
        value.shape = None
    inferred = _run(model)
    changed = 0
    for body, other in zip(model.graphs(), inferred.graphs() if inferred else model.graphs(), strict=True):
        known = {o.name: o for node in other for o in node.outputs}
        for value in [o for node in body for o in node.outputs]:
            if value not in before:
                continue
            old_type, old_shape = before[value]
            match = known.get(value.name)
            if match is not None and match.type is not None:
                value.type = match.type
            new_shape = match.shape if match is not None else None
            value.shape = new_shape if new_shape is not None else old_shape
            changed += value.type != old_type or _dims(value.shape) != _dims(old_shape)
    return changed


def _dims(shape: ir.Shape | None) -> list | None:
    """A shape for comparison: names that inference makes up are all alike."""
    if shape is None:
        return None
    return [d if isinstance(d, int) else None if str(d).startswith("unk__") else str(d) for d in shape]


def _intermediate(model: ir.Model) -> Iterator[ir.Value]:
    for body in bodies(model):
        for node in body:
            yield from (o for o in node.outputs if o.name and not o.is_graph_output())


def _run(model: ir.Model) -> ir.Model | None:
    """A model of the same graph with shapes; None if inference fails. Large constants go in as inputs without data."""
    log = logging.getLogger(__name__)
    taken: list[tuple[ir.Graph, ir.Value, ir.TensorProtocol]] = []
    inputs = len(model.graph.inputs)
    try:
        for value in list(model.graph.initializers.values()):
            tensor = value.const_value
            if tensor is not None and tensor.nbytes > _LARGEST_KEPT:
                taken.append((model.graph, value, tensor))
                value.shape, value.dtype = tensor.shape, tensor.dtype
                model.graph.initializers.pop(value.name)
                value.const_value = None
                model.graph.inputs.append(value)
        proto = ir.to_proto(model)
    finally:
        while len(model.graph.inputs) > inputs:
            model.graph.inputs.pop()
        for graph, value, tensor in taken:
            value.const_value = tensor
            graph.register_initializer(value)
    for strict in (True, False):
        try:
            return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=strict, data_prop=True))
        except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
            log.debug("shape inference (strict=%s): %s", strict, error)
    return None
