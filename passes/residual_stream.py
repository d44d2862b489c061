"""Residual streams: all tensors of one width that sums and movement connect, and every place where one is made or read.

From the input of a norm the stream is followed both ways through sums and operators that leave the last axis alone. At
its edges stand, by how a change of basis x → x·R of the whole stream meets them:

- writers: layers whose result enters it (weight and bias take R from the right), tables whose rows do, and constants
  that are added, concatenated or spread;
- norms over the last axis: they commute with R if it keeps lengths and, for LayerNormalization, the mean. Behind one
  stand readers only, which take its scale and shift and then Rᵀ from the left. Any other norm is foreign;
- readers: layers that multiply the stream itself;
- whatever else makes or reads a tensor of the stream is foreign and has to be given x·R, or given back x.
"""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from qonnx.passes.linear import Linear, linear
from qonnx.passes.rewire import array, dims_of, integer, is_constant, is_op

NORMS = ("LayerNormalization", "RMSNormalization")
_MOVES = ("Identity", "Reshape", "Transpose", "Slice", "Gather", "Squeeze", "Unsqueeze", "Expand", "Split", "Cast")


@dataclasses.dataclass
class Stream:
    """A stream of `width` channels. tables: Gathers of rows. constants: (node, input) whose last axis is the stream's.
    foreign_makers: values; foreign_readers: (node, input), or (None, position) for an output of the graph."""

    width: int
    writers: list[Linear] = dataclasses.field(default_factory=list)
    tables: list[ir.Node] = dataclasses.field(default_factory=list)
    constants: list[tuple[ir.Node, int]] = dataclasses.field(default_factory=list)
    norms: dict[ir.Node, list[Linear]] = dataclasses.field(default_factory=dict)
    readers: list[Linear] = dataclasses.field(default_factory=list)
    foreign_makers: list[ir.Value] = dataclasses.field(default_factory=list)
    foreign_readers: list[tuple[ir.Node | None, int]] = dataclasses.field(default_factory=list)
    values: set[ir.Value] = dataclasses.field(default_factory=set)

    @property
    def layers(self) -> list[Linear]:
        """Writers and readers."""
        return [*self.writers, *self.readers, *(layer for behind in self.norms.values() for layer in behind)]


def streams(graph: ir.Graph) -> list[Stream]:
    """Every stream of the graph that a norm with readers behind it reads, in graph order."""
    layers = {view.result: view for node in graph if (view := _layer(node)) is not None}
    found: list[Stream] = []
    for node in graph:
        if readers_behind(node) and not any(node.inputs[0] in stream.values for stream in found):
            found.append(_follow(graph, node.inputs[0], layers))
    return found


def readers_behind(norm: ir.Node) -> list[Linear]:
    """The layers behind a norm over the last axis with constant scale (and shift) if they are all that reads it."""
    if not is_op(norm, *NORMS) or integer(norm, "axis", -1) not in (-1, len(norm.inputs[0].shape or ()) - 1):
        return []
    constants = [value for value in norm.inputs[1:] if value is not None]
    output = norm.outputs[0]
    if len(constants) == 0 or not all(is_constant(value) and len(value.uses()) == 1 for value in constants):
        return []
    if output.is_graph_output() or any(extra.uses() or extra.is_graph_output() for extra in norm.outputs[1:]):
        return []
    found = [_reader(use, norm.graph) for use in output.uses()]
    return [] if None in found else found


def _layer(node: ir.Node) -> Linear | None:
    """The node as a layer with channels on the last axis and a matrix of its own."""
    view = linear(node) if is_op(node, "MatMul", "Gemm") else None
    return view if view is not None and len(dims_of(view.weight)) == 2 and not integer(node, "transA", 0) else None


def _reader(use, graph: ir.Graph) -> Linear | None:
    return _layer(use.node) if use.idx == 0 and use.node.graph is graph else None


def _wide(value: ir.Value | None, width: int) -> bool:
    """Whether the value's last axis is known to have `width` entries."""
    return value is not None and value.shape is not None and len(value.shape) > 0 and value.shape[-1] == width


