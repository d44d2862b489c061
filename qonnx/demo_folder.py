"""A static folder that shows a float and a quantized model side by side in the browser, without any network.

    index.html *.js demo.css      the page          models/   both files        samples/   inputs to start with
    config.json                   what it shows     ort/      script and WebAssembly of the npm package onnxruntime-web

Any static web server will do; one that sends the two headers of cross-origin isolation gives it threads.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from qonnx.data import inputs_of
from qonnx.demo_text import TextInput, text_input
from qonnx.errors import QonnxError
from qonnx.exports import written_as
from qonnx.model import load
from qonnx.preprocess import Preprocess
from qonnx.runtime import session
from qonnx.runtimes import node_modules as find_modules
from qonnx.runtimes.browser import browsing, served

_PAGE = pathlib.Path(__file__).with_name("demo_page")
_SCRIPTS = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
SAMPLES = 4
VIEWS = ("map", "classes", "text", "next", "numbers")
PATIENCE = 300  # seconds for a page to show its first result


@dataclasses.dataclass(frozen=True)
class Demo:
    """`folder` and the bytes of everything in it; `view`: how outputs are shown."""

    folder: pathlib.Path
    bytes: int
    view: str


def write_demo(
    reference: str | os.PathLike,
    result: str | os.PathLike,
    data: Iterable[Mapping[str, np.ndarray]],
    folder: str | os.PathLike,
    *,
    preprocess: Preprocess | None = None,
    labels: tuple[str, ...] = (),
    vocabulary: tuple[str, ...] = (),
    node_modules: pathlib.Path | None = None,
    force: bool = False,
) -> Demo:
    """Write the folder. `preprocess` lets images of the visitor in; `labels` are names of classes or characters;
    `vocabulary` are the tokens of a model that reads text (qonnx.demo_text).

    Raises QonnxError if the models read neither one float32 input nor token ids, if the npm package is not found, or if
    the folder exists without `force`.
    """
    folder, scripts = pathlib.Path(folder), _scripts(node_modules)
    if folder.exists() and not folder.is_dir():
        raise QonnxError(f"'{folder}' is a file; choose a folder with -o")
    if folder.exists() and any(folder.iterdir()) and not force:
        raise QonnxError(f"'{folder}' is not empty; pass --force to overwrite it or choose another with -o")
    original, model = load(reference), load(result)
    inputs, output = inputs_of(model), model.graph.outputs[0].name
    _refuse_strangers(original, model)
    text = text_input(inputs, vocabulary)
    if text is None and (len(inputs) != 1 or inputs[0].dtype != np.float32):
        raise QonnxError(f"the page feeds one float32 input or token ids; the model has {', '.join(map(str, inputs))}")
    samples = list(itertools.islice(data, SAMPLES))
    if not samples:
        raise QonnxError("the page starts with samples; pass at least one with --data")
    feed = {one.name: np.asarray(samples[0][one.name], one.dtype) for one in inputs}
    (example,) = session(result).run([output], feed)
    labels = labels or _characters(original) or _characters(model)
    view = _view(example, labels, vocabulary if text else ())
    _copy_page(folder, scripts)
    one = inputs[0]
    config = {
        "title": f"{pathlib.Path(reference).stem}, float and quantized",
        "models": _write_models(folder, reference, result),
        "input": one.name,
        "text": None if text is None else dataclasses.asdict(text),
        "output": output,
        "samples": [
            _said(sample, text) if text else _pixels(sample[one.name], folder / "samples", index)
            for index, sample in enumerate(samples)
        ],
        "view": view,
        "labels": list(labels),
        "layout": preprocess.layout if preprocess else "nchw",
        "color": preprocess.color if preprocess else "rgb",
        "prepare": None if preprocess is None else _prepare(preprocess, one.shape, np.shape(samples[0][one.name])),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8")
    return Demo(folder, sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()), view)


def photograph(folder: pathlib.Path, picture: pathlib.Path, *, width: int = 1000, height: int = 800) -> dict:
    """Open the demo in a headless browser, wait for its first result, save a picture; what the page measured.

    Raises QonnxError if there is no browser, or with the page's own words if it fails.
    """
    frame = (
        "<!doctype html><meta charset=utf-8><style>body{margin:0}iframe{border:0;width:100vw;height:100vh}</style>"
        '<iframe id=page src="/demo/index.html"></iframe><img src="/hold" style="display:none"><script>'
        "const look = setInterval(() => { const page = document.getElementById('page');"
        "if (page.contentDocument?.documentElement.dataset.state !== 'done') return; clearInterval(look);"
        "fetch('/post/result.json', {method: 'POST', body: JSON.stringify(page.contentWindow.results)}); }, 100)"
        "</script>"
    )
    scratch = picture.parent / f".{picture.name}.d"
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        (scratch / "frame.html").write_text(frame)
        picture.unlink(missing_ok=True)
        options = (f"--screenshot={picture.resolve()}", f"--window-size={width},{height}", "--hide-scrollbars")
        with (
            served({"demo": folder, "frame": scratch, "post": scratch}) as (address, done),
            browsing(f"{address}/frame/frame.html", *options) as process,
        ):
            if not done.wait(PATIENCE):
                raise QonnxError(f"the page showed no result within {PATIENCE} s")
            process.wait(PATIENCE)
        found = json.loads((scratch / "result.json").read_text())
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if "error" in found:
        raise QonnxError(f"the page failed: {found['error']}")
    return found


def _refuse_strangers(original: ir.Model, model: ir.Model) -> None:
    """The page feeds both models alike and compares the first output: QonnxError unless their names are the same."""
    inputs = {one.name for one in inputs_of(model)} - {one.name for one in inputs_of(original)}
    outputs = {model.graph.outputs[0].name} - {value.name for value in original.graph.outputs}
    for what, strange in (("input", inputs), ("output", outputs)):
        if strange:
            raise QonnxError(f"the float model has no {what} '{min(strange)}'; the page feeds and reads both alike")


def _copy_page(folder: pathlib.Path, scripts: pathlib.Path) -> None:
    """The page's own files, and script and WebAssembly of the npm package."""
    for part in ("models", "samples", "ort"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for file in _PAGE.iterdir():
        shutil.copyfile(file, folder / file.name)
    for name in _SCRIPTS:
        shutil.copyfile(scripts / name, folder / "ort" / name)


def _write_models(folder: pathlib.Path, reference: str | os.PathLike, result: str | os.PathLike) -> list[dict]:
    """Both models, as the browser reads them; what the page says of them."""
    rows = []
    for name, source in (("Float", reference), ("Quantized", result)):
        file = folder / "models" / f"{name.lower()}.onnx"
        file.unlink(missing_ok=True)
        written_as(source, "functions", file)
        rows.append({"name": name, "file": f"models/{file.name}", "bytes": file.stat().st_size})
    return rows


def _pixels(data: np.ndarray, folder: pathlib.Path, index: int) -> dict:
    """A sample of numbers: a raw file, and where it is."""
    np.ascontiguousarray(data, "<f4").tofile(folder / f"{index}.bin")
    return {"file": f"samples/{index}.bin", "shape": list(np.shape(data))}


def _said(sample: Mapping[str, np.ndarray], text: TextInput) -> dict:
    """A sample of token ids, as the text that it says."""
    return {"text": text.decode([int(i) for i in np.reshape(sample[text.ids], -1)])}


def _scripts(given: pathlib.Path | None) -> pathlib.Path:
    modules = find_modules(given)
    found = modules / "onnxruntime-web" / "dist" if modules else None
    if found is None or not all((found / name).is_file() for name in _SCRIPTS):
        raise QonnxError(
            "the npm package onnxruntime-web is not found; npm install onnxruntime-web, then name its node_modules "
            "folder with --node-modules or QONNX_NODE_MODULES"
        )
    return found


def _characters(model: ir.Model) -> tuple[str, ...]:
    """Characters of a text recogniser, from the metadata that PaddleOCR's models carry: blank, characters, space."""
    text = model.metadata_props.get("character", "")
    return ("", *text.rstrip("\n").split("\n"), " ") if text else ()


def _view(example: np.ndarray, labels: tuple[str, ...], vocabulary: tuple[str, ...] = ()) -> str:
    """How an output is shown: by its shape."""
    if vocabulary and example.ndim == 3 and example.shape[-1] == len(vocabulary):
        return "next"
    if example.ndim == 3 and labels and example.shape[-1] == len(labels):
        return "text"
    if example.ndim >= 3 and min(example.shape[-2:]) > 1 and example.size == np.prod(example.shape[-2:]):
        return "map"
    return "classes" if example.ndim == 2 and example.shape[0] == 1 and example.shape[1] > 1 else "numbers"


def _prepare(preprocess: Preprocess, shape: tuple[int | None, ...] | None, example: tuple[int, ...]) -> dict:
    height, width = preprocess.spatial(shape or (None,) * 4)
    like = preprocess.spatial(example)
    free_width = width is None and height is not None  # a line of text: as long as it is
    return {
        "height": height or like[0],
        "width": width or (None if free_width else like[1]),
        "scale": preprocess.scale,
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
    }
