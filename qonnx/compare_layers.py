"""Error by layer: accumulated (each model's own run) and isolated (each quantized layer fed with the float tensors).

Layers are the products and convolutions of the float model, and whatever lies between them if it is quantized. Both
models run unoptimised, so that the file is judged and not what a runtime makes of it. Tensors are taken in groups of at
most GROUP_BYTES, so memory is bounded for any model; each group costs one more run of both models on each sample.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from qonnx.comparison import LayerError, QuantizerError
from qonnx.correspond import Match, correspond
from qonnx.differences import Difference
from qonnx.footprint import layer_bytes
from qonnx.forced import decoded_copy, forced
from qonnx.ledger import eligible
from qonnx.multiply_adds import multiply_adds
from qonnx.operators import INTEGER_OPERATORS, WEIGHT_ONLY_OPERATORS, dequantized, quantized_type, weight_bits
from qonnx.probes import Shapes, tapped, values
from qonnx.quantizers import QuantizerTrial, grids
from qonnx.rescaled import direct_and_affine, rescaled
from qonnx.runtime import session

GROUP_BYTES = 256 << 20
_FLOATS = {
    "tensor(float)": ir.DataType.FLOAT,
    "tensor(float16)": ir.DataType.FLOAT16,
    "tensor(double)": ir.DataType.DOUBLE,
}
Feed = Mapping[str, np.ndarray]


def compare_layers(
    reference: ir.Model,
    result: ir.Model,
    feeds: Sequence[tuple[Feed, Feed]],
    measured: tuple[Shapes, Shapes],
    *,
    threads: int | None = None,
    libraries: Sequence[str] = (),
    progress: Callable[[Iterable, str], Iterable] = lambda items, title: items,
) -> tuple[tuple[LayerError, ...], tuple[QuantizerError, ...], int]:
    """Layers in the order of the float model; activation quantizers, worst first; the number of rescaled tensors.

    `feeds`: for each sample what the reference and what the result is fed with. `measured`: shapes of both models'
    tensors on the first sample.
    """
    settings = {"optimization": "none", "threads": threads, "libraries": libraries}
    tensors = [name for name in _tensors(reference.graph) if name in measured[0]]
    matches = correspond(reference.graph, result.graph, tensors, measured)
    types = _float_types(reference, result, matches, settings)
    matches = {name: match for name, match in matches.items() if name in types}
    matches, other = _without_rescaled(reference, result, matches, feeds[0], measured[0], settings)
    bench = _Bench(reference, result, matches, types, settings, {}, _trials(matches, grids(result.graph)))
    for group in progress(list(_groups(matches, measured[0])), "Comparing layers"):
        bench.run(group, feeds)
    verdicts = sorted((t.verdict() for t in bench.trials.values()), key=lambda v: (v.figures.sqnr_db, v.tensor))
    return _layers(bench, tensors, measured[0], other), tuple(v for v in verdicts if v.figures.count), len(other)


def _tensors(graph: ir.Graph) -> list[str]:
    """Names of the tensors at which layers begin and end, in graph order: what compute nodes read and write."""
    known = values(graph)
    wanted = {value.name for value in (*graph.inputs, *graph.outputs)}
    for node in graph:
        if eligible(node):
            wanted.update(value.name for value in (*node.inputs, *node.outputs) if value is not None and value.name)
    return [
        name
        for name, value in known.items()
        if name in wanted and value.const_value is None and ir.convenience.get_const_tensor(value) is None
    ]


def _trials(matches: Mapping[str, Match], quantizers: Mapping) -> dict[str, QuantizerTrial]:
    return {
        name: QuantizerTrial(name, quantizers[match.value])
        for name, match in matches.items()
        if match.value in quantizers
    }


def _groups(matches: Mapping[str, Match], measured: Mapping[str, tuple[int, ...]]) -> Iterable[list[str]]:
    """Tensors in groups whose float copies (reference, result, forced) stay below GROUP_BYTES."""
    group, size = [], 0
    for name in matches:
        need = 3 * 4 * math.prod(measured[name])
        if group and size + need > GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(name)
        size += need
    if group:
        yield group


def _without_rescaled(reference, result, matches, feeds, measured, settings) -> tuple[dict[str, Match], set[str]]:
    """The matches without tensors that the result holds in other units, judged on one sample; and these."""
    quality = {}
    for group in _groups(matches, measured):
        copy, taps = decoded_copy(result, [matches[name] for name in group])
        found = session(copy, **settings).run(taps, dict(feeds[1]))
        right = session(tapped(reference, group), **settings).run(group, dict(feeds[0]))
        pairs = zip(group, right, found, strict=True)
        quality |= {name: direct_and_affine(a, b) for name, a, b in pairs if a.shape == b.shape}
    other = rescaled(reference.graph, quality)
    return {name: match for name, match in matches.items() if name not in other}, other


@dataclasses.dataclass
class _Bench:
    """The two models on trial and what has been measured so far, by the reference's tensor name."""

    reference: ir.Model
    result: ir.Model
    matches: dict[str, Match]
    types: dict[str, ir.DataType]  # of the counterparts
    settings: dict
    errors: dict[str, tuple[Difference, Difference]]  # accumulated, isolated
    trials: dict[str, QuantizerTrial]

    def run(self, group: Sequence[str], feeds: Sequence[tuple[Feed, Feed]]) -> None:
        """Add the errors of the tensors in `group` over all samples."""
        own_copy, taps = decoded_copy(self.result, [self.matches[name] for name in group])
        own = session(own_copy, **self.settings)
        fed_copy, inputs, outputs = forced(self.result, self.matches, self.types, group)
        fed = session(fed_copy, **self.settings)
        read = list(dict.fromkeys([*group, *inputs]))
        right_run = session(tapped(self.reference, read), **self.settings)
        plain = {value.name for value in fed.get_inputs()} - set(inputs.values())
        for first, second in feeds:
            right = dict(zip(read, right_run.run(read, dict(first)), strict=True))
            found = own.run(taps, dict(second))
            feed = {name: array for name, array in second.items() if name in plain}
            feed |= {new: right[name].astype(self.types[name].numpy(), copy=False) for name, new in inputs.items()}
            for name, accumulated, isolated in zip(group, found, fed.run(outputs, feed), strict=True):
                self._add(name, right[name], accumulated, isolated)

    def _add(self, name: str, right: np.ndarray, accumulated: np.ndarray, isolated: np.ndarray) -> None:
        pair = self.errors.setdefault(name, (Difference(), Difference()))
        for difference, array in zip(pair, (accumulated, isolated), strict=True):
            if array.shape == right.shape:  # shapes of a later sample may depend on values
                difference.add(right, array)
        if name in self.trials:
            self.trials[name].add(right)


