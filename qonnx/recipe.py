"""A Recipe: an ordered list of passes with options, read from TOML. `Recipe.run` is the only loop of the program.

    version = 1
    title = "8-bit weights and activations"
    passes = ["spell", "label", "observe", "assign"]    # "spell" is a group: see GROUPS
    [options.assign]
    headroom = 1.1

A recipe may start from another (`extends = "static-w8a8"`): it inherits its passes and options and changes what it
names. Options are the fields of a pass's dataclass; the fields in INJECTED are filled at run time. Everything is
checked before any work: names (the error names the nearest), types, and that each pass comes after those it `needs`.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir

from qonnx.errors import QonnxError
from qonnx.options import annotations, check_names, checked, nearest
from qonnx.passes import PASSES, SPELLING, Pass
from qonnx.report import StepRecord, timed
from qonnx.settings import Settings
from qonnx.targets import Target

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VERSION = 1
# Names in a recipe that stand for several passes.
GROUPS: dict[str, tuple[str, ...]] = {"spell": tuple(SPELLING)}
# Fields of a pass that `run` fills: a recipe cannot set them.
INJECTED = ("target", "data", "settings", "held_out", "stats_file", "threads", "libraries", "progress")


def _same(value: Any) -> Any:
    return value


def _granularity(per_channel: bool) -> str:
    return "channel" if per_channel else "tensor"


# What the user's settings become: setting -> (pass, option, translation of the value). A setting of this table that
# reaches no pass of the recipe is refused, never ignored. Passes that read `settings` themselves have no option here.
# Where a recipe allocates, `bits` are the average that its layers share (AVERAGE); only there may they be a fraction.
OVERRIDES: dict[str, tuple[tuple[str, str | None, Callable[[Any], Any]], ...]] = {
    "bits": (
        ("assign_weights", "bits", _same),
        *(("assign", option, lambda bits: f"s{bits}") for option in ("weight", "inner_weight")),
        ("assign", "inner_weight_levels", lambda bits: 0),
    ),
    "size": (("allocate", "size", _same),),
    "block_size": (("assign_weights", "block", _same),),
    "symmetric": (("assign_weights", "symmetric", _same),),
    "per_channel": (("assign", "granularity", _granularity), ("assign_weights", "granularity", _granularity)),
    "reduce_range": (("assign", None, _same), ("assign_weights", None, _same)),
    "percentile": (("assign", "percentile", _same),),
    "calibration_method": (
        ("assign", "method", _same),
        ("observe", "histogram", lambda method: method != "min-max"),
    ),
    "opset": (("convert_opset", "opset", _same),),
    "max_float": (("protect", None, _same),),
    "workers": (("solve_weights", None, _same), ("solve_in_turn", None, _same)),
    "solutions": (("solve_weights", None, _same), ("solve_in_turn", None, _same)),
}

AVERAGE = (("allocate", "average", float),)
BUDGET_RECIPE = "weight-mixed-calibrated"  # what a budget is shared out by, without another wish

Progress = Callable[[str, int, int | None], None]  # what is being done, samples done, samples in all if known
_KEYS = ("version", "title", "extends", "passes", "options")
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Step:
    """One pass of a recipe: its key in PASSES and the options that differ from the pass's defaults."""

    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """An ordered list of passes with options. Made by `read_recipe` or `recipe`, which check every name and value."""

    name: str
    title: str
    steps: tuple[Step, ...]

    @property
    def needs_data(self) -> bool:
        """Whether some pass runs the model on calibration data."""
        return any("data" in _fields(step.name) for step in self.steps)

    @property
    def quantizes(self) -> bool:
        """Whether some pass is meant to lose precision."""
        return any(PASSES[step.name].tolerance is None for step in self.steps)

    def check(self) -> None:
        """Raise QonnxError for an unknown pass, option, value, or a pass that comes before one it needs."""
        earlier: set[str] = set()
        where = f"in recipe '{self.name}'"
        for step in self.steps:
            check_names([step.name], [*PASSES, *GROUPS], "pass", where)
            check_names(step.options, _options(step.name), "option", f"of pass '{step.name}' {where}")
            kinds = annotations(PASSES[step.name])
            for option, value in step.options.items():
                checked(value, kinds[option], f"option '{option}' of pass '{step.name}' {where}")
            for needed in getattr(PASSES[step.name], "needs", ()):
                if not earlier & set(needed.split(" | ")):  # "a | b": either will do
                    raise QonnxError(f"pass '{step.name}' needs '{needed}' before it {where}; put it there")
            earlier.add(step.name)

    def override(self, settings: Settings) -> Recipe:
        """The recipe with the user's options in place of its own; an option that no pass takes is a QonnxError."""
        if not settings.keep_io_types:
            raise QonnxError("--no-keep-io-types has no effect: every recipe keeps the types of inputs and outputs")
        changed = [Step(step.name, dict(step.options)) for step in self.steps]
        for name, ways in OVERRIDES.items():
            value = getattr(settings, name)
            if value is None:
                continue
            if name == "bits" and any(step.name == "allocate" for step in changed):
                ways = AVERAGE
            elif name == "bits" and isinstance(value, float):
                raise QonnxError(
                    f"--bits {value:g} is an average, which recipe '{self.name}' does not share out among layers; give "
                    f"a whole number or --recipe {BUDGET_RECIPE}"
                )
            reached = [
                (step, option, translate) for step in changed for one, option, translate in ways if one == step.name
            ]
            if not reached:
                flag = "--" + name.replace("_", "-")
                raise QonnxError(f"{flag} has no effect in recipe '{self.name}'; leave it out or choose another recipe")
            for step, option, translate in reached:
                if option is not None:
                    step.options[option] = translate(value)
        result = dataclasses.replace(self, steps=tuple(changed))
        result.check()
        return result

    def run(
        self,
        model: ir.Model,
        *,
        target: Target,
        data: Any = None,
        settings: Settings | None = None,
        record: Callable[[StepRecord], None] | None = None,
        progress: Progress | None = None,
        **extra: Any,
    ) -> list[StepRecord]:
        """Apply every pass to `model` in place and say what each did and how long it took.

        `data` goes to the passes that observe; `extra` to those that declare fields of these names (`held_out`, …);
        `record` is called with the StepRecord of each pass as soon as it is done; `progress` with the name of the pass,
        the samples it has done and their number, when it starts and after each sample.
        """
        self.check()
        settings = settings or Settings()
        if data is None and settings.stats is None and self.needs_data:
            wanting = next(step.name for step in self.steps if "data" in _fields(step.name))
            raise QonnxError(
                f"recipe '{self.name}' needs calibration data for its pass '{wanting}'; "
                "give --data, or choose a recipe that needs none (qonnx recipes)"
            )
        given = {
            "target": target,
            "data": data,
            "settings": settings,
            "stats_file": _stats_file(settings, data),
            "threads": settings.threads,
            "libraries": settings.custom_op_library,
            **extra,
        }
        samples = len(data) if hasattr(data, "__len__") else None
        records: list[StepRecord] = []
        totals = [None if getattr(PASSES[s.name], "counts_layers", False) else samples for s in self.steps]
        ticks = [
            None if progress is None else functools.partial(_tick, progress, step.name, total)
            for step, total in zip(self.steps, totals, strict=True)
        ]
        # All are built before the first one runs: what a pass refuses, it refuses before any work.
        passes = [_build(step, {**given, "progress": tick}) for step, tick in zip(self.steps, ticks, strict=True)]
        for step, one in zip(self.steps, passes, strict=True):
            if progress is not None:
                progress(step.name, 0, None)
            with timed(step.name) as clock:
                clock.changes = one(model).changes
            _log.info("%s: %d changes in %.2f s", step.name, clock.record.changes, clock.record.seconds)
            records.append(clock.record)
            if record is not None:
                record(clock.record)
        return records

    def to_dict(self) -> dict[str, Any]:
        """As plain data: what a TOML file of this recipe says, without groups and inheritance."""
        options = {step.name: dict(step.options) for step in self.steps if step.options}
        return {
            "version": VERSION,
            "title": self.title,
            "passes": [step.name for step in self.steps],
            "options": options,
        }

    def to_toml(self) -> str:
        """As TOML text that `parse_recipe` reads back to an equal recipe."""
        plain = self.to_dict()
        lines = [f"{key} = {_toml(plain[key])}" for key in ("version", "title", "passes")]
        for name, options in plain["options"].items():
            lines += ["", f"[options.{name}]", *(f"{key} = {_toml(value)}" for key, value in options.items())]
        return "\n".join(lines) + "\n"


