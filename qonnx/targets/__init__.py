"""TARGETS: where the result will run, as data. One TOML file a runtime beside this one; add a file to add a target.

Keys are the fields of `Target`; a misspelt key is an error. See ort-cpu.toml for the meaning of each.
"""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
import sys

from qonnx.errors import QonnxError

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
        title: a few words for people.
        opset: [lowest, highest] that the runtime reads; the result gets the highest.
        activation, weight: number types. `activation_types`, `weight_types`: all that the runtime takes.
        bias: "int32" (scale = input scale × weight scale) or "float".
        operators: operator types that run on integers here when weights are constant and inputs quantized.
        outputs: operator types whose output needs Q/DQ as well, for the runtime to fuse them.
        elementwise: operator types quantized only between quantized neighbours (residual Add, …).
        residual_add: "float", "both" or "one-branch": which inputs of a residual Add get Q/DQ.
        shared_scales: data-movement operators whose input and output must have one scale.
        fixed_ranges: operator type -> [low, high] of its output, whatever the data says.
        higher: what to use where 8 bits harm too much, in order: "a16" (16-bit activations), "float".
        reduce_range: "never", "always" or "auto" (7-bit weights where the CPU has no VNNI).
        forbid: rule names checked by `qonnx lint`.
        exclude: rows {op, when} that keep nodes in float; `when` speaks of M, N, K, channels, kernel.
        weight_only: bits -> "dq" (blocked DequantizeLinear) or "matmulnbits", per runtime support.
        weight_only_granularity: "block" or "channel" for weights of 4 bits or fewer.
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


def _tuples(x):
    """Lists from TOML as tuples, so that a Target is hashable data."""
    if isinstance(x, list):
        return tuple(_tuples(y) for y in x)
    return {k: _tuples(v) for k, v in x.items()} if isinstance(x, dict) else x


def read_target(path: pathlib.Path) -> Target:
    """One target from its TOML file; QonnxError names a misspelt or missing key."""
    rows = _tuples(tomllib.loads(path.read_text()))
    known = [field.name for field in dataclasses.fields(Target)]
    for key in rows:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise QonnxError(f"{path.name}: unknown key '{key}'" + (f"; did you mean '{near[0]}'?" if near else ""))
    for key in ("activation", "weight"):
        rows[key] = Numbers(**rows[key])
    return Target(name=path.stem, **rows)


TARGETS: dict[str, Target] = {p.stem: read_target(p) for p in sorted(pathlib.Path(__file__).parent.glob("*.toml"))}


def target(name: str) -> Target:
    """The target of that name; an unknown name is an error that lists the nearest."""
    if name in TARGETS:
        return TARGETS[name]
    near = difflib.get_close_matches(name, TARGETS, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"known targets: {', '.join(TARGETS)}"
    raise QonnxError(f"unknown target '{name}'; {hint}")
