"""Argument parsing: dashes or underscores, no abbreviations, and errors that name the nearest option."""

from __future__ import annotations

import argparse
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from qonnx.errors import QonnxError
from qonnx.options import annotations, nearest
from qonnx.settings import Settings

# Every field of Settings as an option of `convert`: group -> field -> (what stands for its value, help).
OPTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "where it goes": {
        "output": ("FILE", "file to write (default: MODEL.quant.onnx in the current folder)"),
        "force": ("", "overwrite the output when it exists"),
        "dry_run": ("", "print the plan and write nothing"),
        "report": ("FILE", "also write the report as one HTML page"),
        "json": ("FILE", "also write the report as JSON"),
        "quiet": ("", "no tables and no progress: errors only"),
    },
    "how it is quantized": {
        "target": ("NAME", "runtime that the result is for (default: ort-cpu; see 'qonnx targets')"),
        "recipe": ("NAME", "preset or .toml file (default: static-w8a8 with data, weight-int8 without)"),
        "bits": ("N", "bits of weights; with a fraction, as in 2.5, their average over all layers"),
        "size": ("BYTES", "the file is to be at most this large, as in 12MB: formats are chosen layer by layer"),
        "block_size": ("N", "weights that share a scale, along the axis that is summed over"),
        "symmetric": ("", "zero points of weights are zero"),
        "per_channel": ("", "one scale for each output channel of a weight, or one for the tensor"),
        "reduce_range": ("", "7-bit weights, for CPUs whose 8-bit products saturate"),
        "opset": ("N", "opset of the result"),
        "keep_io_types": ("", "inputs and outputs keep their types (the default)"),
        "input_shapes": ("NAME:1x3x224x224", "fix dynamic input shapes"),
    },
    "data and ranges": {
        "preprocess": ("NAME", "how images become inputs"),
        "samples": ("N", "use at most this many samples"),
        "seed": ("N", "seed of every random choice (default: 0)"),
        "calibration_method": ("METHOD", "how ranges are chosen: min-max, percentile, mse or entropy"),
        "percentile": ("P", "share of values kept, in percent, for the method 'percentile'"),
        "stats": ("FILE", "statistics to start from; what this run observes is added to them"),
    },
    "which nodes": {
        "nodes_to_quantize": ("NAME", "only these (exact name, glob, or re:EXPRESSION)"),
        "nodes_to_exclude": ("NAME", "all but these"),
        "op_types_to_quantize": ("TYPE", "only operators of these types"),
        "op_types_to_exclude": ("TYPE", "all but operators of these types"),
    },
    "how good it must be": {
        "min_sqnr": ("DB", "signal to quantization noise that every output must reach"),
        "max_drop": ("X", "largest loss of the metric against the float model"),
        "metric": ("NAME", "top1: accuracy on data with labels (default: agreement with the float model)"),
        "max_float": ("SHARE", "largest share of multiply-adds kept in float for it, 0 to 1"),
    },
    "how it runs": {
        "threads": ("N", "threads of every session"),
        "workers": ("N", "processes that solve weights"),
        "solutions": ("FOLDER", "keep solved weights there: a run that was stopped goes on where it was"),
        "custom_op_library": ("FILE", "libraries with operators that the model uses"),
    },
}
_SHORT = {"output": "-o", "force": "-f"}
_SWITCHES = ("force", "dry_run", "quiet")  # plain switches; other booleans also have a --no- form


class _Help(argparse.RawDescriptionHelpFormatter):
    """Wide enough that most options keep one line."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=40, width=min(120, shutil.get_terminal_size((120, 40)).columns))


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, whose errors are QonnxError."""

    def __init__(self, verb: str, sentence: str, example: str, usage: str = "[options]"):
        super().__init__(
            prog=f"qonnx {verb}",
            usage=f"qonnx {verb} {usage}",
            description=f"{sentence[0].upper()}{sentence[1:]}.",
            epilog=example,
            formatter_class=_Help,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise QonnxError(f"{message}; see '{self.prog} --help'")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse `argv`; an unknown option is an error that names the nearest."""
        options, unknown = self.parse_known_args([_dashes(word) for word in argv])
        for word in unknown:
            flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
            if word.startswith("-"):
                raise QonnxError(f"unknown option '{word.split('=')[0]}'; {nearest(word.split('=')[0], flags)}")
            raise QonnxError(f"unexpected argument '{word}'; see '{self.prog} --help'")
        return options


def add_settings(parser: Parser, names: Sequence[str] | None = None) -> None:
    """Add the options of OPTIONS, or of those only whose field is in `names`; absent options leave no trace."""
    kinds = annotations(Settings)
    for title, rows in OPTIONS.items():
        chosen = {name: row for name, row in rows.items() if names is None or name in names}
        group = parser.add_argument_group(title) if chosen else None
        for name, (metavar, text) in chosen.items():
            flags = [*([_SHORT[name]] if name in _SHORT else []), "--" + name.replace("_", "-")]
            group.add_argument(
                *flags, dest=name, help=text, default=argparse.SUPPRESS, **_reading(name, metavar, kinds)
            )


def given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of Settings that the user gave, as keyword arguments."""
    given = {name: value for name, value in vars(options).items() if name in annotations(Settings)}
    if "input_shapes" in given:
        given["input_shapes"] = dict(shape_of(word) for word in given["input_shapes"])
    return given


def shape_of(word: str) -> tuple[str, tuple[int, ...]]:
    """`x:1x3x224x224` (or with commas) as a name and a shape."""
    name, _, sizes = word.rpartition(":")
    try:
        shape = tuple(int(size) for size in sizes.replace(",", "x").split("x"))
    except ValueError as error:
        raise QonnxError(f"--input-shapes '{word}' is not of the form NAME:1x3x224x224") from error
    if not name or min(shape) < 1:
        raise QonnxError(f"--input-shapes '{word}' is not of the form NAME:1x3x224x224")
    return name, shape


def add_data(parser: Parser) -> None:
    """The option --data, for the verbs that run a model."""
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="samples: .npz, .npy, a folder of images or of test_data_set_*, or Polygraphy JSON",
    )


def _reading(name: str, metavar: str, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of add_argument that read a value of the field's type."""
    kind = str(kinds[name])
    if name in _SWITCHES:
        return {"action": "store_true"}
    if "bool" in kind:
        return {"action": argparse.BooleanOptionalAction}
    if name == "input_shapes" or "tuple[str" in kind:
        return {"nargs": "+", "action": "extend", "metavar": metavar}
    if "| str" in kind:  # a number or a text: read where it is checked
        return {"metavar": metavar}
    reader = pathlib.Path if "Path" in kind else float if "float" in kind else int if "int" in kind else str
    return {"type": reader, "metavar": metavar}


def _dashes(word: str) -> str:
    """`--min_sqnr=3` as `--min-sqnr=3`."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value
