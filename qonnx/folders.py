"""A folder in the style of Hugging Face: models beside the configuration and the tokenizer that they need.

    IN/config.json  IN/tokenizer.json  IN/model.onnx   →   OUT/config.json  OUT/tokenizer.json  OUT/model_quantized.onnx
    IN/onnx/model.onnx  IN/onnx/model_fp16.onnx        →   OUT/onnx/model_quantized.onnx

Every model of the folder is converted, variants of one that is there (model_fp16.onnx, model_q4.onnx) are not. The name
is what Optimum and transformers.js look for; all that is no model and no weights of another framework is copied.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

from qonnx.conversion import Conversion, convert
from qonnx.errors import BoundBroken, QonnxError
from qonnx.model import files, load
from qonnx.settings import Settings

SUFFIX = "_quantized.onnx"
_VARIANTS = ("quantized", "fp16", "int8", "uint8", "q8", "q4", "q4f16", "bnb4", "bf16")
_OTHER_WEIGHTS = ("*.safetensors", "*.h5", "*.msgpack", "*.pt", "*.pth", "*.ckpt", "*.gguf", "pytorch_model*.bin")


@dataclasses.dataclass(frozen=True)
class Folder:
    """What is in a folder, as paths relative to it: models to convert, files to copy, files to leave out."""

    root: pathlib.Path
    models: tuple[pathlib.Path, ...]
    companions: tuple[pathlib.Path, ...]
    left_out: tuple[pathlib.Path, ...]


@dataclasses.dataclass(frozen=True)
class Converted:
    """One model of a folder. `conversion` is None where nothing could be quantized: `refused` says why, and the float
    model was copied so that the folder is complete."""

    model: pathlib.Path
    path: pathlib.Path
    conversion: Conversion | None = None
    refused: str = ""


def read_folder(root: str | os.PathLike) -> Folder:
    """Sort the files of `root`; QonnxError if there is no model among them. Hidden files are not looked at."""
    root = pathlib.Path(root)
    paths = [path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_file()]
    paths = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
    there = [path for path in paths if path.suffix == ".onnx"]
    models = tuple(path for path in there if not _is_variant(path, there))
    if not models:
        raise QonnxError(f"folder '{root}' holds no .onnx file; name the model itself or a folder that holds one")
    weights = {path for path in paths if any(_belongs(path, model) for model in there)}
    weights |= {path for path in paths if any(path.match(pattern) for pattern in _OTHER_WEIGHTS)}
    for model in models:  # external data under names that tell nothing
        inside = {file.resolve() for file in files(load(root / model))}
        weights |= {path for path in paths if (root / path).resolve() in inside}
    companions = tuple(path for path in paths if path not in weights and path not in there)
    left_out = tuple(path for path in paths if path not in companions and path not in models)
    return Folder(root, models, companions, left_out)


def _is_variant(path: pathlib.Path, there: list[pathlib.Path]) -> bool:
    stem, _, variant = path.stem.rpartition("_")
    return variant in _VARIANTS and path.with_name(f"{stem}.onnx") in there


def _belongs(path: pathlib.Path, model: pathlib.Path) -> bool:
    """Whether the name says that the file is a model's data: model.onnx_data, model.onnx.data."""
    return path.parent == model.parent and path != model and path.name.startswith(model.name)


def convert_folder(
    root: str | os.PathLike,
    output: str | os.PathLike,
    *,
    data: Any = None,
    settings: Settings | None = None,
    progress: Callable | None = None,
) -> tuple[Converted, ...]:
    """Convert every model of the folder `root` into the folder `output`, and copy what belongs to them.

    data: what `convert` takes if there is one model; for several, a folder with one entry named after each (STEM.npz,
    STEM.json or a folder STEM); a model without one gets quantized weights only. `output` may be `root` itself: the
    results then stand beside the models. Raises QonnxError before any work if `output` holds other files and `force`
    is not set, if there is no model, or if an option is for one model and there are several.
    """
    settings, folder, output = settings or Settings(), read_folder(root), pathlib.Path(output)
    beside = output.exists() and os.path.samefile(output, folder.root)
    if not beside and output.resolve().is_relative_to(folder.root.resolve()):
        raise QonnxError(f"'{output}' lies inside '{folder.root}'; choose a folder beside it, or the folder itself")
    if not beside and output.exists() and any(output.iterdir()) and not settings.force:
        raise QonnxError(f"folder '{output}' is not empty; pass --force to write into it or choose another with -o")
    if len(folder.models) > 1:
        _one_model_only(settings, len(folder.models))
    fed = {model: _data_of(model, folder, data) for model in folder.models}
    plans = {model: output / model.with_name(model.stem + SUFFIX) for model in folder.models}
    for path in plans.values():
        if path.exists() and not settings.force:
            raise QonnxError(f"'{path}' exists; pass --force to overwrite it or choose another folder with -o")
    if not settings.dry_run:
        for path in {path.parent for path in plans.values()}:
            path.mkdir(parents=True, exist_ok=True)
    rows = []
    for model, path in plans.items():
        one = dataclasses.replace(settings, output=None if settings.dry_run else path)
        try:
            made = convert(folder.root / model, data=fed[model], settings=one, progress=progress)
            rows.append(Converted(model, path, made))
        except BoundBroken as error:
            rows.append(Converted(model, output / model, refused=str(error)))
            if not beside and not settings.dry_run:
                _copy_model(folder.root / model, output / model)
    if not beside and not settings.dry_run:
        for path in folder.companions:
            (output / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder.root / path, output / path)
    return tuple(rows)


def _one_model_only(settings: Settings, count: int) -> None:
    for name in ("size", "stats", "report", "json"):
        if getattr(settings, name) is not None:
            raise QonnxError(f"--{name} is for one model and the folder has {count}; convert them one by one")


def _data_of(model: pathlib.Path, folder: Folder, data: Any) -> Any:
    """The samples of one model: all of `data`, or the entry of that folder that is named after it."""
    if data is None or len(folder.models) == 1:
        return data
    names = ", ".join(f"{path.stem}.npz" for path in folder.models)
    if not isinstance(data, str | os.PathLike) or not pathlib.Path(data).is_dir():
        raise QonnxError(f"the folder has {len(folder.models)} models; give --data a folder with {names}")
    entries = {path.stem if path.is_file() else path.name: path for path in sorted(pathlib.Path(data).iterdir())}
    if not any(path.stem in entries for path in folder.models):
        raise QonnxError(f"folder '{data}' has samples for none of the models; it may hold {names}")
    return entries.get(model.stem)


def _copy_model(source: pathlib.Path, target: pathlib.Path) -> None:
    """The file and its external data, which lies under the same relative names."""
    for file in {source.resolve(), *(path.resolve() for path in files(load(source)))}:
        copy = target.parent / file.relative_to(source.resolve().parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target if file == source.resolve() else copy)
