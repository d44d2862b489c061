"""Protect: keep the layers that harm most in higher precision until the outputs are as good as asked.

1. Quantize everything that is planned and measure the outputs on held-out samples. Good enough: nothing to do.
2. Measure each layer's harm: quantize it alone, the rest float, and take the error power of the worst output.
3. In order of falling harm, keep layers out while their multiply-adds fit into `max_float` of the whole; the smallest
   number that reaches `min_sqnr` is found by bisection on the whole model. If none does, all that fit are kept out: the
   bound is then reported as broken, with the price of the layers that stay.

"Higher" is what the target offers first in `higher`: 16-bit activations ("a16") or float.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir

from qonnx.harm import Judge, decibel, judge
from qonnx.notes import clone, note, skip
from qonnx.passes.base import Change, Pass
from qonnx.passes.correct_bias import CorrectBias
from qonnx.passes.place_qdq import PlaceQDQ
from qonnx.plan import Plan
from qonnx.targets import Target


@dataclasses.dataclass
class Protect(Pass):
    """Hold a bound on the SQNR of the outputs.

    min_sqnr: dB. max_float: share of the model's multiply-adds that may leave 8 bits, 0…1. samples: held-out samples to
    measure on. corrected: judge the model with corrected biases, as it will be in the end.
    """

    data: Any
    target: Target
    settings: Any = None
    held_out: Any = None
    min_sqnr: float = 25.0
    max_float: float = 0.1
    samples: int = 8
    corrected: bool = True

    needs = ("assign", "solve_weights")
    tolerance = None

    def changes(self, model: ir.Model) -> Iterator[Change]:
        planned = [index for index, node in enumerate(model.graph) if isinstance(note(node).plan, Plan)]
        if not planned:
            return
        bound = self.min_sqnr
        if self.settings is not None and self.settings.min_sqnr is not None:
            bound = self.settings.min_sqnr
        judged = self._judge(model)
        noise = self._whole(model, planned, judged)
        if decibel(noise) >= bound:
            return
        order = self._order(model, planned, judged)
        kept = self._fewest(model, planned, order, judged, bound)
        nodes = list(model.graph)
        for index, harm in kept:
            node = nodes[index]
            detail = f"alone it leaves {decibel(harm):.1f} dB at the output"
            note(node).plan = None
            skip(node, "accuracy", detail)
            yield Change(node.name or node.outputs[0].name, f"kept in float: {detail}")

    def _judge(self, model: ir.Model) -> Judge:
        source = self.held_out if self.held_out is not None else self.data
        threads = None if self.settings is None else self.settings.threads
        libraries = () if self.settings is None else self.settings.custom_op_library
        return judge(model, itertools.islice(iter(source), self.samples), threads, libraries)

    def _quantized(self, model: ir.Model, chosen: set[int], corrected: bool) -> ir.Model:
        """A clone in which the planned nodes at positions `chosen` are quantized."""
        copy = clone(model)
        for index, node in enumerate(copy.graph):
            if isinstance(note(node).plan, Plan) and index not in chosen:
                note(node).plan = None
        if corrected:
            CorrectBias(self.data, self.settings, self.samples)(copy)
        PlaceQDQ()(copy)
        return copy

    def _whole(self, model: ir.Model, chosen: list[int], judged: Judge) -> float:
        return judged.noise(self._quantized(model, set(chosen), self.corrected))

    def _order(self, model: ir.Model, planned: list[int], judged: Judge) -> list[tuple[int, float]]:
        """(position, harm) of the planned nodes, most harmful first."""
        harms = [(index, judged.noise(self._quantized(model, {index}, False))) for index in planned]
        return sorted(harms, key=lambda item: -item[1])

    def _fewest(self, model, planned, order, judged: Judge, bound: float) -> list[tuple[int, float]]:
        """The shortest head of `order`, within the budget, that reaches the bound when it stays float."""
        nodes = list(model.graph)
        total = sum(note(node).macs or 0 for node in nodes)
        spent = sum(note(n).macs or 0 for n in nodes if note(n).fate is not None and note(n).fate.state == "skipped")
        share = self.max_float
        if self.settings is not None and self.settings.max_float is not None:
            share = self.settings.max_float
        budget, head = share * total, []
        for index, harm in order:
            cost = note(nodes[index]).macs or 0
            if spent + cost <= budget:
                spent += cost
                head.append((index, harm))
        low, high = 1, len(head)
        while low < high:
            middle = (low + high) // 2
            rest = set(planned) - {index for index, _ in head[:middle]}
            if decibel(self._whole(model, list(rest), judged)) >= bound:
                high = middle
            else:
                low = middle + 1
        return head[:low]
