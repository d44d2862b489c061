"""Protect: keep the layers that harm most in higher precision until the outputs are as good as asked.

1. Quantize everything that is planned and measure the outputs on held-out samples. Good enough: nothing to do.
2. Measure each layer's harm: quantize it alone, the rest float, and take the error power of the worst output.
3. Raise layers in order of falling harm for their price, while their multiply-adds fit into `max_float` of the whole;
   the smallest number that reaches the bound is found by bisection on the whole model. If none does, all that fit and
   whose harm counts are raised; the final check then says how far the result is from the bound.
4. "Raise" means 8-bit weights ("w8") first, where some have fewer: they cost bytes, and no multiply-adds leave 8 bits.
   Where that does not do, all have them, and what the target offers in `higher` follows in order: 16-bit activations
   ("a16"), float.

The price of a layer is its share of the multiply-adds, plus a constant for leaving the integer kernels and returning.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import onnx_ir as ir

from qonnx.formats import IntFormat
from qonnx.harm import Harm, Judge, decibel, judge
from qonnx.notes import clone, note, skip, warn
from qonnx.passes.assign import ELIGIBLE
from qonnx.passes.base import Change, Pass
from qonnx.passes.place_qdq import PlaceQDQ
from qonnx.passes.solve_weights import layout_of, solve
from qonnx.plan import Plan, encoding
from qonnx.targets import Target

_log = logging.getLogger(__name__)
_RETURN = 0.002  # price of a change between integers and float, as a share of the model's multiply-adds
_NEGLIGIBLE = 0.001  # of the summed harm


@dataclasses.dataclass
class Protect(Pass):
    """Hold a bound on the SQNR of the outputs.

    data, held_out: samples; the held-out ones judge, if there are any. min_sqnr: dB; the user's own bounds speak of
    the outputs, this default of what enters a last Softmax or Sigmoid; −inf leaves all to the user. max_float: share of
    the model's multiply-adds that may leave 8 bits, 0…1. samples: how many to judge on at most.
    """

    data: Any
    target: Target
    settings: Any = None
    held_out: Any = None
    min_sqnr: float = 25.0
    max_float: float = 0.1
    samples: int = 8
    progress: Callable[[int], None] | None = None

    needs = ("assign", "solve_weights | solve_in_turn")
    tolerance = None
    counts_layers: ClassVar[bool] = True  # what `progress` is called with

    def changes(self, model: ir.Model) -> Iterator[Change]:
        planned = [index for index, node in enumerate(model.graph) if isinstance(note(node).plan, Plan)]
        if not planned or (self.data is None and self.held_out is None):  # statistics alone: nothing to judge by
            return
        if self.min_sqnr == -math.inf and not self._asked():
            return
        judged = self._judge(model)
        harm = self._measure(model, planned, judged, "float")
        _log.info("everything quantized: %.1f dB, %.2f %% disagree", decibel(harm.noise), 100 * harm.disagreement)
        if self._holds(harm):
            return
        order = self._order(model, planned, judged)
        nodes, how = list(model.graph), "float"
        light = [(index, alone) for index, alone in order if _is_light(nodes[index])]
        for how in (*(("w8",) if light else ()), *self.target.higher):
            raised, harm = self._fewest(model, planned, light if how == "w8" else order, judged, how)
            if self._holds(harm):
                break
            if how == "w8":
                for index, alone in raised:
                    yield _raised(nodes[index], how, alone)
        else:
            warn(model, self._missed(harm))
        for index, alone in raised:
            yield _raised(nodes[index], how, alone)

    def _asked(self) -> bool:
        """Whether the user set a bound."""
        given = self.settings
        return given is not None and (given.min_sqnr is not None or given.max_drop is not None)

    def _holds(self, harm: Harm) -> bool:
        """Whether the user's bounds hold; without any, the default one."""
        given = self.settings
        if not self._asked():
            return decibel(harm.noise) >= self.min_sqnr
        sqnr = given.min_sqnr is None or decibel(harm.noise) >= given.min_sqnr
        return sqnr and (given.max_drop is None or harm.disagreement <= given.max_drop)

    def _missed(self, harm: Harm) -> str:
        """What to tell the user when raising layers did not do."""
        return (
            f"the bound was not reached: held-out samples are at {decibel(harm.noise):.1f} dB with up to "
            f"{self._share():.0%} of the multiply-adds in higher precision; --max-float allows more, and more samples "
            "make better ranges"
        )

    def _share(self) -> float:
        given = None if self.settings is None else self.settings.max_float
        return self.max_float if given is None else given

    def _judge(self, model: ir.Model) -> Judge:
        source = self.held_out if self.held_out is not None else self.data
        threads = None if self.settings is None else self.settings.threads
        libraries = () if self.settings is None else self.settings.custom_op_library
        some = itertools.islice(iter(source), self.samples)
        exact = not self.target.name.startswith("ort-")  # for those, ONNX Runtime as users run it is the truth
        return judge(model, some, threads, libraries, squashed=self._asked(), exact=exact)

    def _measure(self, model: ir.Model, chosen: Iterable[int], judged: Judge, how: str) -> Harm:
        """Harm of a clone in which the planned nodes at positions `chosen` are quantized, the others raised."""
        copy, chosen = clone(model), set(chosen)
        for index, node in enumerate(list(copy.graph)):
            if isinstance(note(node).plan, Plan) and index not in chosen:
                _raise(node, how, "")
        PlaceQDQ()(copy)
        return judged.measure(copy)

    def _order(self, model: ir.Model, planned: list[int], judged: Judge) -> list[tuple[int, float]]:
        """(position, harm) of the planned nodes, most harm for its price first; harmless ones are left out."""
        harms, nodes = {}, list(model.graph)
        weighted = [index for index in planned if nodes[index].op_type in ELIGIBLE]
        for done, index in enumerate(weighted):
            harms[index] = self._measure(model, {index}, judged, "float").noise
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

    def _fewest(self, model, planned, order, judged: Judge, how: str) -> tuple[list[tuple[int, float]], Harm]:
        """The shortest head of `order`, within the budget, that reaches the bound when raised; what is left then."""
        nodes = list(model.graph)
        spent = sum(note(n).macs or 0 for n in nodes if note(n).fate is not None and note(n).fate.state == "skipped")
        budget, head = self._share() * self._macs(model), []
        for index, harm in order:
            cost = note(nodes[index]).macs or 0
            if how == "w8":  # stays on integers
                head.append((index, harm))
            elif spent + cost <= budget:
                spent += cost
                head.append((index, harm))

        def left(count: int) -> Harm:
            rest = set(planned) - {index for index, _ in head[:count]}
            return self._measure(model, rest, judged, how)

        low, high = min(1, len(head)), len(head)
        while low < high:
            middle = (low + high) // 2
            if self._holds(left(middle)):
                high = middle
            else:
                low = middle + 1
        return head[:low], left(low)


