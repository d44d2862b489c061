"""What is known of the numbers that shape arithmetic computes, although a dimension is open.

A value of shape arithmetic is an object array. An element is a NumPy scalar (known), a string (an open dimension of
that name) or None (unknown). [batch, 3, 224, 224] is known in three of four elements, and their product with 1 stays
known. Computing on NumPy scalars of the right type gives the very numbers that the runtime would.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from qonnx.passes.rewire import array, integer, integers, is_constant, is_op

LARGEST = 64  # elements; shape arithmetic is short, and longer constants are weights


def is_known(elements: np.ndarray) -> bool:
    """Whether every element is a number."""
    return all(isinstance(x, np.generic) for x in elements.flat)


class ShapeValues:
    """Evaluates on demand, remembering results. Make a new one after the graph has changed."""

    def __init__(self) -> None:
        self._found: dict[ir.Value, np.ndarray | None] = {}

    def __call__(self, value: ir.Value | None) -> np.ndarray | None:
        """The elements of `value`, or None if nothing is known of them."""
        if value is None:
            return None
        pending = [value]
        while pending:  # depth-first without recursion: chains can be longer than Python's stack
            top = pending[-1]
            if top in self._found:
                pending.pop()
                continue
            node = top.producer()
            relevant = node is not None and not is_constant(top) and is_op(node, *_RULES)
            missing = [v for v in node.inputs if v is not None and v not in self._found] if relevant else []
            if missing and not is_op(node, "Shape", "Size"):
                pending.extend(missing)
                continue
            self._found[top] = self._compute(top)
            pending.pop()
        return self._found[value]

    def _compute(self, value: ir.Value) -> np.ndarray | None:
        if is_constant(value):
            tensor = ir.convenience.get_const_tensor(value)
            if tensor.size > LARGEST or tensor.dtype == ir.DataType.STRING:
                return None
            return _objects(tensor.numpy())
        node = value.producer()
        rule = _RULES.get(node.op_type) if is_op(node, *_RULES) else None
        if rule is None or len(node.outputs) != 1:
            return None
        inputs = [self._found.get(v) for v in node.inputs]
        result = rule(node, inputs)
        return None if result is None or result.size > LARGEST else result


def _objects(data: np.ndarray) -> np.ndarray:
    result = np.empty(data.shape, dtype=object)
    for index in np.ndindex(data.shape):
        result[index] = data[index]
    return result


def _shape(node: ir.Node, _inputs: list) -> np.ndarray | None:
    shape = node.inputs[0].shape
    if shape is None:
        return None
    dims = [np.int64(d) if isinstance(d, int) else d.value for d in shape]
    end = node.attributes.get("end")
    dims = dims[integer(node, "start", 0) : None if end is None else end.as_int()]
    result = np.empty(len(dims), dtype=object)
    result[:] = dims
    return result


def _size(node: ir.Node, _inputs: list) -> np.ndarray | None:
    shape = node.inputs[0].shape
    return _objects(np.array(np.prod(shape.numpy()), np.int64)) if shape is not None and shape.is_static() else None


def _gather(node: ir.Node, inputs: list) -> np.ndarray | None:
    indices = array(node.inputs[1])
    if inputs[0] is None or indices is None:
        return None
    return np.asarray(np.take(inputs[0], indices.astype(np.int64), axis=integer(node, "axis", 0)), dtype=object)


def _slice(node: ir.Node, inputs: list) -> np.ndarray | None:
    if inputs[0] is None or any(x is None or not is_known(x) for x in inputs[1:]):
        return None
    starts, ends = inputs[1].ravel(), inputs[2].ravel()
    axes = inputs[3].ravel() if len(inputs) > 3 else range(len(starts))
    steps = inputs[4].ravel() if len(inputs) > 4 else [1] * len(starts)
    cut = [slice(None)] * inputs[0].ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        length = inputs[0].shape[int(axis)]
        backwards_to_start = int(step) < 0 and int(end) < -length
        cut[int(axis)] = slice(int(start), None if backwards_to_start else int(end), int(step))
    return inputs[0][tuple(cut)]


def _concat(node: ir.Node, inputs: list) -> np.ndarray | None:
    """An input of known length and unknown content still contributes unknown elements."""
    parts = []
    for value, part in zip(node.inputs, inputs, strict=True):
        if part is None:
            if value.shape is None or len(value.shape) != 1 or not isinstance(value.shape[0], int):
                return None
            part = np.full(value.shape[0], None, dtype=object)
        parts.append(part)
    return np.concatenate(parts, axis=integer(node, "axis", 0)) if all(p.ndim for p in parts) else None


def _axes(node: ir.Node, inputs: list) -> list[int] | None:
    found = integers(node, "axes")
    if found is None and len(inputs) > 1 and inputs[1] is not None and is_known(inputs[1]):
        found = [int(x) for x in inputs[1].ravel()]
    return None if found is None else list(found)


def _unsqueeze(node: ir.Node, inputs: list) -> np.ndarray | None:
    axes = _axes(node, inputs)
    return None if inputs[0] is None or axes is None else np.expand_dims(inputs[0], tuple(axes))


def _squeeze(node: ir.Node, inputs: list) -> np.ndarray | None:
    axes = _axes(node, inputs)
    if inputs[0] is None or (axes is None and len(node.inputs) > 1):
        return None
    return np.asarray(np.squeeze(inputs[0], None if axes is None else tuple(axes)), dtype=object)


def _reshape(_node: ir.Node, inputs: list) -> np.ndarray | None:
    if inputs[0] is None or inputs[1] is None or not is_known(inputs[1]) or 0 in inputs[1]:
        return None
    return inputs[0].reshape([int(x) for x in inputs[1]])


def _cast(node: ir.Node, inputs: list) -> np.ndarray | None:
    if inputs[0] is None:
        return None
    wanted = ir.DataType(integer(node, "to", 1))
    if wanted == ir.DataType.STRING:
        return None
    whole = wanted.is_integer()
    kind = wanted.numpy()

    def convert(x):
        return kind.type(x) if isinstance(x, np.generic) else x if whole else None

    return _each(convert, inputs[0])


def _constant_of_shape(node: ir.Node, inputs: list) -> np.ndarray | None:
    if inputs[0] is None or not is_known(inputs[0]) or np.prod(inputs[0], initial=1) > LARGEST:
        return None
    fill = node.attributes.get("value")
    fill = np.float32(0) if fill is None else fill.as_tensor().numpy().reshape(-1)[0]
    return _objects(np.full([int(x) for x in inputs[0]], fill))


def _where(_node: ir.Node, inputs: list) -> np.ndarray | None:
    if any(x is None for x in inputs):
        return None
    condition, yes, no = np.broadcast_arrays(*inputs)
    result = np.empty(condition.shape, dtype=object)
    for i in np.ndindex(condition.shape):
        known = isinstance(condition[i], np.generic)
        result[i] = (yes[i] if condition[i] else no[i]) if known else None
    return result


def _reduce_prod(node: ir.Node, inputs: list) -> np.ndarray | None:
    if inputs[0] is None or not is_known(inputs[0]) or inputs[0].ndim != 1:
        return None
    product = np.prod(inputs[0], initial=1)
    return _objects(np.array([product] if integer(node, "keepdims", 1) else product, type(inputs[0][0])))


def _range(_node: ir.Node, inputs: list) -> np.ndarray | None:
    if any(x is None or not is_known(x) for x in inputs):
        return None
    start, limit, delta = (x.reshape(-1)[0] for x in inputs)
    if delta == 0 or (limit - start) / delta > LARGEST:
        return None
    return _objects(np.arange(start, limit, delta, dtype=type(start)))


def _each(function: Callable, *arrays: np.ndarray) -> np.ndarray:
    broadcast = np.broadcast_arrays(*arrays)
    result = np.empty(broadcast[0].shape, dtype=object)
    for i in np.ndindex(result.shape):
        result[i] = function(*(a[i] for a in broadcast))
    return result


def _elementwise(function: Callable, neutral: float | None = None) -> Callable:
    """Unknown in, unknown out; an open dimension survives its neutral element (d·1, d+0)."""

    def one(*elements):
        if all(isinstance(x, np.generic) for x in elements):
            with np.errstate(all="ignore"):
                result = function(*elements)
            return np.asarray(result)[()]
        names = [x for x in elements if isinstance(x, str)]
        others = [x for x in elements if isinstance(x, np.generic)]
        return names[0] if len(names) == 1 and others == [neutral] else None

    def rule(_node: ir.Node, inputs: list) -> np.ndarray | None:
        return None if any(x is None for x in inputs) else _each(one, *inputs)

    return rule


def _divide(a, b):
    if not isinstance(a, np.integer):
        return a / b
    return type(a)(int(a) // int(b) if (a < 0) == (b < 0) else -(-int(a) // int(b))) if b else None


def _equal(_node: ir.Node, inputs: list) -> np.ndarray | None:
    """A dimension is never negative, so `dim == -1` is known to be false."""

    def one(a, b):
        if isinstance(a, np.generic) and isinstance(b, np.generic):
            return np.bool_(a == b)
        number = a if isinstance(a, np.generic) else b
        name = b if number is a else a
        return np.bool_(False) if isinstance(name, str) and isinstance(number, np.generic) and number < 0 else None

    return None if any(x is None for x in inputs) else _each(one, *inputs)


_RULES: dict[str, Callable] = {
    "Shape": _shape,
    "Size": _size,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Cast": _cast,
    "ConstantOfShape": _constant_of_shape,
    "Where": _where,
    "Equal": _equal,
    "ReduceProd": _reduce_prod,
    "Range": _range,
    "Identity": _elementwise(lambda a: a),
    "Add": _elementwise(operator.add, 0),
    "Sub": _elementwise(operator.sub),
    "Mul": _elementwise(operator.mul, 1),
    "Div": _elementwise(_divide),
    "Neg": _elementwise(operator.neg),
    "Abs": _elementwise(abs),
    "Floor": _elementwise(np.floor),
    "Ceil": _elementwise(np.ceil),
    "Round": _elementwise(np.rint),
    "Sqrt": _elementwise(np.sqrt),
    "Min": _elementwise(min),
    "Max": _elementwise(max),
    "Greater": _elementwise(operator.gt),
    "GreaterOrEqual": _elementwise(operator.ge),
    "Less": _elementwise(operator.lt),
    "LessOrEqual": _elementwise(operator.le),
    "Not": _elementwise(operator.invert),
    "And": _elementwise(operator.and_),
    "Or": _elementwise(operator.or_),
}
