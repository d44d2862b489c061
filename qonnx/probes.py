"""Copies of a model with other outputs: to read any tensor, to learn its shape, to feed a part with foreign inputs.

The copies share their weights with the original. Only the main graph can be tapped: tensors inside control-flow bodies
and functions have no name that a session could ask for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from qonnx.runtime import session

_NOT_TENSORS = ("Sequence", "Optional", "SplitToSequence", "ZipMap", "Loop", "If", "Scan", "StringNormalizer")
Shapes = Mapping[str, tuple[int, ...]]  # by name of value


def values(graph: ir.Graph) -> dict[str, ir.Value]:
    """Every named value of the main graph: inputs, initializers, outputs of nodes."""
    found = {value.name: value for value in (*graph.inputs, *graph.initializers.values())}
    found.update((value.name, value) for node in graph for value in node.outputs if value.name)
    return found


def tapped(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy of `model` whose outputs are the tensors `names`, without the nodes that these do not need."""
    copy = model.clone()
    known = values(copy.graph)
    return with_outputs(copy, [known[name] for name in names])


def with_outputs(model: ir.Model, outputs: Sequence[ir.Value]) -> ir.Model:
    """`model` itself with new outputs; unused nodes and initializers go, graph inputs stay."""
    model.graph.outputs.clear()
    model.graph.outputs.extend(outputs)
    needed: set[ir.Node] = set()
    waiting = [value.producer() for value in outputs]
    while waiting:
        node = waiting.pop()
        if node is None or node in needed or node.graph is not model.graph:
            continue
        needed.add(node)
        waiting += [value.producer() for value in reads(node)]
    model.graph.remove([node for node in model.graph if node not in needed], safe=True)
    kept = {value for node in model.graph for value in reads(node)} | set(outputs)
    for name in [name for name, value in model.graph.initializers.items() if value not in kept]:
        del model.graph.initializers[name]
    return model


def reads(node: ir.Node) -> Iterable[ir.Value]:
    """Values that a node reads, those captured by its bodies included."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        bodies = [attribute.value] if attribute.type == ir.AttributeType.GRAPH else []
        bodies += attribute.value if attribute.type == ir.AttributeType.GRAPHS else []
        for body in bodies:
            yield from body.outputs
            for inner in body:
                yield from reads(inner)


def shapes(
    model: ir.Model, feed: Mapping[str, np.ndarray], threads: int | None, libraries: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the main graph on one sample.

    Runs a copy with a Shape node behind each tensor; execution by priority frees each tensor as soon as it is measured.
    """
    copy = model.clone()
    found = {v.name: tuple(v.const_value.shape) for v in copy.graph.initializers.values() if v.const_value is not None}
    probes = {}
    tensors = [value for node in copy.graph if not node.op_type.startswith(_NOT_TENSORS) for value in node.outputs]
    for index, value in enumerate([*copy.graph.inputs, *tensors]):
        if value.name and value.name not in found:
            node = ir.node("Shape", [value], name=f"qonnx_shape_{index}")
            node.outputs[0].name = f"qonnx_shape_of_{index}"
            copy.graph.append(node)
            probes[value.name] = node.outputs[0]
    options = ort.SessionOptions()
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    runner = session(
        with_outputs(copy, list(probes.values())),
        optimization="none",
        threads=threads,
        libraries=libraries,
        options=options,
    )
    measured = runner.run(None, dict(feed))
    found.update((name, tuple(shape.tolist())) for name, shape in zip(probes, measured, strict=True))
    return found
