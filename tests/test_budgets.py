"""Budgets from the command line and from Python: --size, --bits with a fraction, bounds, and the Pareto front."""

import itertools
import json
import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models import digits
from qonnx import convert
from qonnx.__main__ import main
from qonnx.byte_sizes import byte_count
from qonnx.errors import QonnxError
from qonnx.recipe import BUDGET_RECIPE, choose_recipe
from qonnx.settings import Settings

NET = """<ir_version: 10, opset_import: ["": 21]> g (float[N, 128] x) => (float[N, 64] y) {
    a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)  d = Relu(c)  y = MatMul(d, w3) }"""
SHAPES = {"w1": (128, 256), "w2": (256, 256), "w3": (256, 64)}
WEIGHTS = sum(a * b for a, b in SHAPES.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place, draw = tmp_path_factory.mktemp("budgets"), np.random.default_rng(0)
    model = ir.from_onnx_text(NET)
    for node in model.graph:
        for index, value in enumerate(node.inputs):
            if value.name in SHAPES:
                data = draw.normal(size=SHAPES[value.name]).astype(np.float32) / SHAPES[value.name][0] ** 0.5
                weight = ir.Value(name=value.name, const_value=ir.tensor(data, name=value.name))
                weight.shape, weight.type = ir.Shape(data.shape), ir.TensorType(ir.DataType.FLOAT)
                model.graph.register_initializer(weight)
                node.replace_input_with(index, weight)
    ir.save(model, place / "model.onnx")
    np.savez(place / "data.npz", x=draw.normal(size=(12, 40, 128)).astype(np.float32))
    return place


def converted(folder, tmp_path, **options):
    data = [{"x": x} for x in np.load(folder / "data.npz")["x"]]
    return convert(str(folder / "model.onnx"), data=data, output=tmp_path / "q.onnx", force=True, **options)


# Byte counts


@pytest.mark.parametrize(
    ("text", "count"),
    [("12MB", 12_000_000), ("1.5 GiB", 3 * 2**29), ("900kb", 900_000), ("64", 64), (".5kB", 500), (77, 77)],
)
def test_sizes_are_read(text, count):
    assert byte_count(text, "--size") == count


@pytest.mark.parametrize("text", ["", "MB", "12 MX", "-3MB", "1e6", "0", "0.2B"])
def test_what_is_no_size_is_said(text):
    with pytest.raises(QonnxError, match="--size"):
        byte_count(text, "--size")


# Which recipe, and what reaches it


def test_a_budget_chooses_the_recipe_that_shares_it_out():
    for settings in (Settings(size="3MB"), Settings(bits=2.5)):
        chosen = choose_recipe(settings, has_data=True)
        assert chosen.name == BUDGET_RECIPE
    assert choose_recipe(Settings(bits=2.5), has_data=True).to_dict()["options"]["allocate"] == {"average": 2.5}
    assert choose_recipe(Settings(bits=4.0), has_data=False).name == "weight-int8"
    assert Settings(bits=4.0).bits == 4 and isinstance(Settings(bits=4.0).bits, int)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "10kB"], "smallest possible"),
        (["--size", "12 parsecs"], "is no size"),
        (["--size", "3MB", "--recipe", "weight-int4"], "--size has no effect"),
        (["--bits", "1.01"], "smallest possible average"),
        (["--bits", "2.5", "--recipe", "weight-int4"], "--bits 2.5 is an average"),
    ],
)
def test_budgets_that_cannot_be_held_are_one_sentence(folder, tmp_path, capsys, words, said):
    model, data = str(folder / "model.onnx"), str(folder / "data.npz")
    output = tmp_path / "q.onnx"
    assert main(["convert", model, "--data", data, "-o", str(output), "--quiet", *words]) == 2
    sentence = capsys.readouterr().err
    assert said in sentence and sentence.count("\n") == 1
    assert not output.exists()


def test_a_budget_needs_samples(folder, capsys):
    assert main(["convert", str(folder / "model.onnx"), "--bits", "2.5", "--dry-run"]) == 2
    assert "calibration data" in capsys.readouterr().err


# What is held