def parse_recipe(text: str, name: str) -> Recipe:
    """The recipe that TOML `text` describes, checked; `name` is for messages and reports."""
    try:
        rows = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise QonnxError(f"recipe '{name}' is not TOML ({error})") from error
    check_names(rows, _KEYS, "key", f"in recipe '{name}'")
    if rows.get("version", VERSION) != VERSION:
        raise QonnxError(f"recipe '{name}' has version {rows['version']!r}; this qonnx reads version {VERSION}")
    base = recipe(checked(rows["extends"], str, f"recipe '{name}': extends")) if "extends" in rows else None
    if base is None and "passes" not in rows:
        raise QonnxError(f'recipe \'{name}\' has no passes; give passes = ["spell", …] or extends = "static-w8a8"')
    title = checked(rows.get("title", base.title if base else name), str, f"recipe '{name}': title")
    names = checked(rows["passes"], tuple[str, ...], f"recipe '{name}': passes") if "passes" in rows else None
    tables = checked(rows.get("options", {}), Mapping[str, dict], f"recipe '{name}': options")
    inherited = {step.name: dict(step.options) for step in base.steps} if base else {}
    order = _expanded(names) if names is not None else [step.name for step in base.steps]
    for one in tables:
        if one not in order:
            raise QonnxError(
                f"recipe '{name}' has options for '{one}', which is not among its passes: {', '.join(order)}"
            )
    found = Recipe(name, title, tuple(Step(one, {**inherited.get(one, {}), **tables.get(one, {})}) for one in order))
    found.check()
    return found


