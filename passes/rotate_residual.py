"""Rotate the residual stream: the same function with x·R in place of x, R orthogonal, folded into the weights.

Writers take R from the right, readers Rᵀ from the left (QuaRot, Ashkboos et al. 2024), after the norms' scales and
shifts went into the readers. What a few channels held, all hold then, so that blocks of weights and ranges of
activations fit numbers that are more alike. Where something else reads or writes the stream, one product by R or Rᵀ is
put there, at most `extra` of them.

R keeps lengths; LayerNormalization also takes the mean out of x, which commutes with R if R keeps the vector of ones.
With T orthogonal whose first row is constant (the cosine transform, for any width) and random signs D with a first 1,
R = Tᵀ D T does: R·1 = Tᵀ D √n e₁ = 1. No centring has to be absorbed anywhere. Streams that only RMSNormalization reads
get a Hadamard matrix with random signs where one of their width is known.

A rotation is kept only if it lowers the summed relative error of plain rounding to `bits` in blocks (RoSTE, 2025).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from scipy.fft import dct

from qonnx.custom_ops.hadamard import rotation_of, signs
from qonnx.errors import QonnxError
from qonnx.formats import FORMATS
from qonnx.notes import note, warn
from qonnx.passes.base import Change, Pass
from qonnx.passes.linear import Linear
from qonnx.passes.residual_stream import Stream, streams
from qonnx.passes.rewire import array, bodies, initializer, integer, is_op, new_node, set_input
from qonnx.passes.solve_weights import layout_of
from qonnx.passes.weight_choices import at
from qonnx.solvers import SOLVERS
from qonnx.solvers.nearest import spread


@dataclasses.dataclass
class RotateResidual(Pass):
    """Rotate streams. seed: of the signs. extra: products that may be added to a stream. bits, block: what rounding is
    judged by. always: keep the rotation whatever it does to that error."""

    seed: int = 0
    extra: int = 2
    bits: int = 4
    block: int = 32
    always: bool = False

    tolerance = 1e-5

    def changes(self, model: ir.Model) -> Iterator[Change]:
        for graph in bodies(model):
            while (stream := _next(graph)) is not None:
                for norm in stream.norms:
                    note(norm).rotated = True
                foreign = len(stream.foreign_makers) + len(stream.foreign_readers)
                if foreign > self.extra or not (stream.writers or stream.tables) or _returned_as_made(graph, stream):
                    continue
                first = next(iter(stream.norms))
                where, rotation = first.name or first.outputs[0].name, rotation_for(stream, self.seed)
                before, after = self._errors(stream, rotation)
                if after >= before and not self.always:
                    ratio = after / max(before, 1e-30)
                    warn(model, f"the stream at '{where}' is not rotated: its rounding error would be {ratio:.2f}-fold")
                    continue
                _rotate(graph, stream, rotation)
                yield Change(where, f"{len(stream.layers)} layers rotated, {foreign} products added")

    def _errors(self, stream: Stream, rotation: np.ndarray) -> tuple[float, float]:
        """Summed relative error of rounding the layers' weights, as they are and rotated."""
        sums = [0.0, 0.0]
        rotated = _rotated_weights(stream, rotation)
        for layer in stream.layers:
            for place, weight in enumerate((array(layer.weight).astype(np.float64), rotated[layer.node])):
                sums[place] += rounding_error(layer, weight, self.bits, self.block)
        return sums[0], sums[1]


def _next(graph: ir.Graph) -> Stream | None:
    """A stream that was not judged yet."""
    return next((s for s in streams(graph) if s.width and not any(note(norm).rotated for norm in s.norms)), None)


def _returned_as_made(graph: ir.Graph, stream: Stream) -> bool:
    """Whether a tensor that someone else makes is returned as it is: it cannot have two bases."""
    return any(node is None and graph.outputs[i] in stream.foreign_makers for node, i in stream.foreign_readers)


def rotation_for(stream: Stream, seed: int) -> np.ndarray:
    """R, float64 [width, width]."""
    width = stream.width
    if all(is_op(norm, "RMSNormalization") for norm in stream.norms):
        try:
            known = rotation_of(width)
        except QonnxError:
            pass  # no Hadamard matrix of this order
        else:
            return signs(width, seed)[:, None] * known.matrix().T * known.factor
    cosines = dct(np.eye(width), axis=0, norm="ortho")
    flips = signs(width, seed).astype(np.float64)
    flips[0] = 1.0
    return cosines.T @ (flips[:, None] * cosines)


def rounding_error(layer: Linear, weight: np.ndarray, bits: int, block: int) -> float:
    """‖W − Q(W)‖² / ‖W‖² of a weight in the layer's own layout, rounded to unsigned codes in blocks of inputs."""
    rows = layout_of(layer.node).to_rows(weight.astype(np.float32))
    fitting = block if rows.shape[2] % block == 0 else 0
    granularity = "block" if fitting else "channel"
    format = at(dataclasses.replace(FORMATS["u4"], granularity=granularity, block=fitting), bits)
    codes = SOLVERS["nearest-searched"](rows, format, None)
    scale, zero_point = (spread(part, rows.shape[2], format) for part in (codes.scale, codes.zero_point))
    error = rows - format.decode(codes.codes, scale, zero_point)
    return float(np.square(error, dtype=np.float64).sum() / max(np.square(rows, dtype=np.float64).sum(), 1e-30))


