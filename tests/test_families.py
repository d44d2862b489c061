"""Vision transformers are told from what only looks like them, and get the recipe made for them."""

import pytest

from models import digits, real
from models.tiny import build
from qonnx.conversion import convert
from qonnx.families import is_vision_transformer
from qonnx.model import load
from qonnx.recipe import choose_recipe, recipe
from qonnx.settings import Settings

HEAD = '<ir_version: 10, opset_import: ["": 21]> g '
STEM = "p = Conv<kernel_shape = [{k}, {k}], strides = [{s}, {s}]>(x, w)"
ATTENTION = "s{i} = Softmax<axis = -1>({x})  m{i} = {moved}  a{i} = MatMul(m{i}, v)"


def network(kernel=4, stride=4, blocks=2, before="", moved="Identity(s{i})") -> str:
    lines, x = [STEM.format(k=kernel, s=stride).replace("(x,", "(n," if before else "(x,")], "p"
    for i in range(blocks):
        lines.append(ATTENTION.format(i=i, x=x, moved=moved.format(i=i)))
        x = f"a{i}"
    body = "\n".join([before, *lines, f"y = Identity({x})"])
    weights = f"float[8,3,{kernel},{kernel}] w, float[8,8] v, float[1,3,1,1] mean"
    return f"{HEAD}(float[1,3,32,32] x, {weights}) => (float[1,8,8,8] y) {{\n{body}\n}}"


@pytest.mark.parametrize(
    ("options", "is_one"),
    [
        ({}, True),
        ({"before": "n = Sub(x, mean)"}, True),
        ({"before": "c = Sub(x, mean)  n = Mul(c, mean)"}, True),
        ({"moved": "Mul(s{i}, s{i})"}, True),
        ({"kernel": 7, "stride": 4}, False),  # patches that overlap: a convolutional stem
        ({"kernel": 1, "stride": 1}, False),
        ({"blocks": 1}, False),
        ({"before": "n = Relu(x)"}, False),
        ({"moved": "Log(s{i})"}, False),
    ],
)
def test_patches_and_attention_make_a_vision_transformer(options, is_one):
    assert is_vision_transformer(build(network(**options))) is is_one


def test_the_digits_network_is_one():
    assert is_vision_transformer(load(str(digits.VIT)))


@pytest.mark.real
@pytest.mark.parametrize(("name", "is_one"), [("vit-s", True), ("ppocr-rec", False), ("ppocr-det", False)])
def test_real_models(name, is_one):
    assert is_vision_transformer(load(str(real.path(name)))) is is_one


@pytest.mark.parametrize(
    ("settings", "has_data", "name"),
    [
        ({}, True, "vit-w8a8-qdq"),
        ({}, False, "weight-int8"),
        ({"recipe": "static-w8a8"}, True, "static-w8a8"),
        ({"bits": 4}, True, "static-w8a8"),
    ],
)
def test_the_recipe_of_a_vision_transformer(settings, has_data, name):
    assert choose_recipe(Settings(**settings), has_data=has_data, vision_transformer=True).name == name


def test_convert_chooses_it_and_says_so():
    images, _ = digits.samples("calibration", 20)
    conversion = convert(str(digits.VIT), data=[{digits.INPUT: image[None]} for image in images], threads=1)
    assert conversion.report.recipe["title"] == recipe("vit-w8a8-qdq").title
    assert {node.domain for node in conversion.model.graph.all_nodes()} == {""}  # standard operators only