def _follow(graph: ir.Graph, start: ir.Value, layers: dict[ir.Value, Linear]) -> Stream:
    stream, waiting = Stream(start.shape[-1] if start.shape else 0), [start]
    while waiting:
        value = waiting.pop()
        if value in stream.values:
            continue
        stream.values.add(value)
        waiting += _backwards(stream, value, layers) + _forwards(stream, value, graph)
    return stream


def _backwards(stream: Stream, value: ir.Value, layers: dict[ir.Value, Linear]) -> list[ir.Value]:
    """What makes the value: noted as an edge, or the values of the stream that it is made from."""
    node = value.producer()
    if node is None:
        stream.foreign_makers.append(value)
        return []
    if value in layers:
        stream.writers.append(layers[value])
        return []
    if is_op(node, "Gather") and is_constant(node.inputs[0]):
        table = node.inputs[0]
        own = len(table.uses()) == 1 and len(dims_of(table)) == 2 and integer(node, "axis", 0) == 0
        (stream.tables if own else stream.foreign_makers).append(node if own else value)
        return []
    if (sources := _sources(stream, node)) is None:
        stream.foreign_makers.append(value)
        return []
    return sources


def _sources(stream: Stream, node: ir.Node) -> list[ir.Value] | None:
    """Operands of a sum, a concatenation or a movement that belong to the stream; None if the node is none of these.
    Constant ones are noted."""
    if not _passes(node, stream.width):
        return None
    operands = range(len(node.inputs)) if is_op(node, "Add", "Concat") else [0]
    found = []
    for index in operands:
        value = node.inputs[index]
        if is_constant(value):
            if (node, index) not in stream.constants:
                stream.constants.append((node, index))
        else:
            found.append(value)
    return found


def _forwards(stream: Stream, value: ir.Value, graph: ir.Graph) -> list[ir.Value]:
    """What reads the value: noted as an edge, or the values of the stream that become of it."""
    found: list[ir.Value] = []
    for position, output in enumerate(graph.outputs):
        if output is value:
            stream.foreign_readers.append((None, position))
    for use in value.uses():
        node = use.node
        if node.graph is graph and use.idx == 0 and (behind := readers_behind(node)):
            stream.norms[node] = behind
        elif (reader := _reader(use, graph)) is not None and reader.inputs == stream.width:
            stream.readers.append(reader)
        elif node.graph is graph and _passes(node, stream.width) and (use.idx == 0 or is_op(node, "Add", "Concat")):
            _sources(stream, node)
            found += [*node.outputs, *(v for v in node.inputs if _operand(node, v))]
        else:
            stream.foreign_readers.append((node, use.idx))
    return found


def _operand(node: ir.Node, value: ir.Value | None) -> bool:
    return value is not None and is_op(node, "Add", "Concat") and not is_constant(value)


def _passes(node: ir.Node, width: int) -> bool:
    """Whether what the node makes is its operands' rows, moved or summed: each row as a whole."""
    if not all(_wide(value, width) for value in node.outputs):
        return False
    if is_op(node, "Add"):
        return all(_wide(value, width) or _row(value, width) for value in node.inputs)
    rank = len(node.outputs[0].shape)
    if is_op(node, "Concat"):
        return integer(node, "axis", 0) % rank != rank - 1 and all(
            _wide(value, width) or _row(value, width) for value in node.inputs
        )
    if not is_op(node, *_MOVES) or not (_wide(node.inputs[0], width) or _row(node.inputs[0], width)):
        return False
    if is_op(node, "Transpose"):
        order = node.attributes.get_ints("perm") if "perm" in node.attributes else ()
        return bool(order) and order[-1] == rank - 1
    if is_op(node, "Gather", "Split"):
        return integer(node, "axis", 0) % len(node.inputs[0].shape) != len(node.inputs[0].shape) - 1
    if is_op(node, "Slice"):
        axes = array(node.inputs[3]) if len(node.inputs) > 3 else None
        return axes is not None and all(int(axis) % rank != rank - 1 for axis in axes)
    return True


def _row(value: ir.Value | None, width: int) -> bool:
    """A constant whose last axis has `width` entries."""
    return is_constant(value) and len(dims_of(value)) > 0 and dims_of(value)[-1] == width
