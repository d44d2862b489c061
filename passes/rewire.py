"""The edits that rewriting passes share: read constants, add initializers, put nodes in another's place.

Every edit keeps the name of the value it replaces, so that tensors of the result can be matched with the original by
name, and leaves no dead node behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

STANDARD = ("", "ai.onnx")


def bodies(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph and every body of If, Loop and Scan in it, outer before inner.

    Functions are not among them: `inline_functions` has put the model's own into the graph, and those that remain are
    specifications of operators.
    """
    yield model.graph
    yield from list(model.graph.subgraphs())


def is_op(node: ir.Node | None, *kinds: str) -> bool:
    """Whether the node is one of these standard operators."""
    return node is not None and node.domain in STANDARD and node.op_type in kinds


def array(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer or Constant; None for a computed value or an input (which may override its
    default)."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None or tensor.dtype == ir.DataType.STRING else tensor.numpy()


def is_constant(value: ir.Value | None) -> bool:
    """`array(value) is not None`, without reading the data."""
    return value is not None and not value.is_graph_input() and ir.convenience.get_const_tensor(value) is not None


def scalar(value: ir.Value | None) -> float | None:
    """The only element of a constant (a float, int or 1-element array of any rank), else None."""
    if value is None or not is_constant(value):
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size != 1 or tensor.dtype == ir.DataType.STRING:
        return None
    return float(tensor.numpy().reshape(()))


def dims_of(value: ir.Value) -> tuple[int, ...]:
    """The shape of a constant; that of its tensor, for a Constant node's output may have none."""
    return ir.convenience.get_const_tensor(value).shape.numpy()


def rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def only_use(value: ir.Value) -> bool:
    """Whether exactly one node input reads the value and the graph does not return it."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def operand(node: ir.Node, index: int) -> ir.Value | None:
    """The node's input `index`; None where it is left out or the node has fewer."""
    return node.inputs[index] if index < len(node.inputs) else None


def floats(node: ir.Node, name: str, default: float) -> float:
    found = node.attributes.get(name)
    return default if found is None else found.as_float()


def integer(node: ir.Node, name: str, default: int) -> int:
    found = node.attributes.get(name)
    return default if found is None else found.as_int()


def integers(node: ir.Node, name: str) -> tuple[int, ...] | None:
    found = node.attributes.get(name)
    return None if found is None else tuple(found.as_ints())


def fresh_name(graph: ir.Graph, wanted: str) -> str:
    """`wanted`, or `wanted_1`, … where the graph has a value of that name. Derive it from a value's name to be
    unique."""
    taken = {v.name for v in graph.inputs} | {output.name for node in graph for output in node.outputs}
    name, count = wanted, 0
    while name in taken or name in graph.initializers:
        count += 1
        name = f"{wanted}_{count}"
    return name


def initializer(graph: ir.Graph, name: str, data: np.ndarray) -> ir.Value:
    """A new constant of the graph, under a free name near `name`."""
    name = fresh_name(graph, name)
    tensor = ir.tensor(np.asarray(data, order="C"), name=name)
    value = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def new_node(
    kind: str, inputs: Sequence[ir.Value | None], attributes: dict | None = None, *, like: ir.Node, suffix: str = ""
) -> ir.Node:
    """A standard node that inherits name and metadata (scopes of the exporter) of `like`.

    A node beside `like` needs a `suffix`: ONNX Runtime refuses a model in which two nodes share a name.
    """
    name = f"{like.name}.{suffix}" if suffix and like.name else like.name
    node = ir.node(kind, inputs=inputs, attributes=attributes or {}, name=name)
    node.metadata_props.update(like.metadata_props)
    return node


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let every reader of `old` read `new`. A new node's output takes over the name, and the graph's output if it is
    one.

    A value that has readers already keeps its own name; it can then not stand in for a graph output.
    """
    settled = new.producer() is None or bool(new.uses()) or new.is_graph_output()
    if settled:
        if old.is_graph_output():
            raise ValueError(f"graph output '{old.name}' needs a node of its own")
        old.replace_all_uses_with(new)
        return
    new.shape = old.shape if new.shape is None else new.shape
    new.type = old.type if new.type is None else new.type
    for key, kept in old.meta.items():
        new.meta.setdefault(key, kept)
    name, old.name = old.name, None
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name = name


def remove_unused(nodes: Iterable[ir.Node | None]) -> None:
    """Remove each node that nothing reads any more, then its producers in turn, and initializers left without a
    reader."""
    pending = [node for node in nodes if node is not None]
    while pending:
        node = pending.pop()
        graph = node.graph
        if graph is None or any(o.uses() or o.is_graph_output() for o in node.outputs):
            continue
        inputs = [v for v in node.inputs if v is not None]
        inputs += [v for body in _graphs_of(node) for inner in body.all_nodes() for v in inner.inputs if v is not None]
        graph.remove(node, safe=True)
        for value in inputs:
            producer = value.producer()
            if producer is not None:
                pending.append(producer)
            else:
                drop_initializer(value)


def drop_initializer(value: ir.Value) -> None:
    """Forget an initializer that nothing reads."""
    if value.is_initializer() and not value.uses() and not value.is_graph_output() and not value.is_graph_input():
        graph = value.graph
        if graph is not None and value.name in graph.initializers:
            del graph.initializers[value.name]


def forget_domains(model: ir.Model, domains: set[str]) -> None:
    """Drop the imports of those among `domains` that no node uses any more."""
    used = {node.domain for graph in (*model.graphs(), *model.functions.values()) for node in graph}
    for domain in domains & set(model.graph.opset_imports) - used - set(STANDARD):
        del model.graph.opset_imports[domain]


def set_input(node: ir.Node, index: int, value: ir.Value | None) -> None:
    """Replace an input, adding empty ones before it if there are too few, and drop what the old one leaves dead."""
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    old = node.inputs[index]
    node.replace_input_with(index, value)
    if old is not None and old is not value:
        if old.producer() is not None:
            remove_unused([old.producer()])
        else:
            drop_initializer(old)


def _graphs_of(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()
