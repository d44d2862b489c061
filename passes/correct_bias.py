"""Correct biases: take out the mean error that quantization leaves on each output channel.

b ← b − (E[y_q] − E[y]) per output channel, both means over the calibration data (Nagel et al. 2019, section 4.2;
Finkelstein et al. 2019). E[y] was observed on the float model. y_q is measured on the quantized model as it stands,
prefix included, for all layers in one run; what a layer inherits from layers before it is corrected there and measured
again, so the rounds converge from the front to the back.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from qonnx.calibrate import Wish, observe
from qonnx.notes import note
from qonnx.passes.base import Change, Pass
from qonnx.passes.reparameterize import add_to_bias
from qonnx.passes.rewire import array, initializer, is_op, set_input
from qonnx.plan import Plan
from qonnx.stats import Stats


@dataclasses.dataclass
class CorrectBias(Pass):
    """Correct the bias of every quantized layer. samples: of the data to measure on. rounds: of measuring and correcting."""

    data: Any
    settings: Any = None
    samples: int = 16
    rounds: int = 2

    needs = ("observe", "place_qdq")
    tolerance = None

    def changes(self, model: ir.Model) -> Iterator[Change]:
        layers = [node for node in model.graph if _correctable(node)]
        if not layers:
            return
        touched: dict[str, float] = {}
        for _ in range(self.rounds):
            found = self._measure(model, layers)
            for node in layers:
                name = _probe(node).name
                if name not in found:
                    continue
                error = found[name].channel_mean - note(node.outputs[0]).stats.channel_mean
                correct(node, -error)
                touched[node.name or name] = float(np.abs(error).max())
        for name, error in touched.items():
            yield Change(name, f"bias corrected, last mean error {error:.2g}")

    def _measure(self, model: ir.Model, layers: list[ir.Node]) -> dict[str, Stats]:
        wishes = {_probe(node).name: Wish(channel_axis=note(node.outputs[0]).stats.channel_axis) for node in layers}
        some = list(itertools.islice(iter(self.data), self.samples))
        threads = None if self.settings is None else self.settings.threads
        libraries = () if self.settings is None else self.settings.custom_op_library
        return observe(model, some, wishes, threads=threads, libraries=libraries)


def _correctable(node: ir.Node) -> bool:
    """A quantized layer whose float output was observed by channel, seen before any activation or Q/DQ."""
    stats = note(node.outputs[0]).stats if node.outputs else None
    plan = note(node).plan
    return isinstance(plan, Plan) and plan.weight is not None and stats is not None and stats.channel_sum is not None


def _probe(node: ir.Node) -> ir.Value:
    """The value whose mean is measured: the raw output of the node."""
    return node.outputs[0]


def correct(node: ir.Node, amount: np.ndarray) -> None:
    """Add `amount` [O] to the layer's bias, in whatever form it is stored."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    dequantize = bias.producer() if bias is not None else None
    if is_op(dequantize, "DequantizeLinear"):
        codes, scale = array(dequantize.inputs[0]), array(dequantize.inputs[1])
        limit = 2**31 - 1
        moved = np.clip(codes + np.rint(amount / scale), -limit, limit).astype(np.int32)
        name = dequantize.inputs[0].name
        set_input(dequantize, 0, initializer(node.graph, name, moved))
        return
    add_to_bias(node, amount, np.dtype(np.float32))
