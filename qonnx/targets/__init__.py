"""TARGETS: where the result will run, as data. One TOML file a runtime beside this one; add a file to add a target.

Keys are the fields of `Target`; a misspelt key is an error. See ort-cpu.toml for the meaning of each.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys

from qonnx.errors import QonnxError
from qonnx.options import annotations, check_names, checked, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Number type of one kind of tensor: a key of FORMATS and how its scales are shared."""

    type: str
    symmetric: bool
    granularity: str = "tensor"
    narrow: bool = False


@dataclasses.dataclass(frozen=True)
class Target:
    """What one runtime demands of a quantized graph.

    Attributes:
        name: key of TARGETS, the file's stem.
        title: a few words for people. advice: one sentence on how to run the result there.
        opset: [lowest, highest] that the runtime reads; the result gets the highest.
        activation, weight: number types. `activation_types`, `weight_types`: all that the runtime takes.
        bias: "int32" (scale = input scale × weight scale) or "float".
        operators: operator types that run on integers here when weights are constant and inputs quantized.
        outputs: operator types whose output needs Q/DQ as well, for the runtime to fuse them.
        node_units: every operator that is listed anywhere here needs Q/DQ on all its inputs and outputs.
        elementwise: operator types without weights that run on integers; without node units only between neighbours
            that do.
        residual_add: "float", "both" or "one-branch": which inputs of a residual Add get Q/DQ.
        shared_scales: data-movement operators whose input and output must have one scale.
        fixed_ranges: operator type -> [low, high] of its output, whatever the data says.
        higher: what to use where 8 bits harm too much, in order: "a16" (16-bit activations), "float".
        reduce_range: "never", "always" or "auto" (7-bit weights where the CPU has no VNNI).
        forbid: rule names checked by `qonnx lint`.
        exclude: rows {op, when} that keep nodes in float; `when` is a condition of qonnx.targets.conditions.
        tensor_only: operator types whose weights take one scale for the whole tensor.
        fixed_scales: "Operator.type" -> (scale, zero_point) that its output of that number type must have.
        smallest_range: least width (high − low) of a quantized range.
        weight_only: bits -> "dq" (blocked DequantizeLinear), "matmulnbits", or "lowbit" (our MatMulLowBit, for bits
            that no type of ONNX has), per runtime support.
        weight_only_granularity: "block" or "channel" for weights of 4 bits or fewer.
        tables: "dq", or "rows" where a DequantizeLinear in front of a Gather would decode the whole table at every run:
            its rows are then gathered as 8-bit codes.
    """

    name: str
    title: str
    opset: tuple[int, int]
    activation: Numbers
    weight: Numbers
    activation_types: tuple[str, ...]
    weight_types: tuple[str, ...]
    bias: str
    operators: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    node_units: bool = False
    elementwise: tuple[str, ...] = ()
    residual_add: str = "float"
    shared_scales: tuple[str, ...] = ()
    fixed_ranges: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    higher: tuple[str, ...] = ("float",)
    reduce_range: str = "never"
    forbid: tuple[str, ...] = ()
    exclude: tuple[dict, ...] = ()
    weight_only: dict[str, str] = dataclasses.field(default_factory=dict)
    weight_only_granularity: str = "block"
    tables: str = "dq"
    tensor_only: tuple[str, ...] = ()
    fixed_scales: dict[str, tuple[float, int]] = dataclasses.field(default_factory=dict)
    smallest_range: float = 0.0
    advice: str = ""

    @property
    def standard_only(self) -> bool:
        """Whether the runtime reads nothing but operators of the standard."""
        return "contrib-operator" in self.forbid

    def demand_library(self, what: str, remedy: str) -> None:
        """Raise QonnxError if `what` becomes operators of ai.qonnx, which this runtime does not read."""
        if self.standard_only:
            raise QonnxError(f"target '{self.name}' reads standard operators only, which {what} is not; {remedy}")


def read_target(path: pathlib.Path) -> Target:
    """One target from its TOML file; QonnxError names a misspelt or missing key and a value of the wrong type."""
    rows = tomllib.loads(path.read_text())
    check_names(rows, [field.name for field in dataclasses.fields(Target)], "key", f"in {path.name}")
    for key in ("activation", "weight"):
        rows[key] = Numbers(**_fields(rows.get(key, {}), Numbers, f"under '{key}' in {path.name}"))
    return Target(name=path.stem, **_fields(rows, Target, f"in {path.name}", given=("name",)))


def _fields(rows: dict, kind: type, where: str, given: tuple[str, ...] = ()) -> dict:
    """The rows of a TOML table as keyword arguments of the dataclass `kind`."""
    fields = {field.name: field for field in dataclasses.fields(kind) if field.name not in given}
    check_names(rows, fields, "key", where)
    for name, field in fields.items():
        if name not in rows and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise QonnxError(f"key '{name}' is missing {where}")
    kinds = annotations(kind)
    return {name: checked(value, kinds[name], f"key '{name}' {where}") for name, value in rows.items()}


TARGETS: dict[str, Target] = {p.stem: read_target(p) for p in sorted(pathlib.Path(__file__).parent.glob("*.toml"))}


def target(name: str) -> Target:
    """The target of that name; an unknown name is an error that lists the nearest."""
    if name in TARGETS:
        return TARGETS[name]
    raise QonnxError(f"unknown target '{name}'; {nearest(name, TARGETS)}")
