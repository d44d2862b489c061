"""Allocate: a number of bits for every matrix so that all together harm least in the bytes that they may take.

Every layer that `assign_weights` planned in blocks gets a list of choices. What a choice does to the outputs is
measured once a layer, at `reference` bits with everything else in float; at other bits it is scaled by the ratio of the
layer's own output errors tr((W − Ŵ)H(W − Ŵ)ᵀ), to which it is proportional while errors are small (the linearised loss
of Q-Palette, 2025). The knapsack over all layers is solved exactly (qonnx.allocation); the report then says the harm
that was predicted and the harm that all chosen formats together have, both with plain rounding: solvers gain on it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from qonnx.allocation import Choice, allocate
from qonnx.errors import QonnxError
from qonnx.formats import FORMATS, IntFormat
from qonnx.harm import Judge, decibel, judge
from qonnx.notes import clone, note, warn
from qonnx.passes.assign_weights import STORED
from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import array, initializer, is_op, set_input
from qonnx.passes.solve_weights import layout_of, solve
from qonnx.plan import Plan
from qonnx.targets import Target


@dataclasses.dataclass
class Allocate(Pass):
    """Give each layer in blocks its own number of bits.

    data: samples to measure harm on, `samples` of them. bits: what a layer may get, as far as the target takes it.
    average: bits a weight, scales and zero points included; size: bytes of all these weights, in place of `average`.
    reference: bits at which harm is measured.
    Raises QonnxError if the smallest choices take more.
    """

    data: Any
    target: Target
    settings: Any = None
    bits: tuple[int, ...] = (2, 3, 4, 5, 6, 8)
    average: float = 4.5
    size: int | None = None
    reference: int = 4
    samples: int = 4
    progress: Callable[[int], None] | None = None

    needs = ("assign_weights",)
    tolerance = 0.0
    recurses: ClassVar[bool] = False  # harm is measured in the main graph; bodies keep their plan
    counts_layers: ClassVar[bool] = True

    def __post_init__(self):
        unknown = [bits for bits in (*self.bits, self.reference) if bits not in STORED]
        if unknown:
            raise QonnxError(f"{unknown[0]} bits are no choice; take some of {', '.join(map(str, sorted(STORED)))}")

    def changes(self, model: ir.Model) -> Iterator[Change]:
        nodes = list(model.graph)
        layers = [index for index, node in enumerate(nodes) if _in_blocks(node)]
        if not layers or self.data is None:
            return
        judged, choices, formats = self._judge(model), [], []
        for done, index in enumerate(layers):
            formats.append(self._formats(nodes[index], model))
            choices.append(self._choices(model, index, formats[-1], judged))
            if self.progress is not None:
                self.progress(done + 1)
        weights = sum(array(nodes[index].inputs[1]).size for index in layers)
        found = allocate(choices, self.size if self.size is not None else self.average * weights / 8)
        chosen = {index: formats[i][j] for i, (index, j) in enumerate(zip(layers, found.chosen, strict=True))}
        together = self._noise(model, chosen, judged)
        changed = [index for index in layers if chosen[index] != note(nodes[index]).plan.weight]
        for index in changed:
            node = nodes[index]
            note(node).plan = dataclasses.replace(note(node).plan, weight=chosen[index])
            yield Change(node.name or node.outputs[0].name, str(note(node).plan))
        if changed:
            warn(
                model,
                f"bits were chosen layer by layer: {found.size / 1e6:.2f} MB, {8 * found.size / weights:.2f} bits a "
                f"weight; predicted {decibel(found.harm):.1f} dB at the outputs, measured {decibel(together):.1f} dB, "
                "both with plain rounding",
            )

    def _judge(self, model: ir.Model) -> Judge:
        threads = None if self.settings is None else self.settings.threads
        libraries = () if self.settings is None else self.settings.custom_op_library
        some = itertools.islice(iter(self.data), self.samples)
        return judge(model, some, threads, libraries, squashed=False)

    def _formats(self, node: ir.Node, model: ir.Model) -> list[IntFormat]:
        """What the node may get. Only matrices can be packed to any number of bits."""
        opset, packs = model.graph.opset_imports.get("", 1), is_op(node, "MatMul", "Gemm")
        taken = []
        for bits in sorted(set(self.bits)):
            way = self.target.weight_only.get(str(bits))
            if way is None or (way == "lowbit" and not packs) or (bits == 2 and opset < 25):
                continue
            taken.append(_at(note(node).plan.weight, bits))
        if not taken:
            raise QonnxError(
                f"target '{self.target.name}' takes none of {', '.join(map(str, self.bits))} bits for "
                f"'{node.name}'; give others in option 'bits' of pass 'allocate'"
            )
        return taken

    def _choices(self, model: ir.Model, index: int, formats: list[IntFormat], judged: Judge) -> list[Choice]:
        """Size and harm of each format for the layer at `index`."""
        node = list(model.graph)[index]
        plan, rows = note(node).plan, layout_of(node).to_rows(np.asarray(array(node.inputs[1]), np.float64))
        stats = note(node.inputs[0]).stats
        gram = None if stats is None or stats.gram is None else stats.gram.matrix
        gram = gram if gram is not None and gram.shape[-1] == rows.shape[-1] else None
        reference = _at(plan.weight, self.reference)
        errors, sizes = {}, {}
        for format in {*formats, reference}:
            solved = solve(node, dataclasses.replace(plan, weight=format), "nearest-searched", gram)
            error = rows - layout_of(node).to_rows(solved.decode())
            errors[format] = float(np.sum(error * (error if gram is None else error @ gram)))
            sizes[format] = _nbytes(solved)
        harm = self._noise(model, {index: reference}, judged) / max(errors[reference], 1e-30)
        return [Choice(format.name, sizes[format], harm * errors[format]) for format in formats]

    def _noise(self, model: ir.Model, chosen: dict[int, IntFormat], judged: Judge) -> float:
        """Relative error power at the outputs when only the layers `chosen` have rounded weights."""
        copy = clone(model)
        for index, node in enumerate(list(copy.graph)):
            if index in chosen:
                plan, old = dataclasses.replace(note(node).plan, weight=chosen[index]), node.inputs[1]
                weight = solve(node, plan, "nearest-searched", None).decode().astype(array(old).dtype)
                set_input(node, 1, initializer(copy.graph, f"{old.name}_rounded", weight))
        return judged.measure(copy).noise


def _in_blocks(node: ir.Node) -> bool:
    plan = note(node).plan
    if not isinstance(plan, Plan) or not isinstance(plan.weight, IntFormat) or plan.weight_index != 1:
        return False
    return plan.weight.granularity == "block" and note(node).fate is None and note(node).solved is None


def _at(format: IntFormat, bits: int) -> IntFormat:
    """`format` with another number of bits."""
    stored = STORED[bits]
    plain = FORMATS[f"{'s' if format.symmetric else 'u'}{stored}"]
    levels = 0 if stored == bits else 2**bits
    return dataclasses.replace(plain, levels=levels, granularity=format.granularity, block=format.block)


def _nbytes(solved) -> int:
    """Bytes in the file, with codes packed to the bits that are used and zero points as bytes where they are packed."""
    format = solved.format
    if not format.levels:
        return solved.nbytes
    zero_points = 0 if format.symmetric else solved.zero_point.size
    return -(-solved.codes.size * (format.levels - 1).bit_length() // 8) + solved.scale.size * 4 + zero_points
