"""Results of the benchmark of low-bit products: cells kept in results.json, tables in results.md."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable

from qonnx.custom_ops.bench.cases import CASES, SETTINGS, VIT_GOAL, VIT_SHAPE, VIT_TOKENS, Case
from qonnx.custom_ops.bench.limits import Limits

FOLDER = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Cell:
    """One measurement: medians in microseconds, relative errors against float64 and, of ours, the specification."""

    case: str
    baseline: str
    columns: int
    rows: int
    tokens: int
    threads: int
    cold: bool
    ours: float
    theirs: float
    from_specification: float
    error: float
    baseline_error: float

    @property
    def ratio(self) -> float:
        return self.theirs / self.ours

    @property
    def key(self) -> tuple:
        return dataclasses.astuple(self)[:7]


@dataclasses.dataclass(frozen=True)
class ModelTime:
    """A whole model in one variant: median in microseconds, distance of its output from the same weights in float."""

    model: str
    block: int
    threads: int
    variant: str
    microseconds: float
    error: float
    samples: int

    @property
    def key(self) -> tuple:
        return dataclasses.astuple(self)[:4]


@dataclasses.dataclass(frozen=True)
class Swept:
    """How many times faster than a float MatMul one setting is, one thread, hot."""

    operator: str
    kind: str
    block: int
    tokens: int
    ratio: float

    @property
    def key(self) -> tuple:
        return dataclasses.astuple(self)[:4]


@dataclasses.dataclass
class Results:
    """Everything measured so far on one machine; a new measurement of the same setting replaces the old one."""

    machine: str
    cells: dict[tuple, Cell] = dataclasses.field(default_factory=dict)
    limits: dict[int, Limits] = dataclasses.field(default_factory=dict)  # by threads
    bits: dict[str, float] = dataclasses.field(default_factory=dict)  # stored for a weight, by case
    models: dict[tuple, ModelTime] = dataclasses.field(default_factory=dict)
    swept: dict[tuple, Swept] = dataclasses.field(default_factory=dict)

    def save(self, folder: pathlib.Path) -> None:
        document = {
            "machine": self.machine,
            "limits": {threads: dataclasses.asdict(limits) for threads, limits in self.limits.items()},
            "bits": self.bits,
            "models": [dataclasses.asdict(row) for row in self.models.values()],
            "swept": [dataclasses.astuple(row) for row in self.swept.values()],
            "cells": [dataclasses.asdict(cell) for cell in self.cells.values()],
        }
        (folder / "results.json").write_text(json.dumps(document, indent=1) + "\n")
        (folder / "results.md").write_text(markdown(self))


def load(folder: pathlib.Path, machine: str) -> Results:
    """The results kept in `folder`, or none where there are none or they are another machine's."""
    path = folder / "results.json"
    document = json.loads(path.read_text()) if path.exists() else {}
    if document.get("machine") != machine:
        return Results(machine)
    cells = [Cell(**cell) for cell in document["cells"]]
    limits = {int(threads): Limits(**limits) for threads, limits in document["limits"].items()}
    models = [ModelTime(**row) for row in document.get("models", [])]
    swept = [Swept(*row) for row in document.get("swept", [])]
    by_key = ({row.key: row for row in rows} for rows in (models, swept))
    return Results(machine, {cell.key: cell for cell in cells}, limits, document["bits"], *by_key)


def mean(values: Iterable[float]) -> float:
    """Geometric; NaN of nothing."""
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else math.nan


def markdown(results: Results) -> str:
    parts = [
        "# Low-bit matrix products against ONNX Runtime\n",
        "Written by `python -m qonnx.custom_ops.bench.lowbit`. Times faster, geometric means over the shapes; medians "
        "taken in turns; with one thread by CPU time. A cell: reached (goal), **bold** where the goal is missed.\n",
        f"Machine: {results.machine}\n",
        _goals(results),
        _vit(results),
        _models(results),
        _sweep(results),
        _limits(results),
        _errors(results),
    ]
    return "\n".join(part for part in parts if part)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _mark(value: float, goal: float) -> str:
    if math.isnan(value):
        return "–"
    text = f"{value:.2f} ({goal:g})"
    return text if value >= goal else f"**{text}**"