def _rotated_weights(stream: Stream, rotation: np.ndarray) -> dict[ir.Node, np.ndarray]:
    """The new weight of every layer, float64, in its own layout; the norms' scales are in them."""
    scales: dict[ir.Node, np.ndarray] = {}
    for norm, behind in stream.norms.items():
        for layer in behind:
            scales[layer.node] = array(norm.inputs[1]).astype(np.float64).reshape(-1)
    reads = {layer.node for layer in stream.layers} - {layer.node for layer in stream.writers}
    reads |= {layer.node for behind in (stream.readers, *stream.norms.values()) for layer in behind}
    writes, found = {layer.node for layer in stream.writers}, {}
    for layer in stream.layers:
        matrix = scales.get(layer.node, np.ones(1))[:, None] * matrix_of(layer)
        if layer.node in reads:
            matrix = rotation.T @ matrix
        if layer.node in writes:
            matrix = matrix @ rotation
        found[layer.node] = laid_out(layer, matrix)
    return found


def matrix_of(layer: Linear) -> np.ndarray:
    """The weight of a MatMul or Gemm, float64 [inputs, outputs]."""
    weight = array(layer.weight).astype(np.float64)
    return weight.T if _outputs_first(layer) else weight


def laid_out(layer: Linear, matrix: np.ndarray) -> np.ndarray:
    """A matrix [inputs, outputs] as the layer stores its weight."""
    return matrix.T if _outputs_first(layer) else matrix


def _outputs_first(layer: Linear) -> bool:
    return is_op(layer.node, "Gemm") and bool(integer(layer.node, "transB", 0))


def _rotate(graph: ir.Graph, stream: Stream, rotation: np.ndarray) -> None:
    weights = _rotated_weights(stream, rotation)
    for norm, behind in stream.norms.items():
        _fold_norm(norm, behind)
    done = set()
    for layer in stream.layers:
        if layer.node not in done:
            done.add(layer.node)
            layer.set_weight(weights[layer.node])
    for layer in stream.writers:
        if layer.bias is not None:
            layer.set_bias(layer.bias @ rotation)
    for node in stream.tables:
        _renew(node, 0, rotation)
    for node, index in stream.constants:
        _renew(node, index, rotation)
    for value in stream.foreign_makers:
        _turn_made(graph, value, rotation)
    shared: dict[ir.Value, ir.Value] = {}
    for node, index in stream.foreign_readers:
        _turn_back(graph, node, index, rotation, shared)


def _fold_norm(norm: ir.Node, behind: list[Linear]) -> None:
    """The norm's shift goes into the readers' biases; scale and shift become ones and zeros."""
    shift = norm.inputs[2] if len(norm.inputs) > 2 else None
    if shift is not None and array(shift).any():
        beta = array(shift).astype(np.float64).reshape(-1)
        for layer in behind:
            moved = beta @ matrix_of(layer)
            layer.set_bias(moved if layer.bias is None else layer.bias + moved)
    for index in range(1, len(norm.inputs)):
        if norm.inputs[index] is not None:
            old = array(norm.inputs[index])
            plain = np.ones_like(old) if index == 1 else np.zeros_like(old)
            set_input(norm, index, initializer(norm.graph, norm.inputs[index].name, plain))


def _renew(node: ir.Node, index: int, rotation: np.ndarray) -> None:
    """A constant operand, its last axis rotated."""
    old = node.inputs[index]
    data = (array(old).astype(np.float64) @ rotation).astype(array(old).dtype)
    set_input(node, index, initializer(node.graph, f"{old.name}_rotated", data))


def _turn_made(graph: ir.Graph, value: ir.Value, rotation: np.ndarray) -> None:
    """x·R behind a foreign maker, for all that read x; `_turn_back` gives those that are foreign x again."""
    made = _product(graph, value, rotation, "rotated")
    readers = [use for use in value.uses() if use.node is not made]
    if value.producer() is None:
        graph.insert_before(graph[0], made)
    else:
        graph.insert_after(value.producer(), made)
    for use in readers:
        use.node.replace_input_with(use.idx, made.outputs[0])


def _turn_back(graph: ir.Graph, node: ir.Node | None, index: int, rotation: np.ndarray, shared: dict) -> None:
    """Give a foreign reader the stream in its old basis."""
    value = graph.outputs[index] if node is None else node.inputs[index]
    if node is None:
        made = _product(graph, value, rotation.T, "unrotated")
        graph.insert_after(value.producer(), made)
        back = made.outputs[0]
        name, value.name = value.name, f"{value.name}_rotated"
        back.name = name
        graph.outputs[index] = back
        return
    if value not in shared:
        made = _product(graph, value, rotation.T, "unrotated")
        graph.insert_after(value.producer(), made)
        shared[value] = made.outputs[0]
    node.replace_input_with(index, shared[value])


def _product(graph: ir.Graph, value: ir.Value, matrix: np.ndarray, suffix: str) -> ir.Node:
    kind = value.dtype.numpy() if value.dtype is not None else np.float32
    weight = initializer(graph, f"{value.name}_{suffix}_by", np.ascontiguousarray(matrix).astype(kind))
    like = value.producer()
    made = (
        ir.node("MatMul", [value, weight], name=f"{value.name}_{suffix}")
        if like is None
        else new_node("MatMul", [value, weight], like=like, suffix=suffix)
    )
    output = made.outputs[0]
    output.name, output.type, output.shape = f"{value.name}_{suffix}", value.type, value.shape
    return made
