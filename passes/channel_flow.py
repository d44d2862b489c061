"""Where the channels of a tensor go: through reshapes, transposes and splits, to the operators that compute with them.

An array that holds the number of each element's channel takes the way that the tensor takes. What arrives says which
channel an operator's operand holds at each place, however an exporter spelled the split into heads or windows.

Besides movement, the way may lead through what commutes with x_c → a_c x_c + t_c: means over places of one channel, and
multiplication by one number, the `factor` of a Leaf (exporters scale queries and keys by d^(-1/4) each). Parts of the
tensor may be joined again, as a cyclic shift of windows does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from qonnx.passes.rewire import array, dims_of, integer, integers, is_op, scalar


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An operand at the end of a way: input `index` of `node`, the channel at each place (int64, its shape), and the
    number that all of it was multiplied with."""

    node: ir.Node
    index: int
    channels: np.ndarray
    factor: float = 1.0

    def along(self, axis: int) -> np.ndarray | None:
        """The channels with `axis` reduced to one entry, if they are the same all along it; else None."""
        first = np.take(self.channels, [0], axis)
        return first if (self.channels == first).all() else None


def last_axis(shape: tuple[int, ...]) -> np.ndarray:
    """Channel numbers of a tensor whose last axis holds the channels."""
    return np.broadcast_to(np.arange(shape[-1]), shape)


def leaves(value: ir.Value, channels: np.ndarray) -> list[Leaf] | None:
    """Every operand that `value`, holding `channels`, becomes by movement alone; None if the graph returns one of them
    or a body reads it."""
    found = follow(value, channels)
    return None if found is None else found[0]


def follow(value: ir.Value, channels: np.ndarray) -> tuple[list[Leaf], list[ir.Value]] | None:
    """The `leaves`, and every value on the way to them, `value` first."""
    found: list[Leaf] = []
    arrived = {value: (channels, 1.0)}
    waiting = [value]
    while waiting:
        current = waiting.pop()
        held, factor = arrived[current]
        if current.is_graph_output():
            return None
        for use in current.uses():
            if use.node.graph is not value.graph:
                return None
            if is_op(use.node, "Shape", "Size"):
                continue
            if is_op(use.node, "Concat"):
                if all(part in arrived for part in use.node.inputs) and use.node.outputs[0] not in arrived:
                    joined = _join(use.node, [arrived[part] for part in use.node.inputs])
                    if joined is not None:
                        arrived[use.node.outputs[0]] = joined
                        waiting.append(use.node.outputs[0])
                continue
            scaled = _scaling(use.node, use.idx)
            moved = [held] if scaled else _move(use.node, held) if use.idx == 0 else None
            if moved is None:
                found.append(Leaf(use.node, use.idx, held, factor))
                continue
            for output, made in zip(use.node.outputs, moved, strict=True):
                arrived[output] = (made, factor * (scaled or 1.0))
                waiting.append(output)
    return found + _not_joined(arrived), list(arrived)


def _not_joined(arrived: dict[ir.Value, tuple[np.ndarray, float]]) -> list[Leaf]:
    """The operands of joints with anything else."""
    return [
        Leaf(use.node, use.idx, *held)
        for value, held in arrived.items()
        for use in value.uses()
        if is_op(use.node, "Concat") and use.node.outputs[0] not in arrived
    ]


def _join(node: ir.Node, parts: list[tuple[np.ndarray, float]]) -> tuple[np.ndarray, float] | None:
    """What Concat makes of parts that all come from the tensor; None if they were scaled differently."""
    factor = parts[0][1]
    if any(other != factor for _, other in parts):
        return None
    return np.concatenate([held for held, _ in parts], integer(node, "axis", 0)), factor


def _scaling(node: ir.Node, index: int) -> float | None:
    """The one positive number that the node multiplies its input `index` with, the shape kept; None for any other."""
    if not is_op(node, "Mul", "Div") or (index == 1 and node.op_type == "Div"):
        return None
    constant, value = node.inputs[1 - index], node.inputs[index]
    number = scalar(constant)
    if number is None or not 0 < number < np.inf or value.shape is None or len(dims_of(constant)) > len(value.shape):
        return None
    return number if node.op_type == "Mul" else 1 / number


