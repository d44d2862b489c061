"""infer_shapes: types and shapes of every value, from ONNX's shape inference.

Old exporters write shapes of intermediate values that are wrong, and one dimension name ("?") for different dimensions.
Inference then either fails or believes them. So recorded shapes of intermediate values are dropped first, and a name
that stands for nothing is not used.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir

from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import bodies, integer, is_op
from qonnx.passes.shape_values import ShapeValues

_ROUNDS = 16  # each makes the next computed Reshape in a row known
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
    for _ in range(_ROUNDS):
        inferred = _run(model)
        if inferred is not None:
            _take_over(model, inferred, set(before))
        if not sum(_shaped_by_value(node) for body in bodies(model) for node in body):
            break
    changed = 0
    for value, (old_type, old_shape) in before.items():
        value.shape = old_shape if value.shape is None else value.shape
        changed += value.type != old_type or _dims(value.shape) != _dims(old_shape)
    return changed


def _take_over(model: ir.Model, inferred: ir.Model, wanted: set[ir.Value]) -> None:
    for body, other in zip(model.graphs(), inferred.graphs(), strict=True):
        known = {o.name: o for node in other for o in node.outputs}
        for value in [o for node in body for o in node.outputs if o in wanted and o.name in known]:
            match = known[value.name]
            value.type = match.type if match.type is not None else value.type
            value.shape = match.shape if match.shape is not None else value.shape


def _shaped_by_value(node: ir.Node) -> bool:
    """Give the output of a Reshape or Expand whose target is computed the shape, or at least the rank, that it has.

    ONNX's inference gives up on a target with an open dimension; everything behind it then has no rank.
    """
    output = node.outputs[0]
    if not is_op(node, "Reshape", "Expand") or output.shape is not None or output.is_graph_output():
        return False
    source, target = node.inputs[:2]
    output.type = source.type if output.type is None else output.type
    if output.type is None:  # a file holds no shape without a type
        return False
    elements = ShapeValues()(target)
    if elements is None:
        if target.shape is None or len(target.shape) != 1 or not isinstance(target.shape[0], int):
            return False
        elements = np.full(target.shape[0], None, dtype=object)
    if elements.ndim != 1 or (is_op(node, "Expand") and (source.shape is None or len(source.shape) != len(elements))):
        return False
    zero_copies = is_op(node, "Reshape") and not integer(node, "allowzero", 0)
    dims: list[int | str | None] = []
    for i, element in enumerate(elements):
        known = source.shape[i] if source.shape is not None and i < len(source.shape) else None
        known = known.value if isinstance(known, ir.SymbolicDim) else known
        if is_op(node, "Expand"):
            dim = known if isinstance(element, np.generic) and element == 1 else element if known == 1 else None
        else:
            dim = known if zero_copies and isinstance(element, np.generic) and element == 0 else element
        number = int(dim) if isinstance(dim, int | np.integer) else dim
        dims.append(None if isinstance(number, int) and number < 0 else number)
    output.shape = ir.Shape(dims)
    return True


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