@pytest.mark.parametrize("size", [75_000, 95_000, 130_000])
def test_the_file_is_not_larger_than_asked_nor_much_smaller(folder, tmp_path, size):
    made = converted(folder, tmp_path, size=size)
    assert 0.85 * size <= made.path.stat().st_size <= size
    assert not made.report.broken
    onnx.checker.check_model(str(made.path), full_check=True)


@pytest.mark.parametrize("bits", [2.5, 3.3])
def test_the_average_is_held_by_what_the_file_stores(folder, tmp_path, bits):
    made = converted(folder, tmp_path, bits=bits)
    stored = sum(value.const_value.nbytes for value in made.model.graph.initializers.values())
    assert 0.8 * bits * WEIGHTS / 8 <= stored <= bits * WEIGHTS / 8 + 4096  # and biases
    (sentence,) = (w for w in made.report.warnings if "predicted" in w)
    predicted, measured = (float(x) for x in re.findall(r"(-?[\d.]+) dB", sentence))
    assert abs(predicted - measured) < 3  # harms add up while they are small


def test_more_bytes_are_less_error(folder, tmp_path):
    figures = []
    for size in (70_000, 95_000, 130_000):
        comparison = converted(folder, tmp_path, size=size).report.comparison
        figures.append(comparison.worst_output.figures.sqnr_db)
    assert figures[0] + 3 < figures[1] < figures[2] - 3


def test_bounds_are_held_by_the_smallest_that_do(folder, tmp_path):
    sizes = []
    for bound in ({"min_sqnr": 15.0}, {"min_sqnr": 25.0}):
        made = converted(folder, tmp_path, recipe=BUDGET_RECIPE, **bound)
        assert not made.report.broken
        sizes.append(made.path.stat().st_size)
    assert sizes[0] < sizes[1]
    assert not converted(folder, tmp_path, recipe=BUDGET_RECIPE, max_drop=0.1).report.broken


# The front


def test_the_front_is_a_table_a_page_and_data(folder, tmp_path, capsys):
    page, data = tmp_path / "front.html", tmp_path / "front.json"
    words = [str(folder / "model.onnx"), "--data", str(folder / "data.npz"), "--points", "5"]
    assert main(["pareto", *words, "--report", str(page), "--json", str(data)]) == 0
    assert "bits a weight" in capsys.readouterr().out
    points = json.loads(data.read_text())["points"]
    assert 3 <= len(points) <= 5
    for smaller, larger in itertools.pairwise(points):
        assert smaller["size"] < larger["size"] and smaller["predicted"] < larger["predicted"]
    text = page.read_text()
    assert text.count("<circle") >= 2 * len(points) - 2 and "<polyline" in text
    assert not re.search(r"(src|href)\s*=|url\(|@import", text)  # nothing from a network
    assert main(["pareto", *words, "--report", str(page)]) == 2  # exists
    assert "--force" in capsys.readouterr().err


def test_a_front_wants_data_and_a_recipe_that_shares_out(folder, capsys):
    model, data = str(folder / "model.onnx"), str(folder / "data.npz")
    assert main(["pareto", model]) == 2 and "--data" in capsys.readouterr().err
    assert main(["pareto", model, "--data", data, "--recipe", "weight-int4"]) == 2
    assert "does not share out bits" in capsys.readouterr().err
    assert main(["pareto", model, "--data", data, "--points", "1"]) == 2


def test_an_average_that_only_the_recipe_asks_for_yields_to_small_layers(tmp_path):
    """Scales and books of a layer of few weights take more than its codes."""
    images, _ = digits.samples("calibration", 4)
    options = {"data": [{digits.INPUT: image[None]} for image in images], "threads": 1}
    with pytest.raises(QonnxError, match="below the smallest possible average"):
        convert(str(digits.VIT), recipe=BUDGET_RECIPE, bits=1.5, **options)
    low = tmp_path / "low.toml"
    low.write_text(f'extends = "{BUDGET_RECIPE}"\n[options.allocate]\naverage = 1.5\n', encoding="utf-8")
    conversion = convert(str(digits.VIT), recipe=str(low), **options)
    assert any("the smallest formats were taken" in warning for warning in conversion.report.warnings)
