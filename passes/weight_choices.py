"""Choices for a budget: the formats that each matrix may take, their bytes, and what each does to the model's outputs.

What a format does is measured once a layer, at `reference` bits with everything else in float; for other formats it is
scaled by the ratio of the layer's own errors ‖W − Ŵ‖², to which it is proportional while errors are small (the
linearised loss of Q-Palette, 2025). A model of more layers than `runs` is measured in groups of neighbours, whose harm
is shared out by their relative errors. All measurements are runs of one session whose weights are inputs, so that no
session is opened for a layer. Everything is rounded plainly here: solvers that see data gain on it later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from qonnx.allocation import Allocation, Choice
from qonnx.codebooks import CODEBOOKS, CodebookFormat
from qonnx.custom_ops import narrow
from qonnx.errors import QonnxError
from qonnx.footprint import stored_bytes
from qonnx.formats import FORMATS, FRACTIONS, IntFormat, QuantizedTensor
from qonnx.harm import Harm, Judge, opened
from qonnx.lean import structure_bytes
from qonnx.notes import clone, note
from qonnx.passes.assign_codebooks import books_for
from qonnx.passes.assign_weights import STORED
from qonnx.passes.place_low_bit import low_bit_weight
from qonnx.passes.rewire import array, is_op, rank, set_input
from qonnx.passes.solve_weights import layout_of, solve
from qonnx.passes.stored_weights import bias_of
from qonnx.plan import Plan
from qonnx.targets import Target

# What a placed format adds to the file besides its arrays: attributes of a layer, names of its operands, each of which
# stands in the node, the tensor and what widens it; once, function bodies of two operators (6.6 kB) and the recipe.
_LAYER_BYTES, _NAMES, _ONCE_BYTES = 780, 26, 10_000
_FRACTION = FRACTIONS[8]  # of scales that our operators read
_ROWS = 512  # rows of a layer on which formats are tried; books fitted to fewer look a little better than they are


@dataclasses.dataclass(frozen=True)
class Menu:
    """Formats to choose from: integers of `bits` in blocks, code books of these names; `most` bits a weight for those,
    `reference` bits to measure at, in at most `runs` runs."""

    bits: tuple[int, ...]
    books: tuple[str, ...]
    reference: int
    runs: int
    most: float = 6.0


@dataclasses.dataclass(frozen=True)
class Survey:
    """What was found. A layer is a weight and the nodes that read it.

    layers: positions in the graph. formats, choices: by layer, in the same order. weights: numbers in all layers.
    rest: bytes of the file besides these weights, a little too many rather than too few.
    """

    layers: tuple[tuple[int, ...], ...]
    formats: tuple[tuple[IntFormat | CodebookFormat, ...], ...]
    choices: tuple[tuple[Choice, ...], ...]
    weights: int
    rest: int
    trial: Trial

    def chosen(self, allocation: Allocation) -> list[IntFormat | CodebookFormat]:
        """The format of each layer."""
        return [formats[j] for formats, j in zip(self.formats, allocation.chosen, strict=True)]

    def measure(self, allocation: Allocation) -> Harm:
        """What all chosen formats together do to the outputs, with plain rounding."""
        return self.trial.harm(dict(enumerate(self.chosen(allocation))))


class Trial:
    """One session in which the weights of `layers` are inputs: any of them can be rounded for a run."""

    def __init__(self, model: ir.Model, layers: Sequence[tuple[int, ...]], judged: Judge):
        copy, self.judged = clone(model), judged
        nodes, self.sources, self.true = list(copy.graph), [list(model.graph)[some[0]] for some in layers], {}
        self.latest: dict[int, tuple] = {}  # neighbours on a front differ in few layers: the last weights are kept
        for number, some in enumerate(layers):
            old = nodes[some[0]].inputs[1]
            weight = ir.Value(name=f"{old.name}_trial_{number}", shape=old.shape, type=ir.TensorType(old.dtype))
            self.true[weight.name] = array(old)
            copy.graph.inputs.append(weight)
            for index in some:
                set_input(nodes[index], 1, weight)
        self.session = opened(copy, judged)

    def harm(self, chosen: dict[int, IntFormat | CodebookFormat]) -> Harm:
        """Of rounding the layers of these numbers."""
        weights = dict(self.true)
        for number, format in chosen.items():
            name = list(self.true)[number]
            if self.latest.get(number, (None,))[0] != format:
                decoded = rounded(self.sources[number], format).decode().astype(weights[name].dtype)
                self.latest[number] = format, decoded
            weights[name] = self.latest[number][1]
        names = list(self.judged.names)
        return self.judged.score(self.session.run(names, {**feeds, **weights}) for feeds in self.judged.samples)


def survey(
    model: ir.Model, menu: Menu, target: Target, judged: Judge, progress: Callable[[int], None] | None = None
) -> Survey | None:
    """The choices of every layer that is planned in blocks; None if there is none.

    progress: called with the layers that are done. Raises QonnxError if the target takes no format of the menu.
    """
    layers = _layers(model)
    if not layers:
        return None
    nodes, trial = list(model.graph), Trial(model, layers, judged)
    opset = model.graph.opset_imports.get("", 1)
    formats = [_formats(nodes[some[0]], menu, target, opset) for some in layers]
    group = -(-len(layers) // menu.runs)
    choices: list[tuple[Choice, ...]] = []
    for first in range(0, len(layers), group):
        numbers = range(first, min(first + group, len(layers)))
        references = {n: at(note(trial.sources[n]).plan.weight, menu.reference) for n in numbers}
        tables = [_errors(trial.sources[n], {*formats[n], references[n]}, opset) for n in numbers]
        noise = trial.harm(references).noise / max(
            sum(table[references[n]][1] for n, table in zip(numbers, tables, strict=True)), 1e-30
        )
        for n, table in zip(numbers, tables, strict=True):
            choices.append(tuple(Choice(f.name, table[f][0], noise * table[f][1]) for f in formats[n]))
            if progress is not None:
                progress(n + 1)
    weights = sum(array(source.inputs[1]).size for source in trial.sources)
    return Survey(tuple(layers), tuple(formats), tuple(choices), weights, _rest(model, layers), trial)


def at(format: IntFormat, bits: int) -> IntFormat:
    """`format` with another number of bits."""
    stored = STORED[bits]
    plain = FORMATS[f"{'s' if format.symmetric else 'u'}{stored}"]
    levels = 0 if stored == bits else 2**bits
    kept = {name: getattr(format, name) for name in ("granularity", "block", "scale_fraction")}
    return dataclasses.replace(plain, levels=levels, **kept)


def rounded(node: ir.Node, format: IntFormat | CodebookFormat):
    """The node's weight in that format, without data."""
    plan = dataclasses.replace(note(node).plan, weight=format)
    return solve(node, plan, "kmeans" if isinstance(format, CodebookFormat) else "nearest-searched", None)