def read_recipe(path: pathlib.Path) -> Recipe:
    """The recipe in a TOML file; its name is the file's stem."""
    try:
        return parse_recipe(path.read_text(encoding="utf-8"), path.stem)
    except OSError as error:
        raise QonnxError(f"recipe '{path}' cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise QonnxError(f"recipe '{path}' is not a text file; give a TOML file") from error


def recipe(name: str) -> Recipe:
    """A preset by name, or a recipe from the path of a TOML file."""
    if name in RECIPES:
        return read_recipe(RECIPES[name])
    if name.endswith(".toml"):
        return read_recipe(pathlib.Path(name))
    raise QonnxError(f"unknown recipe '{name}'; {nearest(name, RECIPES)} (or give a .toml file)")


def choose_recipe(settings: Settings, *, has_data: bool, vision_transformer: bool = False) -> Recipe:
    """The recipe that the settings ask for, with the user's options; without a wish, one that shares out a budget if
    there is one, else static 8 bit if there is data and 8-bit weights if there is none (never made-up data)."""
    static = "vit-w8a8-qdq" if vision_transformer and settings.bits is None else "static-w8a8"
    usual = BUDGET_RECIPE if settings.budgeted else static if has_data else "weight-int8"
    return recipe(settings.recipe or usual).override(settings)


# Presets: one TOML file each, in the order in which `qonnx recipes` lists them.
_FOLDER = pathlib.Path(__file__).parent / "recipes"
RECIPES: dict[str, pathlib.Path] = {path.stem: path for path in sorted(_FOLDER.glob("*.toml"))}


def _stats_file(settings: Settings, data: Any) -> str | None:
    """The file that `observe` reads and extends; a dry run with data leaves it alone, because it writes nothing."""
    return None if settings.stats is None or (settings.dry_run and data is not None) else str(settings.stats)


def _tick(progress: Progress, name: str, total: int | None, done: int) -> None:
    progress(name, done, total)


def _expanded(names: tuple[str, ...]) -> list[str]:
    return [one for name in names for one in GROUPS.get(name, (name,))]


def _fields(name: str) -> dict[str, dataclasses.Field]:
    kind: type[Pass] | None = PASSES.get(name)
    return {field.name: field for field in dataclasses.fields(kind)} if kind else {}


def _options(name: str) -> list[str]:
    """Names of the options of a pass that a recipe may set."""
    return [field for field in _fields(name) if field not in INJECTED]


def _build(step: Step, given: Mapping[str, Any]) -> Pass:
    """The pass, with its options and the injected fields that it declares."""
    kinds, fields = annotations(PASSES[step.name]), _fields(step.name)
    options = {name: checked(value, kinds[name], name) for name, value in step.options.items()}
    return PASSES[step.name](**options, **{name: value for name, value in given.items() if name in fields})


def _toml(value: Any) -> str:
    """A TOML value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04X}" for c in value.replace("\\", "\\\\"))
        return '"' + escaped.replace('"', '\\"') + '"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml(key)} = {_toml(one)}" for key, one in value.items()) + " }"
    return repr(value)
