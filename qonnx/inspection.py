"""What is in a model: interface, operators, parameters by layer, what is quantized and what could be, and where.

A dry look: no data, no session. `qonnx convert --dry-run` decides with data; this says what a target takes at best.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections import Counter
from collections.abc import Iterable

import onnx_ir as ir

from qonnx.footprint import disk_bytes, footprint, layer_bytes, stored_bytes
from qonnx.ledger import ledger
from qonnx.model import load
from qonnx.operators import ELIGIBLE, dequantized
from qonnx.records import to_plain
from qonnx.targets import TARGETS, Target
from qonnx.targets.conditions import holds, sizes

SCHEMA = "qonnx-inspection/1"
_STANDARD = ("", "ai.onnx", "com.microsoft")


@dataclasses.dataclass(frozen=True)
class Port:
    """A graph input or output; `shape` as text, "N×3×224×224"."""

    name: str
    type: str
    shape: str


@dataclasses.dataclass(frozen=True)
class Layer:
    """A node with constants. `parameters`: stored numbers, scales and zero points included."""

    node: str
    operator: str
    weight: str
    parameters: int
    bytes: int
    numbers: str


@dataclasses.dataclass(frozen=True)
class Outlook:
    """What one target could run on integers: `nodes` of `total`, `parameters` the share of weights (0…1) in them, and
    how many are left out for each reason."""

    target: str
    title: str
    nodes: int
    total: int
    parameters: float
    reasons: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """Everything that `qonnx inspect` says."""

    name: str
    producer: str
    ir_version: int
    opsets: dict[str, int]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operators: dict[str, int]
    nodes: int
    weights: int
    bits_per_weight: float
    disk: int
    layers: tuple[Layer, ...]
    quantized: int
    outlooks: tuple[Outlook, ...]
    control_flow: dict[str, int]
    functions: tuple[str, ...]
    domains: dict[str, int]
    schema: str = SCHEMA

    def to_json(self) -> str:
        return json.dumps(to_plain(self), indent=1, ensure_ascii=False) + "\n"


def inspect(source: ir.Model | str | os.PathLike) -> Inspection:
    """Look into a model or a file; weights are not read, only their headers."""
    model = source if isinstance(source, ir.Model) else load(source)
    nodes = [node for graph in (model.graph, *model.graph.subgraphs(), *model.functions.values()) for node in graph]
    disk = stored_bytes(model) if isinstance(source, ir.Model) else disk_bytes(source)
    stored = footprint(model, disk, None)
    initializers = model.graph.initializers
    return Inspection(
        name=(model.graph.name or "model") if isinstance(source, ir.Model) else pathlib.Path(source).name,
        producer=" ".join(filter(None, (model.producer_name, model.producer_version))) or "unknown",
        ir_version=model.ir_version,
        opsets={domain or "ai.onnx": version for domain, version in sorted(model.opset_imports.items())},
        inputs=tuple(_port(value) for value in model.graph.inputs if value.name not in initializers),
        outputs=tuple(_port(value) for value in model.graph.outputs),
        operators=dict(Counter(_operator(node) for node in nodes).most_common()),
        nodes=len(nodes),
        weights=stored.weights,
        bits_per_weight=stored.bits_per_weight,
        disk=disk,
        layers=tuple(sorted(_layers(nodes), key=lambda layer: -layer.bytes)),
        quantized=sum(row.state == "done" for row in ledger(model)),
        outlooks=tuple(_outlook(target, nodes) for target in TARGETS.values()),
        control_flow=dict(Counter(node.op_type for node in nodes if node.op_type in ("If", "Loop", "Scan"))),
        functions=tuple(f"{domain}::{name}" for domain, name, _ in model.functions),
        domains=dict(Counter(node.domain for node in nodes if node.domain not in _STANDARD)),
    )


def _operator(node: ir.Node) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def _port(value: ir.Value) -> Port:
    shape = "unknown" if value.shape is None else "×".join(str(_size(size)) for size in value.shape) or "scalar"
    return Port(value.name or "", "unknown" if value.dtype is None else value.dtype.name.lower(), shape)


def _size(size) -> str:
    return str(size) if isinstance(size, int) else (size.value or "?")


def _layers(nodes: Iterable[ir.Node]) -> Iterable[Layer]:
    for node in nodes:
        if node.op_type in ("DequantizeLinear", "QuantizeLinear", "Constant"):
            continue
        tensors = [tensor for value in node.inputs if (tensor := _constant(value)) is not None]
        weights = [t for t in tensors if t.dtype.is_floating_point() or t.dtype.bitwidth <= 8]
        parameters = sum(t.size for t in weights)
        if not parameters:
            continue
        largest = max(weights, key=lambda t: t.size)
        weight = "×".join(str(size) for size in largest.shape) or "scalar"
        kind = largest.dtype.name.lower()
        yield Layer(
            node.name or node.outputs[0].name or "", _operator(node), weight, parameters, layer_bytes(node), kind
        )


def _constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor that a node reads, directly or through DequantizeLinear."""
    if value is None:
        return None
    if (maker := dequantized(value)) is not None:
        value = maker.inputs[0]
    return ir.convenience.get_const_tensor(value) if value is not None else None


def _outlook(target: Target, nodes: Iterable[ir.Node]) -> Outlook:
    """Count what `target` takes; the same rules that `assign` follows once there is data."""
    reasons: Counter[str] = Counter()
    taken = total = 0
    weights = [0, 0]  # in nodes that it takes, in all
    for node in nodes:
        if node.op_type not in ELIGIBLE or (node.op_type == "Gather" and _constant(node.inputs[0]) is None):
            continue
        tensors = [tensor for value in node.inputs[:2] if (tensor := _constant(value)) is not None]
        if node.op_type == "Gather" and (not tensors[0].dtype.is_floating_point() or len(tensors[0].shape) < 2):
            continue
        size = sum(tensor.size for tensor in tensors)
        reason = _obstacle(target, node)
        total += 1
        weights[1] += size
        if reason:
            reasons[reason] += 1
        else:
            taken += 1
            weights[0] += size
    share = weights[0] / weights[1] if weights[1] else 0.0
    return Outlook(target.name, target.title, taken, total, share, dict(reasons.most_common()))


def _obstacle(target: Target, node: ir.Node) -> str:
    """Why `target` leaves the node in float, in words; "" if it takes it."""
    if any(dequantized(value) is not None for value in node.inputs[:2]):
        return "already quantized"
    if node.domain not in ("", "ai.onnx"):
        return "operator of another domain"
    if node.op_type not in target.operators:
        return f"runs {node.op_type} in float"
    for rule in target.exclude:
        if rule["op"] == node.op_type and holds(rule["when"], sizes(node)):
            return f"{rule['op']} where {rule['when']}"
    return ""
