"""Settings: every option of a conversion, under one name for the command line, recipes and Python.

`--nodes-to-exclude` of the command line is `nodes_to_exclude` here and in `qonnx.convert(model, nodes_to_exclude=[…])`.
None always means "as the recipe and the target say".
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import onnx_ir as ir

from qonnx.byte_sizes import byte_count
from qonnx.errors import QonnxError
from qonnx.options import annotations, check_names, checked
from qonnx.selection import check_patterns, first_match, names

OUTPUT_SUFFIX = ".quant.onnx"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the user asked for.

    Attributes:
        recipe: a preset's name or the path of a TOML file; None: `static-w8a8` with data, `weight-int8` without.
        target: key of TARGETS.
        preprocess: how images become inputs, a key of the presets in qonnx.data; None: raw arrays only.
        samples: how many samples of the data to use at most; None: all.
        seed: of every random choice.
        stats: file of saved calibration statistics; read and extended when it exists, written after observing.
        output: file to write; None: the model is only returned. `force`: overwrite it when it exists.
        dry_run: plan only; nothing is written.
        nodes_to_quantize, nodes_to_exclude: node names; exact, glob or `re:`.
        op_types_to_quantize, op_types_to_exclude: operator types, the same three ways.
        bits: of weights; with a fraction the average over all layers, which then get formats of their own.
        size: bytes of the result at most, a number or a text like "12MB"; layers then get formats of their own.
        block_size: entries of a weight's input axis that share a scale.
        symmetric: zero_point of weights is zero. per_channel: one scale an output channel of a weight.
        reduce_range: 7-bit weights, for CPUs whose 8-bit products saturate.
        calibration_method: how a range is chosen. percentile: kept share of values in percent, for that method.
        opset: of the result. keep_io_types: inputs and outputs keep their types.
        input_shapes: input name -> fixed shape, for models with dynamic shapes.
        min_sqnr: dB that each output must reach against the float model.
        max_drop: largest loss of `metric` against the float model (0.01 is one point of a hundred).
        metric: what max_drop speaks of: "top1" is accuracy on data that carries integers named "label"; None is the
            agreement of the largest output with the float model's.
        max_float: largest share of multiply-adds that may stay in float to hold the bound, 0…1.
        custom_op_library: libraries of other people's operators, for every session that is opened.
        threads: of every session; None: ONNX Runtime decides.
        workers: processes that solve weights.
        solutions: folder where solved weights are kept, so that a conversion that was stopped goes on where it was.
        report: HTML file to write. json: JSON file to write.
        quiet: no table and no progress.
    """

    recipe: str | None = None
    target: str = "ort-cpu"
    preprocess: str | None = None
    samples: int | None = None
    seed: int = 0
    stats: pathlib.Path | None = None
    output: pathlib.Path | None = None
    force: bool = False
    dry_run: bool = False
    nodes_to_quantize: tuple[str, ...] = ()
    nodes_to_exclude: tuple[str, ...] = ()
    op_types_to_quantize: tuple[str, ...] = ()
    op_types_to_exclude: tuple[str, ...] = ()
    bits: int | float | None = None
    size: int | str | None = None
    block_size: int | None = None
    symmetric: bool | None = None
    per_channel: bool | None = None
    reduce_range: bool | None = None
    calibration_method: Literal["min-max", "percentile", "mse", "entropy"] | None = None
    percentile: float | None = None
    opset: int | None = None
    keep_io_types: bool = True
    input_shapes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    min_sqnr: float | None = None
    max_drop: float | None = None
    metric: Literal["top1"] | None = None
    max_float: float | None = None
    custom_op_library: tuple[str, ...] = ()
    threads: int | None = None
    workers: int | None = None
    solutions: pathlib.Path | None = None
    report: pathlib.Path | None = None
    json: pathlib.Path | None = None
    quiet: bool = False

    def __post_init__(self):
        for name, annotation in annotations(Settings).items():
            value = getattr(self, name)
            if isinstance(value, str) and name in _LISTS:  # one name in place of a list of one
                value = (value,)
            object.__setattr__(self, name, checked(value, annotation, f"option '{name}'"))
        if self.bits is not None and self.bits == int(self.bits):
            object.__setattr__(self, "bits", int(self.bits))
        if self.size is not None:
            object.__setattr__(self, "size", byte_count(self.size, "--size"))
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise QonnxError(f"option '{name}' is {value} but must lie between {low:g} and {high:g}")
        if self.percentile is not None and self.calibration_method is None:
            object.__setattr__(self, "calibration_method", "percentile")
        if self.percentile is not None and self.calibration_method != "percentile":
            raise QonnxError(
                f"--percentile has no effect with --calibration-method {self.calibration_method}; leave it out"
            )

    @property
    def budgeted(self) -> bool:
        """Whether bytes or an average of bits are to be shared out among the layers."""
        return self.size is not None or isinstance(self.bits, float)

    def selects(self, node: ir.Node) -> bool:
        """Whether the user's patterns let this node be quantized."""
        return not self.exclusion(node)

    def exclusion(self, node: ir.Node) -> str:
        """Why the user's patterns keep this node in float, in a few words for the ledger; empty when they do not."""
        if pattern := first_match(self.nodes_to_exclude, names(node)):
            return f"--nodes-to-exclude {pattern}"
        if pattern := first_match(self.op_types_to_exclude, [node.op_type]):
            return f"--op-types-to-exclude {pattern}"
        if self.nodes_to_quantize and not first_match(self.nodes_to_quantize, names(node)):
            return "not in --nodes-to-quantize"
        if self.op_types_to_quantize and not first_match(self.op_types_to_quantize, [node.op_type]):
            return "not in --op-types-to-quantize"
        return ""

    def check_selection(self, model: ir.Model) -> None:
        """Raise QonnxError when a pattern or an input name matches nothing in `model`, naming the nearest."""
        everyone = list(_all_nodes(model))
        by_name = sorted({name for node in everyone for name in names(node)})
        by_type = sorted({node.op_type for node in everyone})
        check_patterns("--nodes-to-quantize", self.nodes_to_quantize, by_name)
        check_patterns("--nodes-to-exclude", self.nodes_to_exclude, by_name)
        check_patterns("--op-types-to-quantize", self.op_types_to_quantize, by_type)
        check_patterns("--op-types-to-exclude", self.op_types_to_exclude, by_type)
        inputs = [value.name or "" for value in model.graph.inputs]
        check_names(self.input_shapes, inputs, "input", "in --input-shapes")

    def to_dict(self) -> dict[str, Any]:
        """The options that differ from their defaults, as plain data for the report."""
        changed = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            default = field.default_factory() if field.default is dataclasses.MISSING else field.default
            if value != default:
                changed[field.name] = str(value) if isinstance(value, pathlib.Path) else value
        return changed


def settings_of(options: Mapping[str, Any]) -> Settings:
    """Settings from keyword arguments; a misspelt name is a QonnxError that names the nearest."""
    check_names(options, [field.name for field in dataclasses.fields(Settings)], "option")
    return Settings(**options)


def _all_nodes(model: ir.Model):
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


_LISTS = tuple(name for name, kind in Settings.__annotations__.items() if kind == "tuple[str, ...]")
_BOUNDS = {
    "samples": (1, float("inf")),
    "bits": (1, 16),
    "block_size": (2, 2**20),
    "percentile": (50, 100),
    "opset": (13, 25),
    "max_drop": (0, 1e9),
    "max_float": (0, 1),
    "threads": (1, 1024),
    "workers": (1, 1024),
}