def _move(node: ir.Node, x: np.ndarray) -> list[np.ndarray] | None:
    """What the node makes of `x`, one array an output; None if it computes or depends on more than constants."""
    if not is_op(node, *_MOVES):
        return None
    operands = [None if value is None else array(value) for value in node.inputs[1:]]
    if is_op(node, "Reshape") and operands[0] is None:
        operands = [_inferred_shape(node)]
    if any(value is not None and operand is None for value, operand in zip(node.inputs[1:], operands, strict=True)):
        return None
    try:
        return _MOVES[node.op_type](node, x, *operands)
    except (ValueError, IndexError):  # shapes of the sample that this place was not made for
        return None


def _reshape(node: ir.Node, x: np.ndarray, shape: np.ndarray) -> list[np.ndarray]:
    keep = not integer(node, "allowzero", 0)
    return [x.reshape([x.shape[i] if n == 0 and keep else n for i, n in enumerate(shape.tolist())])]


def _inferred_shape(node: ir.Node) -> np.ndarray | None:
    """A computed shape of which at most one size is not known."""
    sizes = [size if isinstance(size, int) else -1 for size in node.outputs[0].shape or ()]
    return np.array(sizes) if sizes and sizes.count(-1) <= 1 else None


def _transpose(node: ir.Node, x: np.ndarray) -> list[np.ndarray]:
    return [x.transpose(integers(node, "perm"))]


def _squeeze(node: ir.Node, x: np.ndarray, axes: np.ndarray | None = None) -> list[np.ndarray]:
    return [np.squeeze(x, None if axes is None else tuple(axes.tolist()))]


def _unsqueeze(node: ir.Node, x: np.ndarray, axes: np.ndarray) -> list[np.ndarray]:
    return [np.expand_dims(x, tuple(axes.tolist()))]


def _split(node: ir.Node, x: np.ndarray, sizes: np.ndarray | None = None) -> list[np.ndarray]:
    axis, count = integer(node, "axis", 0), len(node.outputs)
    if sizes is None:
        length = -(-x.shape[axis] // count)
        sizes = [length] * (count - 1)
    else:
        sizes = sizes.tolist()[:-1]
    return np.split(x, np.cumsum(sizes), axis) if count > 1 else [x]


def _slice(node: ir.Node, x: np.ndarray, starts, ends, axes=None, steps=None) -> list[np.ndarray]:
    cut = [slice(None)] * x.ndim
    axes = range(len(starts)) if axes is None else axes.tolist()
    steps = [1] * len(starts) if steps is None else steps.tolist()
    for axis, start, end, step in zip(axes, starts.tolist(), ends.tolist(), steps, strict=True):
        stop = None if step < 0 and end < -x.shape[axis] else end
        cut[axis] = slice(start, stop, step)
    return [x[tuple(cut)]]


def _gather(node: ir.Node, x: np.ndarray, indices: np.ndarray) -> list[np.ndarray]:
    return [np.take(x, indices, integer(node, "axis", 0))]


def _expand(node: ir.Node, x: np.ndarray, shape: np.ndarray) -> list[np.ndarray]:
    return [np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist())))]


def _mean(node: ir.Node, x: np.ndarray, axes: np.ndarray | None = None) -> list[np.ndarray]:
    given = integers(node, "axes") if axes is None else axes.tolist()
    axes = tuple(range(x.ndim)) if not given else tuple(given)
    low, high = x.min(axes, keepdims=True), x.max(axes, keepdims=True)
    if (low != high).any():
        raise ValueError("a mean over several channels")
    return [low if integer(node, "keepdims", 1) else np.squeeze(low, axes)]


def _identity(node: ir.Node, x: np.ndarray) -> list[np.ndarray]:
    return [x]


_MOVES: dict[str, Callable[..., list[np.ndarray]]] = {
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Expand": _expand,
    "ReduceMean": _mean,
    "Identity": _identity,
}
