"""Laws of targets: what static quantization makes for a target, that target's linter accepts, and no line is missing.

Adding a target adds its tests.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from models import digits, pages, photos, real, text_lines
from models.tiny import TINY, build, inputs
from qonnx.conversion import convert
from qonnx.linter import lint
from qonnx.model import load
from qonnx.notes import note
from qonnx.passes.assign import ELIGIBLE
from qonnx.passes.assign_elementwise import activations
from qonnx.recipe import recipe
from qonnx.settings import Settings
from qonnx.targets import TARGETS, Target, target
from tests.qdq_cases import HEAD

RESIDUAL = f"""{HEAD} g (float[B,16,8,8] x, float[16,16,3,3] w1, float[16] b1, float[16,16,3,3] w2, float[16] b2,
    float[16,16,1,1] w3, float[32,10] w4, float[10] b4) => (float[B,10] y) {{
    c1 = Conv<pads: ints = [1,1,1,1]>(x, w1, b1)
    r1 = Relu(c1)
    c2 = Conv<pads: ints = [1,1,1,1]>(r1, w2, b2)
    s = Add(c2, r1)
    r2 = Relu(s)
    short = Conv(r2, w3)
    long = MaxPool<kernel_shape: ints = [3,3], pads: ints = [1,1,1,1]>(r2)
    both = Concat<axis: int = 1>(short, long)
    pooled = GlobalAveragePool(both)
    flat = Flatten(pooled)
    y = Gemm(flat, w4, b4)
}}"""
GATED = f"""{HEAD} g (float[B,16,8,8] x, float[16,1,3,3] w1, float[16] b1, float[16,16,1,1] w2, float[16] b2,
    float[16,16,1,1] w3) => (float[B,16,4,4] y) {{
    d = Conv<group: int = 16, pads: ints = [1,1,1,1]>(x, w1, b1)
    low = Constant<value = float {{0.0}}>()
    high = Constant<value = float {{6.0}}>()
    k = Clip(d, low, high)
    pooled = GlobalAveragePool(k)
    squeezed = Conv(pooled, w2, b2)
    gate = Sigmoid(squeezed)
    gated = Mul(k, gate)
    small = AveragePool<kernel_shape: ints = [2,2], strides: ints = [2,2]>(gated)
    y = Conv(small, w3)
}}"""
TEXTS = {"residual block, pooling and Concat": RESIDUAL, "depthwise, gate and pooling": GATED}
TINIES = (
    "attention",
    "residual and post-norm",
    "layer norm of torch: Pow, Sqrt, Div",
    "GELU of torch: Div, Erf, Add, Mul, Mul",
    "SiLU",
    "Conv and BatchNormalization",
    "Conv, scalar affine, hard-swish, scalar affine, depthwise Conv",
    "ConvTranspose with groups and BatchNormalization",
    "Gemm, both layouts, and BatchNormalization",
    "two MatMuls that share a weight",
    "Resize to sizes that Shape computes",
    "If with captures in both branches",
    "local function",
    "half precision",
    "opset 9",
)
DIGITS = {"digits_cnn": digits.CNN, "digits_vit": digits.VIT}


def made(name: str) -> ir.Model:
    if name in DIGITS:
        return load(DIGITS[name])
    return build(TEXTS[name]) if name in TEXTS else TINY[name]()


def samples(name: str, model: ir.Model) -> list[dict[str, np.ndarray]]:
    if name in DIGITS:
        return [{digits.INPUT: image[None]} for image in digits.samples("calibration", 6)[0]]
    return [inputs(model, seed) for seed in range(2)]


def complaints(model: ir.Model, where: Target) -> list[str]:
    """Errors and warnings, but for "its output is not quantized" of a node that the ledger says is kept in float: where
    all neighbours are whole units, its inputs come from integers all the same."""
    kept = {node.name for node in model.graph if note(node).fate is not None and note(node).fate.state == "skipped"}
    found = [one for one in lint(model, where) if one.severity != "hint"]
    found = [one for one in found if one.rule != "unquantized-output" or one.node not in kept]
    return [f"{one.rule}: {one.node} ({one.operator}): {one.sentence}" for one in found]


def unaccounted(model: ir.Model) -> list[str]:
    """Operators that multiply by a weight or by each other and have no line in the ledger."""
    return [node.name for node in model.graph.all_nodes() if node.op_type in ELIGIBLE and note(node).fate is None]


def open_units(model: ir.Model, where: Target) -> list[str]:
    """Operators that are done although some side of them lacks Q/DQ, where the target takes only whole units."""
    if not where.node_units:
        return []
    found = []
    for node in model.graph:
        if note(node).fate is None or note(node).fate.state != "done":
            continue
        before = [value.producer() for value in activations(node)]
        read = [value for value in node.outputs if value.uses() or value.is_graph_output()]
        closed = all(made is not None and made.op_type == "DequantizeLinear" for made in before)
        closed &= all(any(user.op_type == "QuantizeLinear" for user in value.consumers()) for value in read)
        if not closed:
            found.append(node.name)
    return found


@pytest.mark.parametrize("where", TARGETS)
@pytest.mark.parametrize("name", [*DIGITS, *TEXTS, *(pytest.param(name, marks=pytest.mark.slow) for name in TINIES)])
def test_the_result_for_a_target_pleases_its_linter(name: str, where: str):
    model = made(name)
    data = samples(name, model)
    recipe("static-w8a8").run(model, target=target(where), data=data, held_out=data, settings=Settings())
    assert complaints(model, target(where)) == []
    assert unaccounted(model) == []
    assert open_units(model, target(where)) == []


@pytest.mark.parametrize("where", ["tensorrt", "qnn", "openvino"])
def test_the_laws_can_fail(where: str):
    """A pair taken away, a grid changed: one of the three notices."""
    model = made("residual block, pooling and Concat")
    data = samples("", model)
    recipe("static-w8a8").run(model, target=target(where), data=data, held_out=data, settings=Settings())
    joined = next(node for node in model.graph if node.op_type == ("Concat" if where != "qnn" else "MaxPool"))
    pair = joined.inputs[0].producer()
    if where == "qnn":
        joined.replace_input_with(0, pair.inputs[0].producer().inputs[0])
    else:
        other = ir.Value(name="other", const_value=ir.tensor(np.float32(0.5), name="other"))
        model.graph.register_initializer(other)
        pair.replace_input_with(1, other)
    assert complaints(model, target(where)) or open_units(model, target(where))


REAL_SAMPLES = {
    "vit-s": lambda: photos.crops("calibration", 4),
    "ppocr-rec": lambda: [line.pixels for line in text_lines.lines("calibration", 4)],
    "ppocr-det": lambda: pages.pages("calibration", 4),
}


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("where", ["tensorrt", "qnn", "openvino"])
@pytest.mark.parametrize("name", real.REAL)
def test_real_models_please_the_linters(name: str, where: str):
    data = [{real.REAL[name].input_name: array} for array in REAL_SAMPLES[name]()]
    model = convert(real.path(name), data=data, target=where, samples=4).model
    assert complaints(model, target(where)) == []
    assert unaccounted(model) == []
    assert open_units(model, target(where)) == []
