"""What a model must satisfy before anything is done with it; each failure is one sentence that names the thing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from qonnx.errors import QonnxError

OPSETS = range(9, 26)  # ONNX Runtime has no kernels above 25
_CHUNK = 1 << 22  # elements looked at in one step, to keep temporary arrays small
_READ = 1 << 24  # bytes of weights looked at before their pages are given back
# Operators whose constant operands are learned weights: infinity in one is a fault, whereas a mask may hold −infinity.
_WEIGHTED = {"Conv", "ConvTranspose", "ConvInteger", "Gemm", "MatMul", "Gather", "GRU", "LSTM", "RNN", "PRelu"}
_WEIGHTED |= {"BatchNormalization", "InstanceNormalization", "GroupNormalization", "LayerNormalization"}


def check(model: ir.Model, path: str, done_with: Callable[[], None]) -> None:
    """Raise QonnxError for the first fault; sort nodes that are merely out of order. `done_with` is called as weights
    have been read, so that mapped pages can be given back."""
    _opset(model, path)
    bodies: list[ir.Graph | ir.Function] = [*model.graphs(), *model.functions.values()]
    for body in bodies:
        _order(body, path)
    _sources(model.graph, set(), path)
    read = 0
    for value in _constants(model):
        _finite(value, path)
        read += ir.convenience.get_const_tensor(value).nbytes
        if read > _READ:
            done_with()
            read = 0
    done_with()


def _opset(model: ir.Model, path: str) -> None:
    if len(model.graph) == 0 and not model.graph.outputs:
        raise QonnxError(f"'{path}' holds no graph; is it an ONNX model?")
    for domain in ("", "ai.onnx"):
        opset = model.graph.opset_imports.get(domain)
        if opset is not None and opset not in OPSETS:
            raise QonnxError(
                f"'{path}' uses opset {opset}; opsets {OPSETS[0]} to {OPSETS[-1]} are supported, "
                "so export it again with one"
            )


def _order(body: ir.Graph | ir.Function, path: str) -> None:
    """Sort the nodes if a node reads what a later one writes; a cycle is an error that names nodes on it."""
    seen: set[ir.Node] = set()
    for node in body:
        seen.add(node)
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and producer not in seen and producer.graph is node.graph:
                try:
                    body.sort()
                except ValueError as error:
                    names = ", ".join(f"'{n.name or n.op_type}'" for n in _cycle(node))
                    raise QonnxError(f"'{path}' has a cycle through {names}; a graph must not feed itself") from error
                return


def _cycle(start: ir.Node) -> list[ir.Node]:
    """Some nodes of a cycle: walk to producers that can be reached from themselves."""
    for node in [start, *start.predecessors()]:
        trail, pending = {node: None}, [node]
        while pending:
            current = pending.pop()
            for before in current.predecessors():
                if before is node:
                    way = [current]
                    while trail[way[-1]] is not None:
                        way.append(trail[way[-1]])
                    return way[:4]
                if before not in trail:
                    trail[before] = current
                    pending.append(before)
    return [start]


def _sources(graph: ir.Graph, outer: set[ir.Value], path: str) -> None:
    """Every value that a node reads is an input, an initializer or written by a node, here or in an outer graph."""
    known = outer | set(graph.inputs) | set(graph.initializers.values())
    known.update(o for node in graph for o in node.outputs)
    for node in graph:
        for value in node.inputs:
            if value is not None and value not in known:
                raise QonnxError(f"'{path}': node '{node.name or node.op_type}' reads '{value.name}', written by none")
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.GRAPH:
                _sources(attribute.as_graph(), known, path)
            elif attribute.type == ir.AttributeType.GRAPHS:
                for body in attribute.as_graphs():
                    _sources(body, known, path)
    for value in graph.outputs:
        if value not in known:
            raise QonnxError(f"'{path}': output '{value.name}' is written by no node")


def _constants(model: ir.Model) -> Iterator[ir.Value]:
    for body in [*model.graphs(), *(f.graph for f in model.functions.values())]:
        yield from (v for v in body.initializers.values() if v.const_value is not None)
        for node in body:
            if node.op_type == "Constant" and node.domain == "" and "value" in node.attributes:
                yield node.outputs[0]


def _finite(value: ir.Value, path: str) -> None:
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.dtype is None or not tensor.dtype.is_floating_point() or tensor.dtype.bitwidth < 16:
        return
    data = tensor.numpy().reshape(-1)
    weight = any(use.node.op_type in _WEIGHTED for use in value.uses())
    for start in range(0, data.size, _CHUNK):
        part = data[start : start + _CHUNK].astype(np.float32, copy=False) if tensor.dtype.bitwidth < 64 else data
        bad = np.isnan(part).sum() if not weight else (~np.isfinite(part)).sum()
        if bad and (weight or tensor.size > 1):
            what = "NaN or infinity" if weight else "NaN"
            raise QonnxError(f"'{path}': weight '{value.name}' holds {what}; the model is damaged, export it again")