def _cells(results: Results, name: str, case: Case, **wanted: object) -> list[Cell]:
    return [
        cell
        for cell in results.cells.values()
        if cell.case == name
        and (cell.columns, cell.rows) in case.shapes
        and all(getattr(cell, field) == value for field, value in wanted.items())
    ]


def _goals(results: Results) -> str:
    rows = []
    for name, case in CASES.items():
        seen = {cell.baseline for cell in results.cells.values() if cell.case == name}
        for baseline in sorted(seen, key=lambda b: (b not in case.baselines, b)):
            goals = case.baselines.get(baseline)
            for threads in (1, 2):
                seen_shapes = {
                    (c.columns, c.rows) for c in _cells(results, name, case, baseline=baseline, threads=threads)
                }
                part = (
                    ""
                    if len(seen_shapes) == len(case.shapes)
                    else f" ({len(seen_shapes)} of {len(case.shapes)} shapes)"
                )
                row = [name + part, baseline, str(threads)]
                for i, (tokens, cold) in enumerate(SETTINGS):
                    cells = _cells(results, name, case, baseline=baseline, threads=threads, tokens=tokens, cold=cold)
                    value = mean(cell.ratio for cell in cells)
                    row.append(_mark(value, goals[i]) if goals else "–" if math.isnan(value) else f"{value:.2f}")
                if row[3:] != ["–"] * len(SETTINGS):
                    rows.append(row)
    names = [f"M = {tokens}" + (" cold" if cold else " hot" if tokens == 1 else "") for tokens, cold in SETTINGS]
    return _table(["format", "against", "threads", *names], rows)


def _vit(results: Results) -> str:
    columns, rows = VIT_SHAPE
    lines = [
        [cell.case, cell.baseline, str(cell.threads), f"{cell.ours:.0f} µs", _mark(cell.ratio, VIT_GOAL)]
        for cell in results.cells.values()
        if (cell.columns, cell.rows, cell.tokens) == (columns, rows, VIT_TOKENS)
    ]
    if not lines:
        return ""
    title = f"## A layer of ViT-S: K = {columns}, N = {rows}, M = {VIT_TOKENS}\n\n"
    return title + _table(["format", "against", "threads", "ours", "times faster"], lines)


def _models(results: Results) -> str:
    """Whole models: times, and ours against the variants of ONNX Runtime that round activations alike."""
    rows = []
    for model, block, threads in dict.fromkeys(key[:3] for key in results.models):
        of = {row.variant: row for key, row in results.models.items() if key[:3] == (model, block, threads)}
        dynamic = of["DynamicQuantizeMatMulLowBit"].microseconds
        for name, row in of.items():
            share = f"{dynamic / row.microseconds:.2f}" if name != "DynamicQuantizeMatMulLowBit" else "–"
            if "level 4" in name:
                share = f"{share} (0.8)" if dynamic <= 0.8 * row.microseconds else f"**{share} (0.8)**"
            rows.append(
                [model, str(block), str(threads), name, f"{row.microseconds / 1e3:.2f}", share, f"{row.error:.1e}"]
            )
    header = [
        "model",
        "block",
        "threads",
        "variant",
        "ms",
        "ours, 8-bit activations / this",
        "from 4-bit weights in float",
    ]
    return (
        "## Whole models with 4-bit weights\n\nWritten by `python -m qonnx.custom_ops.bench.model`.\n\n"
        + _table(header, rows)
        if rows
        else ""
    )


def _sweep(results: Results) -> str:
    """The least ratio of each operator and number of rows, and where it is."""
    lines = []
    for operator, tokens in dict.fromkeys((row.operator, row.tokens) for row in results.swept.values()):
        of = [row for row in results.swept.values() if (row.operator, row.tokens) == (operator, tokens)]
        worst = min(of, key=lambda row: row.ratio)
        slower = sum(row.ratio < 1 for row in of)
        where = f"{worst.kind}, {f'block {worst.block}' if worst.block else 'one scale a row'}"
        lines.append([operator, str(tokens), _mark(worst.ratio, 1), where, f"{slower} of {len(of)}"])
    title = "## Every number of bits and block against a float MatMul, K = N = 1024, 1 thread\n\nWritten by "
    title += "`python -m qonnx.custom_ops.bench.sweep`.\n\n"
    header = ["operator", "M", "times faster at least", "where", "settings that are slower"]
    return title + _table(header, lines) if lines else ""