def _layers(model: ir.Model) -> list[tuple[int, ...]]:
    """Weights planned in blocks, each with all nodes that read it, in graph order."""
    found: dict[ir.Value, list[int]] = {}
    for index, node in enumerate(model.graph):
        plan = note(node).plan
        if not isinstance(plan, Plan) or not isinstance(plan.weight, IntFormat) or plan.weight_index != 1:
            continue
        if plan.weight.granularity == "block" and note(node).fate is None and note(node).solved is None:
            found.setdefault(node.inputs[1], []).append(index)
    return [tuple(indices) for indices in found.values()]


def _formats(node: ir.Node, menu: Menu, target: Target, opset: int) -> tuple[IntFormat | CodebookFormat, ...]:
    """What the node may get. Only matrices can be packed to any number of bits, have narrow scales or be in code
    books, all of which need operators of ours."""
    ours, taken, plain = _packs(node) and not target.standard_only, [], note(node).plan.weight
    if ours:
        plain = dataclasses.replace(plain, scale_fraction=_FRACTION)
        fitting = (books_for(node, CODEBOOKS[name], menu.most) for name in menu.books)
        taken += [format for format in fitting if format is not None]
    for bits in sorted(set(menu.bits)):
        way = target.weight_only.get(str(bits))
        if way is None or (not ours and (way == "lowbit" or (bits == 2 and opset < 25))):
            continue
        taken.append(at(plain, bits))
    if not taken:
        raise QonnxError(
            f"target '{target.name}' takes none of {', '.join(map(str, menu.bits))} bits for '{node.name}'; "
            "give others in option 'bits' of pass 'allocate'"
        )
    return tuple(taken)


