"""The ways to run a model that a comparison keeps apart, each with its own opinion of the same file.

ONNX Runtime as users run it fuses, reorders and may compute in int8 where the file says float (DQ + MatMul becomes
MatMulNBits). Without optimisation it follows the file node by node. `onnx.reference` is the specification, and slow:
whole small models, else single nodes on captured inputs.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from polygraphy.backend.onnxrt import OnnxrtRunner

from qonnx.comparison import OracleCoverage, OracleGap
from qonnx.differences import Difference
from qonnx.multiply_adds import multiply_adds
from qonnx.probes import tapped, values
from qonnx.runtime import session
from qonnx.specification import evaluator

ORACLES = {
    "runtime": "ONNX Runtime as users run it",
    "unoptimized": "ONNX Runtime without optimisation",
    "reference": "onnx.reference, the specification",
    "tensorrt": "TensorRT, where it is installed",
}
_WHOLE_MACS = 10_000_000  # a model with fewer multiply-adds runs whole in onnx.reference, in about a second
_NODE_MACS = 300_000_000
_EACH = 3  # nodes of one operator type that are checked: first, middle and last
_SECONDS = 8.0
# Operators that onnx.reference gets wrong below an opset: BatchNormalization with a momentum runs there as in training.
_MISJUDGED = {"BatchNormalization": 14}
_FLOATS = (np.float16, np.float32, np.float64)
Feed = Mapping[str, np.ndarray]


@contextlib.contextmanager
def runner(
    oracle: str,
    model: ir.Model | str | os.PathLike,
    *,
    threads: int | None = None,
    libraries: Sequence[str] = (),
    providers: Sequence[str] = ("CPUExecutionProvider",),
) -> Iterator[OnnxrtRunner]:
    """A Polygraphy runner (`infer(feed)`) of `model` under "runtime", "unoptimized" or "tensorrt"."""
    if oracle == "tensorrt":
        from polygraphy.backend.trt import EngineFromNetwork, NetworkFromOnnxBytes, TrtRunner

        source = ir.load(model) if not isinstance(model, ir.Model) else model
        engine = EngineFromNetwork(NetworkFromOnnxBytes(ir.to_proto(source).SerializeToString(), strongly_typed=True))
        with TrtRunner(engine) as active:
            yield active
        return
    level = {"runtime": "all", "unoptimized": "none"}[oracle]
    opened = session(model, optimization=level, threads=threads, libraries=libraries, providers=providers)
    with OnnxrtRunner(opened, name=oracle) as active:
        yield active


def against_reference(
    model: ir.Model,
    feed: Feed,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    threads: int | None = None,
    libraries: Sequence[str] = (),
) -> tuple[list[OracleGap], OracleCoverage]:
    """Unoptimised ONNX Runtime against onnx.reference on one sample: whole if the model is small, else node by node."""
    total = sum(multiply_adds(node, shapes) or 0 for node in model.graph)
    if total <= _WHOLE_MACS and len(model.graph) <= 500 and not any(map(_misjudged, model.graph)):
        return _whole(model, feed, threads, libraries)
    return _by_node(model, feed, shapes, threads, libraries)


def _whole(model: ir.Model, feed: Feed, threads: int | None, libraries: Sequence[str]):
    names = [value.name for value in model.graph.outputs]
    try:
        right = evaluator(model).run(None, dict(feed))
    except Exception as error:  # onnx.reference raises whatever its Python code raises
        note = f"onnx.reference cannot run this model ({type(error).__name__}: {_first_line(error)})"
        return [], OracleCoverage("reference", "outputs", 0, len(names), note)
    found = session(model, optimization="none", threads=threads, libraries=libraries).run(names, dict(feed))
    gaps = [_gap(name, "output", a, b) for name, a, b in zip(names, right, found, strict=True)]
    gaps = [gap for gap in gaps if gap is not None]
    return gaps, OracleCoverage("reference", "outputs", len(gaps), len(names), "whole model, one sample")


def _by_node(model: ir.Model, feed: Feed, shapes: Mapping, threads: int | None, libraries: Sequence[str]):
    nodes = [node for node in model.graph if node.op_type != "Constant"]
    chosen, heavy = _chosen(nodes, shapes)
    known = values(model.graph)
    wanted = {v.name for node in chosen for v in (*node.inputs, *node.outputs) if v is not None and v.name}
    dynamic = [n for n in wanted if known[n].const_value is None and not known[n].is_graph_input()]
    opened = session(tapped(model, dynamic), optimization="none", threads=threads, libraries=libraries)
    arrays = dict(zip(dynamic, opened.run(dynamic, dict(feed)), strict=True)) | dict(feed)
    arrays |= {n: known[n].const_value.numpy() for n in wanted if known[n].const_value is not None}
    gaps, failed, late = [], set(), 0
    end = time.perf_counter() + _SECONDS
    for node in chosen:
        if time.perf_counter() > end:
            late += 1
            continue
        gap = _node_gap(model, node, arrays)
        if isinstance(gap, OracleGap):
            gaps.append(gap)
        elif gap:
            failed.add(node.op_type)
    types = {node.op_type for node in nodes}
    checked = {gap.operator for gap in gaps}
    note = f"one sample, up to {_EACH} nodes of each operator: {len(checked)} of {len(types)} operators"
    note += f"; {heavy} nodes are too large for it" if heavy else ""
    note += f"; {late} left out after {_SECONDS:g} s" if late else ""
    note += f"; it cannot run {', '.join(sorted(failed))}" if failed else ""
    return gaps, OracleCoverage("reference", "nodes", len(gaps), len(nodes), note)


def _chosen(nodes: Sequence[ir.Node], shapes: Mapping) -> tuple[list[ir.Node], int]:
    """First, middle and last node of each operator type, without bodies; and how many were too large to choose."""
    by_type, heavy = defaultdict(list), 0
    for node in nodes:
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            continue
        if _misjudged(node):
            continue
        if (multiply_adds(node, shapes) or 0) > _NODE_MACS:
            heavy += 1
            continue
        by_type[node.domain, node.op_type].append(node)
    picked = []
    for group in by_type.values():
        picked += [group[i] for i in sorted({0, len(group) // 2, len(group) - 1})][:_EACH]
    return picked, heavy


def _misjudged(node: ir.Node) -> bool:
    return node.op_type in _MISJUDGED and node.graph.opset_imports.get("", 99) < _MISJUDGED[node.op_type]


def _node_gap(model: ir.Model, node: ir.Node, arrays: Mapping[str, np.ndarray]) -> OracleGap | str | None:
    """The gap of one node, why onnx.reference cannot run it, or None if its output is not floating point."""
    feed = {v.name: arrays[v.name] for v in node.inputs if v is not None and v.name}
    names = [value.name for value in node.outputs if value.name]
    if names[0] not in arrays or arrays[names[0]].dtype.type not in (*_FLOATS, np.uint8, np.int8):
        return None
    inputs = [ir.Value(name=n, type=ir.TensorType(ir.DataType.from_numpy(a.dtype))) for n, a in feed.items()]
    by_name = {value.name: value for value in inputs}
    outputs = [ir.Value(name=value.name) for value in node.outputs]
    single = ir.Node(
        node.domain,
        node.op_type,
        [by_name[v.name] if v is not None and v.name else None for v in node.inputs],
        list(node.attributes.values()),
        overload=node.overload,
        outputs=outputs,
        name=node.name,
    )
    graph = ir.Graph(inputs, [outputs[0]], nodes=[single], opset_imports=model.graph.opset_imports, name="single")
    alone = ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))
    try:
        right = evaluator(alone).run(None, feed)[0]
    except Exception as error:  # onnx.reference raises whatever its Python code raises
        return f"{node.op_type}: {_first_line(error)}"
    return _gap(node.name or names[0], node.op_type, np.asarray(right), arrays[names[0]])


def _gap(name: str, operator: str, right: np.ndarray, found: np.ndarray) -> OracleGap | None:
    if right.shape != found.shape or right.dtype.kind not in "fiu":
        return None
    difference = Difference()
    difference.add(right.astype(np.float32, copy=False), found.astype(np.float32, copy=False))
    return OracleGap("unoptimized − reference", name, operator, difference.figures)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