def _limits(results: Results) -> str:
    """Shares of what the machine can do, two threads against one, and stored bits."""
    lines = []
    for name, case in CASES.items():
        if name not in results.bits:
            continue
        bits, first = results.bits[name], next(iter(case.baselines))
        size = f"{bits:.2f}" + (f" ({case.most_bits:g})" if case.most_bits else "")
        row = [name, size if bits <= (case.most_bits or math.inf) else f"**{size}**"]
        for threads in (1, 2):
            limits = results.limits.get(threads)
            wanted = {"baseline": first, "threads": threads}
            cold = _cells(results, name, case, tokens=1, cold=True, **wanted)
            read = mean(c.columns * c.rows * bits / 8 / (c.ours * 1e-6) for c in cold if c.columns * c.rows >= 2**24)
            many = _cells(results, name, case, tokens=256, cold=False, **wanted)
            work = mean(c.columns * c.rows * c.tokens / (c.ours * 1e-6) for c in many)
            least = case.least_bandwidth[threads - 1] if case.most_bits else 0
            row.append(_share(read, limits.bytes_cold if limits else math.nan, least))
            row.append(_share(work, limits.multiply_adds if limits else math.nan, case.least_peak))
        row.append(_two_threads(results, name, case))
        lines.append(row)
    header = ["format", "bits a weight (most)", "bandwidth, 1 thread", "int8 peak, 1 thread"]
    header += ["bandwidth, 2 threads", "int8 peak, 2 threads", "2 threads against 1, M ≥ 8"]
    rates = "; ".join(
        f"{threads} thread{'s' * (threads > 1)}: {limits.multiply_adds / 1e9:.0f} G int8 multiply-adds/s, "
        f"{limits.bytes_cold / 1e9:.1f} GB/s read cold"
        for threads, limits in sorted(results.limits.items())
    )
    title = f"## Shares of the machine\n\nLimits: {rates}. Bandwidth: M = 1 cold, K = 4096. Peak: M = 256.\n\n"
    if {1, 2} <= set(results.limits):
        gain = results.limits[2].multiply_adds / results.limits[1].multiply_adds
        title += f"Two threads together do {gain:.2f} times the multiply-adds of one, on data of their own in L1: what "
        title += "the last column can come to on this machine. Two cores that share nothing would do 2.\n\n"
    return title + _table(header, lines) if lines else ""


def _share(rate: float, limit: float, least: float) -> str:
    if math.isnan(rate / limit):
        return "–"
    text = f"{rate / limit:.0%}" + (f" ({least:.0%})" if least else "")
    return text if rate >= least * limit else f"**{text}**"


def _two_threads(results: Results, name: str, case: Case) -> str:
    single = {(c.columns, c.rows, c.tokens, c.baseline): c.ours for c in _cells(results, name, case, threads=1)}
    pairs = [
        single[key] / cell.ours
        for cell in _cells(results, name, case, threads=2)
        if cell.tokens >= 8 and (key := (cell.columns, cell.rows, cell.tokens, cell.baseline)) in single
    ]
    return _mark(mean(pairs), 1.8)


def _errors(results: Results) -> str:
    lines = []
    for name in CASES:
        cells = [cell for cell in results.cells.values() if cell.case == name]
        if cells:
            worst = max(cells, key=lambda cell: cell.error)
            off = max(cell.from_specification for cell in cells)
            lines.append([name, f"{off:.1e}", f"{worst.error:.1e}", f"{worst.baseline_error:.1e} ({worst.baseline})"])
    title = "## Relative errors, the largest of all settings\n\n"
    return title + _table(["format", "against the specification", "against float64", "the baseline's"], lines)