def _packs(node: ir.Node) -> bool:
    """Whether MatMulLowBit can stand in for the node."""
    if is_op(node, "Gemm"):
        return bias_of(node, layout_of(node).to_rows(array(node.inputs[1])).shape[1]) is not None
    return is_op(node, "MatMul") and rank(node.inputs[0]) != 1


def _errors(node: ir.Node, formats: set, opset: int) -> dict:
    """Bytes and relative error ‖W − Ŵ‖² / ‖W‖² of each format, the latter on _ROWS of the layer's rows: it is a mean
    over very many weights, and what is chosen is measured on all of them."""
    some, found = _excerpt(node), {}
    weight = np.asarray(array(some.inputs[1]), np.float64)
    share = array(node.inputs[1]).size / weight.size
    power = max(float(np.square(weight).sum()), 1e-30)
    rows, columns = layout_of(node).to_rows(np.empty(array(node.inputs[1]).shape, np.bool_)).shape[1:]
    for format in formats:
        solved = rounded(some, format)
        book = isinstance(format, CodebookFormat)
        size = format.stored_bits(rows, columns) // 8 if book else _nbytes(some, solved, opset, share)
        found[format] = size, float(np.square(weight - solved.decode()).sum()) / power
    return found


def _excerpt(node: ir.Node) -> ir.Node:
    """A layer of at most _ROWS rows of the node's weight, spread over all of them; it stands in no graph."""
    if not is_op(node, "MatMul", "Gemm"):
        return node
    weight, axis = array(node.inputs[1]), layout_of(node).channel_axis
    if weight.ndim != 2 or weight.shape[axis] <= _ROWS:
        return node
    few = np.take(weight, np.linspace(0, weight.shape[axis] - 1, _ROWS).astype(int), axis)
    value = ir.Value(name="some", const_value=ir.tensor(few), shape=ir.Shape(few.shape), type=node.inputs[1].type)
    some = ir.node(node.op_type, [ir.Value(name="x"), value], dict(node.attributes))
    note(some).plan = note(node).plan
    return some


def _nbytes(node: ir.Node, solved: QuantizedTensor, opset: int, share: float = 1.0) -> int:
    """Bytes in a file of that opset of a weight that is `share` times as large as `solved`."""
    format = solved.format
    if not format.levels and format.scale_fraction is None:
        return int(solved.nbytes * share)
    arrays = low_bit_weight(solved, layout_of(node)).arrays()
    parameters = sum(narrow.nbytes(arrays[name], opset, share) for name in ("scale", "zero_point"))
    return int(arrays["codes"].nbytes * share) + parameters + arrays["table"].nbytes


def _rest(model: ir.Model, layers: Sequence[tuple[int, ...]]) -> int:
    """Bytes of the file without the weights of `layers`; other planned weights count as they will be stored."""
    nodes, seen = list(model.graph), set()
    total = structure_bytes(model) + stored_bytes(model) + _ONCE_BYTES
    for some in layers:
        seen.add(nodes[some[0]].inputs[1])
        total -= nodes[some[0]].inputs[1].const_value.nbytes
        total += sum(_LAYER_BYTES + _NAMES * len(nodes[index].inputs[1].name) for index in some)
    for node in nodes:
        plan = note(node).plan
        if not isinstance(plan, Plan) or plan.weight is None or note(node).fate is not None:
            continue
        weight = node.inputs[plan.weight_index]
        if weight in seen or weight.const_value is None:
            continue
        seen.add(weight)
        total += solve(node, plan, "nearest", None).nbytes - weight.const_value.nbytes
        total += _LAYER_BYTES + _NAMES * len(weight.name)
    return total
