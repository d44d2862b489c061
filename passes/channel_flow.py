"""Where the channels of a tensor go: through reshapes, transposes and splits, to the operators that compute with them.

An array that holds the number of each element's channel takes the way that the tensor takes. What arrives says which
channel an operator's operand holds at each place, however an exporter spelled the split into heads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from qonnx.passes.rewire import array, integer, integers, is_op


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An operand at the end of a way: input `index` of `node`, and the channel at each place (int64, its shape)."""

    node: ir.Node
    index: int
    channels: np.ndarray

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
    found: list[Leaf] = []
    waiting = [(value, channels)]
    while waiting:
        current, held = waiting.pop()
        if current.is_graph_output():
            return None
        for use in current.uses():
            if use.node.graph is not value.graph:
                return None
            moved = _move(use.node, held) if use.idx == 0 else None
            if moved is None:
                found.append(Leaf(use.node, use.idx, held))
            else:
                waiting += zip(use.node.outputs, moved, strict=True)
    return found


def _move(node: ir.Node, x: np.ndarray) -> list[np.ndarray] | None:
    """What the node makes of `x`, one array an output; None if it computes or depends on more than constants."""
    if not is_op(node, *_MOVES) or any(value is not None and array(value) is None for value in node.inputs[1:]):
        return None
    operands = [None if value is None else array(value) for value in node.inputs[1:]]
    try:
        return _MOVES[node.op_type](node, x, *operands)
    except (ValueError, IndexError):  # shapes of the sample that this place was not made for
        return None


def _reshape(node: ir.Node, x: np.ndarray, shape: np.ndarray) -> list[np.ndarray]:
    keep = not integer(node, "allowzero", 0)
    return [x.reshape([x.shape[i] if n == 0 and keep else n for i, n in enumerate(shape.tolist())])]


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
    "Identity": _identity,
}
