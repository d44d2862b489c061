"""Protect: keep the layers that harm most in higher precision until the outputs are as good as asked.

1. Quantize everything that is planned and measure the outputs on held-out samples. Good enough: nothing to do.
2. Measure each layer's harm: quantize it alone, the rest float, and take the error power of the worst output.
3. Keep layers in higher precision in order of falling harm for their price, while their multiply-adds fit into
   `max_float` of the whole; the smallest number that reaches `min_sqnr` is found by bisection on the whole model. If
   none does, all that fit and whose harm counts are kept; the final check then says how far it is from the bound.

The price of a layer is its share of the multiply-adds, plus a constant for leaving the integer kernels and returning.
"Higher" is what the target offers first in `higher`: 16-bit activations ("a16") or float.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import onnx_ir as ir

from qonnx.harm import Judge, decibel, judge
from qonnx.notes import clone, note, skip
from qonnx.passes.assign import ELIGIBLE
from qonnx.passes.base import Change, Pass
from qonnx.passes.place_qdq import PlaceQDQ
from qonnx.plan import Plan, encoding
from qonnx.targets import Target

_log = logging.getLogger(__name__)
_RETURN = 0.002  # price of a change between integers and float, as a share of the model's multiply-adds
_NEGLIGIBLE = 0.001  # of the summed harm


@dataclasses.dataclass
class Protect(Pass):
    """Hold a bound on the SQNR of the outputs.

    data, held_out: samples; the held-out ones judge, if there are any. min_sqnr: dB; the user's own bound speaks of the
    outputs, this default of what enters a last Softmax or Sigmoid. max_float: share of the model's multiply-adds that
    may leave 8 bits, 0…1. samples: how many to judge on at most.
    """

    data: Any
    target: Target
    settings: Any = None
    held_out: Any = None
    min_sqnr: float = 25.0
    max_float: float = 0.1
    samples: int = 8
    progress: Callable[[int], None] | None = None

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
        noise = self._noise(model, planned, judged)
        _log.info("everything quantized: %.1f dB, bound %.1f dB", decibel(noise), bound)
        if decibel(noise) >= bound:
            return
        order = self._order(model, planned, judged)
        nodes = list(model.graph)
        for index, harm in self._fewest(model, planned, order, judged, bound):
            node, detail = nodes[index], f"alone it leaves {decibel(harm):.1f} dB at the output"
            yield Change(node.name or node.outputs[0].name, f"{self._raise(node, detail)}: {detail}")

    def _raise(self, node: ir.Node, detail: str) -> str:
        """Give the node the higher precision of the target."""
        if self.target.higher[0] == "a16":
            widen(node)
            return "kept at 16-bit activations"
        note(node).plan = None
        skip(node, "accuracy", detail)
        return "kept in float"

    def _judge(self, model: ir.Model) -> Judge:
        source = self.held_out if self.held_out is not None else self.data
        threads = None if self.settings is None else self.settings.threads
        libraries = () if self.settings is None else self.settings.custom_op_library
        squashed = self.settings is not None and self.settings.min_sqnr is not None
        some = itertools.islice(iter(source), self.samples)
        return judge(model, some, threads, libraries, squashed=squashed)

    def _noise(self, model: ir.Model, chosen: Iterable[int], judged: Judge) -> float:
        """Error of a clone in which the planned nodes at positions `chosen` are quantized, the others as without."""
        copy, chosen = clone(model), set(chosen)
        for index, node in enumerate(list(copy.graph)):
            if isinstance(note(node).plan, Plan) and index not in chosen:
                note(node).plan = None
        PlaceQDQ()(copy)
        return judged.noise(copy)

    def _order(self, model: ir.Model, planned: list[int], judged: Judge) -> list[tuple[int, float]]:
        """(position, harm) of the planned nodes, most harm for its price first; harmless ones are left out."""
        harms, nodes = {}, list(model.graph)
        weighted = [index for index in planned if nodes[index].op_type in ELIGIBLE]
        for done, index in enumerate(weighted):
            harms[index] = self._noise(model, {index}, judged)
            if self.progress is not None:
                self.progress(done + 1)
        total = self._macs(model)
        whole = sum(harms.values())

        def worth(index: int) -> float:
            return harms[index] / ((note(nodes[index]).macs or 0) / total + _RETURN)

        counting = [index for index in weighted if harms[index] > _NEGLIGIBLE * whole]
        return [(index, harms[index]) for index in sorted(counting, key=lambda i: -worth(i))]

    def _macs(self, model: ir.Model) -> int:
        return max(sum(note(node).macs or 0 for node in model.graph), 1)

    def _fewest(self, model, planned, order, judged: Judge, bound: float) -> list[tuple[int, float]]:
        """The shortest head of `order`, within the budget, that reaches the bound when it is kept."""
        nodes = list(model.graph)
        spent = sum(note(n).macs or 0 for n in nodes if note(n).fate is not None and note(n).fate.state == "skipped")
        share = self.max_float
        if self.settings is not None and self.settings.max_float is not None:
            share = self.settings.max_float
        budget, head = share * self._macs(model), []
        for index, harm in order:
            cost = note(nodes[index]).macs or 0
            if spent + cost <= budget:
                spent += cost
                head.append((index, harm))
        low, high = min(1, len(head)), len(head)
        while low < high:
            middle = (low + high) // 2
            rest = set(planned) - {index for index, _ in head[:middle]}
            if decibel(self._noise(model, rest, judged)) >= bound:
                high = middle
            else:
                low = middle + 1
        return head[:low]


def widen(node: ir.Node) -> None:
    """Plan 16-bit activations for the node, with the ranges that its 8-bit ones have."""
    plan, inputs = note(node).plan, {}
    for index, format in plan.inputs.items():
        wide = dataclasses.replace(format, bits=16)
        grid = note(node.inputs[index]).encodings[format.name]
        note(node.inputs[index]).encodings[wide.name] = encoding(wide, grid.low, grid.high)
        inputs[index] = wide
    note(node).plan = dataclasses.replace(plan, inputs=inputs)
