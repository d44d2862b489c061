"""What a decomposed normalisation looks like, in every spelling that exporters use.

    centred = x − mean(x);  variance = mean(centred²);  y = centred / √(variance + ε)  [· γ + β]

RMS normalisation is the same without the mean. Found from the division (or the product with a reciprocal) upwards.
Casts to and from float32 inside ("islands" of mixed-precision exports) are looked through.
"""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from qonnx.passes.rewire import array, integer, integers, is_op, scalar


@dataclasses.dataclass(frozen=True)
class Normalised:
    """`y = (x − mean) / √(mean((x − mean)²) + ε)` over the last `axes` axes, or without the mean if not `centred`."""

    x: ir.Value
    axes: int
    epsilon: float
    centred: bool


def normalised(node: ir.Node) -> Normalised | None:
    """The normalisation that `node` (Div or Mul) completes, or None."""
    if is_op(node, "Div"):
        return _match(node.inputs[0], _under_root(node.inputs[1]))
    if is_op(node, "Mul"):
        for index in (0, 1):
            found = _match(node.inputs[1 - index], _under_inverse_root(node.inputs[index]))
            if found is not None:
                return found
    return None


def through_casts(value: ir.Value | None) -> ir.Value | None:
    """The value before any Cast between floating-point types."""
    while value is not None and is_op(value.producer(), "Cast"):
        before = value.producer().inputs[0]
        if before is None or before.dtype is None or not before.dtype.is_floating_point():
            break
        value = before
    return value


def _producer(value: ir.Value | None, *kinds: str) -> ir.Node | None:
    value = through_casts(value)
    node = value.producer() if value is not None else None
    return node if is_op(node, *kinds) else None


def _under_root(value: ir.Value | None) -> ir.Value | None:
    """q of √q, spelt Sqrt or Pow."""
    node = _producer(value, "Sqrt", "Pow")
    if node is None or (node.op_type == "Pow" and scalar(node.inputs[1]) != 0.5):
        return None
    return node.inputs[0]


def _under_inverse_root(value: ir.Value | None) -> ir.Value | None:
    """q of 1/√q, spelt Reciprocal, 1/·, or Pow."""
    node = _producer(value, "Reciprocal", "Div", "Pow")
    if node is None:
        return None
    if node.op_type == "Pow":
        return node.inputs[0] if scalar(node.inputs[1]) == -0.5 else None
    if node.op_type == "Div":
        return _under_root(node.inputs[1]) if scalar(node.inputs[0]) == 1.0 else None
    return _under_root(node.inputs[0])


def _match(numerator: ir.Value | None, under_root: ir.Value | None) -> Normalised | None:
    add = _producer(under_root, "Add")
    if add is None or numerator is None:
        return None
    for index in (0, 1):
        epsilon = scalar(through_casts(add.inputs[index]))
        if epsilon is None or epsilon < 0:
            continue
        mean = _mean(add.inputs[1 - index])
        squared = _squared(mean[0]) if mean is not None else None
        if squared is None:
            continue
        centred = _centred(squared)
        if centred is not None and centred[1] == mean[1] and _same(numerator, squared):
            return Normalised(centred[0], mean[1], epsilon, True)
        if through_casts(numerator) is through_casts(squared):
            return Normalised(_outermost(numerator, squared), mean[1], epsilon, False)
    return None


def _outermost(a: ir.Value, b: ir.Value) -> ir.Value:
    """Of two values that differ by Casts, the one with fewer: its type is the type outside the island."""
    return a if a is through_casts(a) else b


def _mean(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """(x, number of last axes) if the value is the mean of x over its last axes, dimensions kept."""
    node = _producer(value, "ReduceMean", "Div", "Mul", "GlobalAveragePool")
    if node is None:
        return None
    if node.op_type == "ReduceMean":
        axes = last_axes(node)
        return None if axes is None else (node.inputs[0], axes)
    total = _producer(node.inputs[0], "ReduceSum")  # ReduceSum · 1/n or / n
    if total is None or node.op_type == "GlobalAveragePool":
        return None
    axes, factor, shape = last_axes(total), scalar(node.inputs[1]), total.inputs[0].shape
    if axes is None or factor is None or shape is None:
        return None
    count = 1
    for dim in list(shape)[-axes:]:
        if not isinstance(dim, int):
            return None
        count *= dim
    expected = count if node.op_type == "Div" else 1 / count
    return (total.inputs[0], axes) if abs(factor - expected) <= 1e-6 * expected else None


def last_axes(node: ir.Node) -> int | None:
    """How many axes a reduction reduces if they are the last ones and it keeps dimensions; else None."""
    if not integer(node, "keepdims", 1):
        return None
    axes = integers(node, "axes")
    if axes is None:
        given = array(node.inputs[1]) if len(node.inputs) > 1 else None
        if given is None:
            return None
        axes = tuple(int(a) for a in given.ravel())
    shape = node.inputs[0].shape
    if any(a >= 0 for a in axes):
        if shape is None:
            return None
        axes = tuple(a - len(shape) if a >= 0 else a for a in axes)
    return len(axes) if axes and sorted(axes) == list(range(-len(axes), 0)) else None


def _squared(value: ir.Value | None) -> ir.Value | None:
    node = _producer(value, "Pow", "Mul")
    if node is None:
        return None
    if node.op_type == "Pow":
        return node.inputs[0] if scalar(node.inputs[1]) == 2.0 else None
    return node.inputs[0] if node.inputs[0] is node.inputs[1] else None


def _centred(value: ir.Value) -> tuple[ir.Value, int] | None:
    """(x, axes) if the value is x − mean(x)."""
    node = _producer(value, "Sub")
    mean = _mean(node.inputs[1]) if node is not None else None
    if mean is None or through_casts(mean[0]) is not through_casts(node.inputs[0]):
        return None
    return node.inputs[0], mean[1]


def _same(a: ir.Value, b: ir.Value) -> bool:
    """Whether two values are one, or two Subs of the same operands (some exporters subtract twice)."""
    a, b = through_casts(a), through_casts(b)
    if a is b:
        return True
    first, second = a.producer(), b.producer()
    if not (is_op(first, "Sub") and is_op(second, "Sub")):
        return False
    means = _centred(a), _centred(b)
    return None not in means and through_casts(means[0][0]) is through_casts(means[1][0]) and means[0][1] == means[1][1]