def _float_types(reference: ir.Model, result: ir.Model, matches: Mapping[str, Match], settings: dict) -> dict:
    """Element type of each counterpart, where both tensors are floats: opened sessions know, files often do not."""
    names = list(matches)
    copy, _ = decoded_copy(result, [matches[name] for name in names])
    right = {value.name: value.type for value in session(tapped(reference, names), **settings).get_outputs()}
    found = [value.type for value in session(copy, **settings).get_outputs()]
    return {
        name: _FLOATS[kind]
        for name, kind in zip(names, found, strict=True)
        if kind in _FLOATS and right[name] in _FLOATS
    }


def _layers(bench: _Bench, tensors: Sequence[str], measured: Shapes, moved: set[str]) -> tuple[LayerError, ...]:
    """A row for each compute node of the reference, and for each other stretch that has an error of its own."""
    known, counterparts = values(bench.reference.graph), values(bench.result.graph)
    places = {}  # compute node's tensor -> the tensor at which it is judged
    for name in tensors:
        node = known[name].producer()
        if node is not None and eligible(node) and node.outputs[0].name == name:
            places[name] = name if name in bench.errors else _behind(known[name], bench.errors)
    judged = set(places.values())
    twins = {other.name: other for other in bench.result.graph if other.name}
    rows = []
    for name in tensors:
        node, place = known[name].producer(), places.get(name, name)
        if node is None:
            continue
        accumulated, isolated = (d.figures for d in bench.errors[place]) if place in bench.errors else (None, None)
        if name not in places and (isolated is None or isolated.sqnr_db == math.inf or name in judged):
            continue
        match = bench.matches.get(place)
        other = twins.get(node.name or "") or (_maker(counterparts[match.value]) if match else None)
        numbers = _numbers(other) if other is not None else ""
        if not numbers and place in bench.trials:
            numbers = f"→ {bench.trials[place].grid.type}"
        note = "no tensor of this name, producer or shape in the result" if place is None else ""
        if place is None and name in moved:
            note = "in other units in the result; its error counts in the layers behind it"
        rows.append(
            LayerError(
                node=node.name or name,
                operator=node.op_type,
                tensor=name,
                shape="×".join(str(size) for size in measured[name]),
                matched=match.how if match else "rescaled" if name in moved else "",
                accumulated=accumulated,
                isolated=isolated,
                bytes_reference=layer_bytes(node),
                bytes_result=_result_bytes(node.name or "", other, bench.result.graph),
                macs=multiply_adds(node, measured),
                numbers=numbers,
                note=note if place in (None, name) else f"judged at '{place}': the result has no tensor between",
            )
        )
    return tuple(rows)


def _result_bytes(name: str, other: ir.Node | None, graph: ir.Graph) -> int:
    """Bytes of the counterpart; of the parts `name_…` where a layer was split into several nodes."""
    if other is not None:
        return layer_bytes(other)
    return sum(layer_bytes(node) for node in graph if name and (node.name or "").startswith(f"{name}_"))


def _behind(value: ir.Value, errors: Mapping) -> str | None:
    """The next judged tensor behind `value`, as long as each has one reader: what a result has fused into one node."""
    for _ in range(4):
        readers = {use.node for use in value.uses()}
        if len(readers) != 1 or value.is_graph_output():
            return None
        node = next(iter(readers))
        if eligible(node) or not node.outputs:
            return None
        value = node.outputs[0]
        if value.name in errors:
            return value.name
    return None


def _maker(value: ir.Value) -> ir.Node | None:
    """The node that computes `value`, looking behind a Q/DQ pair at its end."""
    node = value.producer()
    while node is not None and node.op_type in ("DequantizeLinear", "QuantizeLinear"):
        node = node.inputs[0].producer()
    return node


def _numbers(node: ir.Node) -> str:
    """Number types that `node` reads: "u8 × s8", "float × s4"; "" if only floats."""
    if node.op_type.startswith("QLinear") or node.op_type in INTEGER_OPERATORS:
        return "integer"
    if node.op_type in WEIGHT_ONLY_OPERATORS:
        return f"float × u{bits}" if (bits := weight_bits(node)) else "float × codes"
    types = [quantized_type(dequantized(value)) for value in node.inputs[:2]]
    return " × ".join(kind or "float" for kind in types) if any(types) else ""