def _raised(node: ir.Node, how: str, alone: float) -> Change:
    """Give the node higher precision for good."""
    detail = f"alone it leaves {decibel(alone):.1f} dB at the output"
    return Change(node.name or node.outputs[0].name, f"{_raise(node, how, detail)}: {detail}")


def _raise(node: ir.Node, how: str, detail: str) -> str:
    """Give the node higher precision; says what that is."""
    if how == "w8":
        if _is_light(node):
            strengthen(node)
        return "kept at 8-bit weights"
    if how == "a16":
        widen(node)
        return "kept at 16-bit activations"
    note(node).plan = None
    skip(node, "accuracy", detail)
    return "kept in float"


def _is_light(node: ir.Node) -> bool:
    """Whether the node's weight is planned with fewer codes than 8 bits have."""
    plan = note(node).plan
    weight = plan.weight if isinstance(plan, Plan) else None
    return isinstance(weight, IntFormat) and (weight.bits < 8 or 0 < weight.levels < 128)


def strengthen(node: ir.Node) -> None:
    """Plan and round an 8-bit weight, one scale an output; the mean of what that changes leaves the bias again."""
    known, plan, layout = note(node), note(node).plan, layout_of(node)
    granularity = "tensor" if plan.weight.granularity == "tensor" else "channel"
    weight = dataclasses.replace(plan.weight, bits=8, levels=0, granularity=granularity, block=0)
    before, known.plan = known.solved, dataclasses.replace(plan, weight=weight)
    known.solved = solve(node, known.plan, "nearest", None)
    stats = note(node.inputs[0]).stats
    moved = layout.to_rows(known.solved.decode()) - layout.to_rows(before.decode())
    means = None if stats is None else stats.channel_mean
    if known.mean_error is not None and means is not None and moved.shape[0] == 1 and moved.shape[2] == means.size:
        known.mean_error = known.mean_error + moved[0] @ means


def widen(node: ir.Node) -> None:
    """Plan 16-bit activations for the node, with the ranges that its 8-bit ones have."""
    plan, inputs = note(node).plan, {}
    for index, format in plan.inputs.items():
        wide = dataclasses.replace(format, bits=16)
        grid = note(node.inputs[index]).encodings[format.name]
        note(node.inputs[index]).encodings[wide.name] = encoding(wide, grid.low, grid.high)
        inputs[index] = wide
    note(node).plan = dataclasses.replace(plan, inputs=inputs)
