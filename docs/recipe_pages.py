"""Writes docs/recipes/: one page a recipe, with what it does and what it costs on the two classifiers of digits.

    python -m docs.recipe_pages [RECIPE …]

Accuracy is over 360 images that no model or conversion has seen. The large models are in models/results/.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile

import onnx_ir as ir

from models import digits
from qonnx.cli.recipes import first_line
from qonnx.conversion import convert
from qonnx.differences import Difference
from qonnx.errors import QonnxError
from qonnx.recipe import RECIPES, recipe
from qonnx.runtime import session
from qonnx.wording import decibel, percent, ratio

FOLDER = pathlib.Path(__file__).parent / "recipes"
SAMPLES = 64
MODELS = {"digits CNN": digits.CNN, "digits ViT": digits.VIT}


def measured(name: str, model: pathlib.Path) -> list[str]:
    """Cells of a table: accuracy before and after, SQNR of the logits, size; or why there is none."""
    one, (images, _) = recipe(name), digits.samples("calibration", SAMPLES)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "result.onnx"
        data = [{digits.INPUT: image[None]} for image in images] if one.needs_data else None
        source = pathlib.Path(folder) / "float.onnx"
        ir.save(ir.load(model), source)  # without training metadata beside the weights
        try:
            convert(model, data=data, recipe=name, output=file, quiet=True, threads=1)
        except QonnxError as error:
            return ["", "", "", str(error).split(";")[0]]
        evaluation, _ = digits.samples("evaluation")
        difference = Difference()
        pair = [session(path, threads=1).run([digits.OUTPUT], {digits.INPUT: evaluation})[0] for path in (model, file)]
        difference.add(*pair)
        share = file.stat().st_size / source.stat().st_size
        accuracies = [percent(digits.accuracy(path)) for path in (model, file)]
    return [*accuracies, decibel(difference.figures.sqnr_db), ratio(share)]


def page(name: str) -> str:
    one, path = recipe(name), RECIPES[name]
    comment = " ".join(line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#"))
    data = " --data data.npz" if one.needs_data else ""
    lines = [f"# {name}", "", f"{one.title[:1].upper()}{one.title[1:]}.", "", comment, ""]
    if name != "read-quantized":
        lines += ["```bash", f"qonnx convert model.onnx{data} --recipe {name} -o model.{name}.onnx", "```", ""]
        lines += ["| model | accuracy, float | quantized | SQNR of logits | file |", "| --- | --- | --- | --- | --- |"]
        lines += [f"| {title} | {' | '.join(measured(name, model))} |" for title, model in MODELS.items()]
        lines += ["", f"{SAMPLES} calibration images, 360 for evaluation; by `python -m docs.recipe_pages`.", ""]
    lines += ["| pass | what it does |", "| --- | --- |"]
    lines += [f"| {step.name} | {first_line(step.name)} |" for step in one.steps]
    return "\n".join(lines) + "\n"


def main(names: list[str]) -> int:
    FOLDER.mkdir(exist_ok=True)
    for name in names or RECIPES:
        (FOLDER / f"{name}.md").write_text(page(name), encoding="utf-8")
        print(name, file=sys.stderr, flush=True)
    there = [name for name in RECIPES if (FOLDER / f"{name}.md").exists()]
    rows = [f"| [{name}]({name}.md) | {recipe(name).title} |" for name in there]
    (FOLDER / "index.md").write_text("\n".join(["# Recipes", "", "| recipe | makes |", "| --- | --- |", *rows]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
