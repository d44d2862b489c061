"""Fit levels: spread the few codes of an activation where its values lie, not evenly over its range.

An activation of 16 codes, planned on a uniform grid, gets 16 of the 256 codes of a grid of bytes over the whole range
instead: those of least squared error at the output of the layers that read it,

    Σ_c |W[c, :]|² · Σ (x[c] − level(x[c]))²,    c the input channels of the weight W, x from the calibration data.

Products read bytes as before (with the same kernels: a code is scale · (code − zero point)), and nothing is clipped,
which few even levels need. Which codes are used is Lloyd's problem, solved exactly (qonnx.levels). Counts enter to the
`power`: below 1 the ends of a range get more levels, since other samples fall there more often than these.

For activations with 2 to 64 levels that meet a constant weight. Sources: search by output error as in AdaLog's FPCS
(ECCV 2024) and PTQ4ViT; levels that are not uniform as in LLM-FP4 (EMNLP 2023), APoT (ICLR 2020).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from qonnx.calibrate import run
from qonnx.lean import lean_session
from qonnx.levels import best_levels
from qonnx.notes import note
from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import array, is_constant
from qonnx.passes.solve_weights import layout_of
from qonnx.plan import Encoding, Plan, encoding
from qonnx.probes import tapped

_MOST = 64  # levels: with more, an even grid is as good


@dataclasses.dataclass
class FitLevels(Pass):
    """Choose the codes of planned activations of few levels. samples: of the data to use at most; 0 leaves levels even.
    power: see above.
    """

    data: Any
    settings: Any = None
    samples: int = 32
    power: float = 0.85

    needs = ("assign",)
    tolerance = 0.0

    def changes(self, model: ir.Model) -> Iterator[Change]:
        readers = _readers(model) if self.data is not None and self.samples else {}
        if not readers:
            return
        wide = {value: _wide(value, plan) for value, (plan, _) in readers.items()}
        counts = {value: np.zeros(256) for value in readers}
        libraries = () if self.settings is None else self.settings.custom_op_library
        names = [value.name for value in readers]
        session = lean_session(tapped(model, names), threads=self._threads(), libraries=libraries)
        for index, feeds in enumerate(itertools.islice(iter(self.data), self.samples)):
            found = run(session, names, feeds, index)
            for (value, (_, importance)), x in zip(readers.items(), found, strict=True):
                counts[value] += _weighted_counts(x, wide[value], importance)
        for value, (plan, _) in readers.items():
            format = plan.inputs[0]
            grid = wide[value]
            codes = tuple(i + grid.format.minimum for i in best_levels(counts[value] ** self.power, format.levels))
            fitted = Encoding(format, grid.scale, grid.zero_point, codes)
            if note(value).encodings[format.name] != fitted:
                note(value).encodings[format.name] = fitted
                yield Change(value.name, f"{len(codes)} levels from {fitted.low:.4g} to {fitted.high:.4g}")

    def _threads(self) -> int | None:
        return None if self.settings is None else self.settings.threads


def _readers(model: ir.Model) -> dict[ir.Value, tuple[Plan, np.ndarray]]:
    """Each activation to fit: a plan that reads it, and the importance of its channels summed over its readers."""
    found: dict[ir.Value, tuple[Plan, np.ndarray]] = {}
    for node in model.graph:
        plan = note(node).plan
        if not isinstance(plan, Plan) or plan.weight is None or plan.weight_index != 1 or 0 not in plan.inputs:
            continue
        format, value = plan.inputs[0], node.inputs[0]
        if node.op_type not in ("MatMul", "Gemm") or not 2 <= format.levels <= _MOST or is_constant(value):
            continue
        if format.bits != 8 or format.name not in note(value).encodings:
            continue
        if len(node.inputs[1].shape) != 2 or note(value).stats is None:
            continue
        rows = layout_of(node).to_rows(np.asarray(array(node.inputs[1]), np.float32))  # [1, outputs, inputs]
        importance = np.square(rows, dtype=np.float64).sum((0, 1))
        if value in found:
            importance = importance + found[value][1]
        found[value] = (plan, importance)
    return found


def _wide(value: ir.Value, plan: Plan) -> Encoding:
    """The grid of 256 codes over all that calibration saw."""
    stats = note(value).stats
    even = dataclasses.replace(plan.inputs[0], levels=0)
    return encoding(even, stats.minimum, stats.maximum, value.dtype)


def _weighted_counts(x: np.ndarray, grid: Encoding, importance: np.ndarray) -> np.ndarray:
    """How heavily each code, from the lowest up, occurs in x [..., channels]; float64 [256]."""
    codes = grid.format.encode(x.astype(np.float32), np.float32(grid.scale), np.int64(grid.zero_point))
    codes -= grid.format.minimum
    return np.bincount(codes.ravel(), np.broadcast_to(importance, x.shape).ravel(), minlength=256)
