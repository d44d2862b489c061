"""Spelling passes, case by case: text in, operator types out; near misses that must not fire, with the reason."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.tiny import TINY, build, inputs
from models.tiny_texts import TEXTS
from qonnx.errors import QonnxError
from qonnx.passes import PASSES, SPELLING
from qonnx.passes.activations import KNOWN, POINTS, name_of
from qonnx.passes.shape_values import ShapeValues
from qonnx.runtime import session


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for body in model.graphs() for node in body]


def spelt(model: ir.Model, *, opset: int = 21) -> ir.Model:
    for name in SPELLING:
        options = {"opset": opset} if name == "convert_opset" else {}
        PASSES[name](**options)(model)
    return model


def ready(text: str) -> ir.Model:
    """With constants as initializers and shapes known, which later passes build upon."""
    model = build(text)
    for name in ("lift_constants", "convert_opset", "infer_shapes"):
        PASSES[name]()(model)
    return model


# Tiny model -> operator types of its spelling, in order.
EXPECTED = {
    "layer norm of torch: Pow, Sqrt, Div": "MatMul LayerNormalization MatMul",
    "layer norm squared by Mul, scaled by Reciprocal, commuted": "MatMul LayerNormalization MatMul",
    "layer norm with axes as input and two subtractions": "MatMul LayerNormalization MatMul",
    "layer norm by ReduceSum over n": "MatMul LayerNormalization MatMul",
    "layer norm without affine by Pow -0.5": "MatMul LayerNormalization Mul Add Add MatMul",
    "layer norm in a Cast island of a half-precision model": "LayerNormalization MatMul",
    "RMS norm at opset 23": "MatMul RMSNormalization",
    "GELU of torch: Div, Erf, Add, Mul, Mul": "MatMul Gelu MatMul",
    "GELU of Paddle: half first, six digits": "MatMul Gelu MatMul",
    "tanh GELU, cube by Pow": "MatMul Gelu MatMul",
    "tanh GELU, half inside": "MatMul Gelu MatMul",
    "SiLU": "MatMul Sigmoid Mul MatMul",
    "quick GELU": "MatMul Mul Sigmoid Mul MatMul",
    "hard-swish of Paddle": "MatMul HardSwish MatMul",
    "Mish": "MatMul Mish MatMul",
    "sigmoid by Exp": "MatMul Sigmoid MatMul",
    "Conv and BatchNormalization": "Conv Relu",
    "Conv, scalar affine, hard-swish, scalar affine, depthwise Conv": "Conv HardSwish Add Conv",
    "affine in front of an unpadded Conv with groups": "Conv",
    "ConvTranspose with groups and BatchNormalization": "ConvTranspose",
    "Gemm, both layouts, and BatchNormalization": "Gemm Relu Gemm",
    "MatMul, Add, layer scale, residual": "MatMul Add Add",
    "two MatMuls that share a weight": "MatMul Add Tanh MatMul Mul",
    "DequantizeLinear over a constant": "DequantizeLinear MatMul",
    "local function": "MatMul Add Relu MatMul Add Relu",
    "zero-size tensor": "Concat MatMul",
    "unused output and unused nodes": "MatMul Split",
    "identities between named ends": "MatMul Identity",
}


@pytest.mark.parametrize("tiny", EXPECTED)
def test_canonical_spelling(tiny: str):
    assert kinds(spelt(TINY[tiny]())) == EXPECTED[tiny].split()


def test_attention_keeps_no_shape_arithmetic_but_for_two_open_dimensions():
    found = kinds(spelt(TINY["attention"]()))
    assert "Shape" not in found and "Concat" not in found and found.count("Reshape") == 4
    assert "Mul" not in found, "1/√d went into the query's weights"


def test_a_table_resized_to_known_size_is_computed_once():
    assert kinds(spelt(TINY["table resized at run time"]())) == ["Add"]


def test_rms_norm_below_opset_23_stays_decomposed():
    assert "RMSNormalization" not in kinds(spelt(TINY["RMS norm of a language model"]()))
    assert "RMSNormalization" in kinds(spelt(TINY["RMS norm of a language model"](), opset=23))


# Near misses: (pass, tiny model, text to replace, by what, operator that must not appear, or reason).
NEAR = {
    "mean over another axis than the variance": (
        "fuse_layer_norm",
        0,
        "axes_mean = ReduceMean<axes: ints = [-1]>",
        "axes_mean = ReduceMean<axes: ints = [1]>",
    ),
    "mean over the tokens": ("fuse_layer_norm", 0, "axes: ints = [-1]", "axes: ints = [1]"),
    "dimensions not kept": (
        "fuse_layer_norm",
        0,
        "v = ReduceMean<axes: ints = [-1]>(s)",
        "v0 = ReduceMean<axes: ints = [-1], keepdims: int = 0>(s)\n last = Constant<value_ints = [-1]>()\n"
        "v1 = Unsqueeze(v0, last)\n two_s = Constant<value = float {1.1}>()\n v = Mul(v1, two_s)",
    ),
    "cube instead of square": (
        "fuse_layer_norm",
        0,
        "s = Pow(c, two)",
        "s0 = Pow(c, two)\n s1 = Mul(s0, c)\n s = Abs(s1)",
    ),
    "numerator is not the centred value": ("fuse_layer_norm", 0, "q = Div(c, d)", "q = Div(u, d)"),
    "negative epsilon": (
        "fuse_layer_norm",
        0,
        "e = Constant<value = float {0.00001}>()",
        "e = Constant<value = float {-0.00001}>()",
    ),
}
NORM = "layer norm of torch: Pow, Sqrt, Div"


@pytest.mark.parametrize("reason", NEAR)
def test_near_misses_of_layer_norm(reason: str):
    name, _, old, new = NEAR[reason]
    assert old in TEXTS[NORM]
    model = ready(TEXTS[NORM].replace(old, new))
    assert not PASSES[name]()(model).changes
    assert "LayerNormalization" not in kinds(model)


def test_a_scale_over_another_axis_is_not_the_norms():
    text = TEXTS[NORM].replace("float[8] gamma", "float[5,1] gamma")
    model = ready(text)
    assert len(PASSES["fuse_layer_norm"]()(model).changes) == 1
    assert kinds(model)[1:3] == ["LayerNormalization", "Mul"]


ACTIVATION_NEAR = {
    "wrong constant": ("GELU of torch: Div, Erf, Add, Mul, Mul", "1.4142135", "1.5", "Gelu"),
    "not halved": ("GELU of torch: Div, Erf, Add, Mul, Mul", "{0.5}", "{0.51}", "Gelu"),
    "tanh with the wrong cube": ("tanh GELU, cube by Pow", "0.044715", "0.0457", "Gelu"),
    "gate is another value": ("SiLU", "a = Mul(u, s)", "o = Relu(u)\n p = Neg(o)\n a = Mul(p, s)", None),
    "clipped at five": (
        "hard-swish of Paddle",
        "high = Constant<value = float {6.0}>()",
        "high = Constant<value = float {5.0}>()",
        "HardSwish",
    ),
    "plus two": ("hard-swish of Paddle", "{3.0}", "{2.0}", "HardSwish"),
    "a vector instead of a scalar": (
        "quick GELU",
        "k = Constant<value = float {1.702}>()",
        "k = Constant<value = float[8] {1.702, 1.702, 1.702, 1.702, 1.702, 1.702, 1.702, 1.7}>()",
        "HardSwish",
    ),
}


@pytest.mark.parametrize("reason", ACTIVATION_NEAR)
def test_near_misses_of_activations(reason: str):
    tiny, old, new, wrong = ACTIVATION_NEAR[reason]
    assert old in TEXTS[tiny]
    model = ready(TEXTS[tiny].replace(old, new))
    before = kinds(model)
    assert not PASSES["recognise_activations"]()(model).changes
    assert kinds(model) == before and wrong not in before


def test_gelu_needs_an_opset_that_has_it():
    model = build(TEXTS["GELU of torch: Div, Erf, Add, Mul, Mul"])
    PASSES["lift_constants"]()(model)
    PASSES["infer_shapes"]()(model)
    assert not PASSES["recognise_activations"]()(model).changes


@pytest.mark.parametrize("name", KNOWN)
def test_the_table_names_each_of_its_functions_and_no_neighbour(name: str):
    values = KNOWN[name].function(POINTS)
    assert name_of(values) == name
    assert name_of(values * 1.0003) is None and name_of(values + 1e-4) is None


BATCH_NORM = "Conv and BatchNormalization"
FOLD_NEAR = {
    "the layer's output is read twice": ("y = Relu(n)", "r = Relu(n)\n z = Relu(c)\n y = Add(r, z)"),
    "the layer's output is a graph output": ("=> (float[B,6,8,8] y)", "=> (float[B,6,8,8] y, float[B,6,8,8] c)"),
    "the weight is shared": ("y = Relu(n)", "d = Conv<pads: ints = [1, 1, 1, 1]>(x, w)\n r = Relu(n)\n y = Add(r, d)"),
    "the statistics are computed": (
        "n = BatchNormalization(c, gamma, beta, mean, variance)",
        "v = Add(variance, gamma)\n n = BatchNormalization(c, gamma, beta, mean, v)",
    ),
}


@pytest.mark.parametrize("reason", FOLD_NEAR)
def test_near_misses_of_batch_norm_folding(reason: str):
    old, new = FOLD_NEAR[reason]
    assert old in TEXTS[BATCH_NORM]
    model = ready(TEXTS[BATCH_NORM].replace(old, new))
    assert not PASSES["fold_norms"]()(model).changes
    assert "BatchNormalization" in kinds(model)


AFFINE = """<ir_version: 8, opset_import: ["": 17]> g (float[B,4,6,6] x, float[4,4,3,3] w, float[4] b{more})
    => (float[B,4,h,h] y) {{ {body} }}"""
AFFINE_CASES = {
    "shift in front of a padded layer stays": (
        "",
        "one = Constant<value = float {1.5}>()\n s = Add(x, one)\n y = Conv<pads: ints = [1,1,1,1]>(s, w, b)",
        "Add Conv",
    ),
    "factor in front of a padded layer goes": (
        "",
        "two = Constant<value = float {2.5}>()\n s = Mul(two, x)\n y = Conv<pads: ints = [1,1,1,1]>(s, w, b)",
        "Conv",
    ),
    "shift in front of a layer that pads by itself stays": (
        "",
        'one = Constant<value = float {1.5}>()\n s = Add(x, one)\n y = Conv<auto_pad: string = "SAME_UPPER">(s, w, b)',
        "Add Conv",
    ),
    "shift in front of an unpadded layer goes": (
        "",
        "one = Constant<value = float {1.5}>()\n s = Sub(x, one)\n y = Conv(s, w, b)",
        "Conv",
    ),
    "constant minus x in front of a layer stays": (
        "",
        "one = Constant<value = float {1.5}>()\n s = Sub(one, x)\n y = Conv(s, w, b)",
        "Sub Conv",
    ),
    "division by a constant behind goes": (
        "",
        "c = Conv(x, w, b)\n k = Constant<value = float {3.0}>()\n y = Div(c, k)",
        "Conv",
    ),
    "constant divided by the output stays": (
        "",
        "c = Conv(x, w, b)\n k = Constant<value = float {3.0}>()\n y = Div(k, c)",
        "Conv Div",
    ),
    "constant minus the output goes": (
        "",
        "c = Conv(x, w, b)\n k = Constant<value = float {3.0}>()\n y = Sub(k, c)",
        "Conv",
    ),
    "one number a column is no channel factor": (
        ", float[4] w_scale",
        "c = Conv(x, w, b)\n y = Mul(c, w_scale)",
        "Conv Mul",
    ),
    "one number a channel goes": (", float[4,1,1] w_scale", "c = Conv(x, w, b)\n y = Mul(c, w_scale)", "Conv"),
    "a constant of higher rank stays": (
        ", float[1,1,1,1,1] w_scale",
        "c = Conv(x, w, b)\n z = Mul(c, w_scale)\n a = Constant<value_ints = [0]>()\n y = Squeeze(z, a)",
        "Conv Mul Squeeze",
    ),
    "division by zero stays": (
        "",
        "c = Conv(x, w, b)\n k = Constant<value = float {0.0}>()\n y = Div(c, k)",
        "Conv Div",
    ),
}


@pytest.mark.parametrize("situation", AFFINE_CASES)
def test_affine_folding(situation: str):
    more, body, expected = AFFINE_CASES[situation]
    model = ready(AFFINE.format(more=more, body=body))
    before = ready(AFFINE.format(more=more, body=body))
    PASSES["fold_affine"]()(model)
    assert kinds(model) == expected.split()
    a, b = (session(m, optimization="none").run(None, inputs(m))[0] for m in (before, model))
    if np.isfinite(a).all():
        assert abs(a - b).max() <= 1e-5 * abs(a).max()


def test_a_wrong_channel_axis_would_be_seen():
    """The check above has teeth: scaling input instead of output channels of a square kernel breaks it."""
    model = ready(AFFINE.format(more=", float[4,1,1] w_scale", body="c = Conv(x, w, b)\n y = Mul(c, w_scale)"))
    expected = session(model).run(None, inputs(model))[0]
    weight, scale = model.graph.initializers["w"], model.graph.initializers["w_scale"].const_value.numpy()
    PASSES["fold_affine"]()(model)
    wrong = build(AFFINE.format(more="", body="y = Conv(x, w, b)"))
    wrong.graph.initializers["w"].const_value = ir.tensor(
        weight.const_value.numpy() * scale.reshape(1, 4, 1, 1), name="w"
    )
    found = session(wrong).run(None, inputs(model))[0]
    assert abs(found - expected).max() > 1e-2 * abs(expected).max()


@pytest.mark.parametrize("tiny", [name for name in TINY if "opset 9" in name or "Paddle" in name or "torch" in name])
@pytest.mark.parametrize("opset", [13, 17, 18, 21, 23, 25])
def test_every_opset_computes_the_same(tiny: str, opset: int):
    model, raised = TINY[tiny](), TINY[tiny]()
    PASSES["convert_opset"](opset=opset)(raised)
    onnx.checker.check_model(ir.to_proto(raised), full_check=True)
    for a, b in zip(*(session(m, optimization="none").run(None, inputs(m)) for m in (model, raised)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -2])
def test_old_softmax_flattens_from_its_axis(axis: int):
    text = f"""<ir_version: 6, opset_import: ["": 11]> g (float[2,3,4,5] x) => (float[2,3,4,5] y) {{
        y = Softmax<axis: int = {axis}>(x) }}"""
    model, raised = build(text), build(text)
    PASSES["convert_opset"]()(raised)
    x = inputs(model)
    a, b = (session(m, optimization="none").run(None, x)[0] for m in (model, raised))
    np.testing.assert_allclose(a, b, rtol=8 * 2.0**-24)
    assert a.reshape(np.prod(a.shape[: axis % 4], dtype=int), -1).sum(axis=1) == pytest.approx(1, rel=1e-5)


def test_training_batch_norm_cannot_follow_a_new_opset():
    text = """<ir_version: 6, opset_import: ["": 9]> g (float[2,3,4,4] x, float[3] gamma, float[3] beta, float[3] mean,
        float[3] variance) => (float[2,3,4,4] y, float[3] m) {
        y, m, v, s, t = BatchNormalization(x, gamma, beta, mean, variance) }"""
    with pytest.raises(QonnxError, match="training mode"):
        PASSES["convert_opset"]()(build(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s = Shape(x)", ["B", 3, 8, 8]),
        ("s0 = Shape(x)\n i = Constant<value_ints = [0, 2]>()\n s = Gather(s0, i)", ["B", 8]),
        (
            "s0 = Shape(x)\n a = Constant<value_ints = [-1]>()\n e = Constant<value_ints = [-5]>()\n"
            "s = Slice(s0, a, e, z, a)",
            [8, 8, 3, "B"],
        ),
        ("s0 = Shape(x)\n one = Constant<value_ints = [1]>()\n s = Mul(s0, one)", ["B", 3, 8, 8]),
        ("s0 = Shape(x)\n two = Constant<value_ints = [2]>()\n s = Div(s0, two)", [None, 1, 4, 4]),
        ("s0 = Shape(x)\n m = Constant<value_ints = [-1]>()\n s = Equal(s0, m)", [False] * 4),
        ("s0 = Shape(x)\n k = Constant<value_ints = [8]>()\n s = Equal(s0, k)", [None, False, True, True]),
    ],
)
def test_shape_arithmetic(text: str, expected: list):
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 17]> g (float[B,3,8,8] x) => (y) { z = Constant<value_ints = [0]>()\n '
        + text
        + "\n y = Identity(s) }"
    )
    value = next(o for n in model.graph for o in n.outputs if o.name == "s")
    assert list(ShapeValues()(value)) == expected


def test_folding_stops_where_the_file_would_grow():
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[1000,1] x) => (float[1000,1000] y) {
        shape = Constant<value_ints = [1000, 1000]>()
        c = ConstantOfShape(shape)
        y = Add(c, x)
    }"""
    model = ready(text)
    PASSES["fold_constants"]()(model)
    assert "ConstantOfShape" in kinds(model)
    PASSES["fold_constants"](growth=1 << 23)(model)
    assert "ConstantOfShape" not in kinds(model)


def test_what_a_pass_does_is_said():
    changes = PASSES["fuse_layer_norm"]()(ready(TEXTS[NORM])).changes
    assert len(changes) == 1 and re.search("LayerNormalization over 1 ax", changes[0].what)
