"""Rotations folded into weights: which streams there are, that the function stays, and when a rotation is kept."""

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.tiny import build, tiny_llama
from models.tiny import inputs as feeds_of
from qonnx.errors import QonnxError
from qonnx.notes import warnings
from qonnx.passes import PASSES, SPELLING
from qonnx.passes.residual_stream import streams
from qonnx.passes.rewire import array, is_op
from qonnx.passes.rotate_heads import RotateHeads
from qonnx.passes.rotate_inputs import RotateInputs
from qonnx.passes.rotate_residual import RotateResidual, rotation_for
from qonnx.runtime import session
from qonnx.targets import TARGETS

BLOCK = """<ir_version: 10, opset_import: ["": 21]> g (float[B, 5, 24] x, float[24, 48] w_in, float[48] b_in,
    float[48] gamma1, float[48] beta1, float[48, 96] w_up, float[96] b_up, float[96, 48] w_down, float[48] b_down,
    float[48] gamma2, float[48] beta2, float[10, 48] w_head, float[1, 5, 48] b_place) => (float[B, 5, 10] y) {
    e = MatMul(x, w_in)  e1 = Add(e, b_in)  s0 = Add(e1, b_place)
    n1 = LayerNormalization<epsilon = 0.00001>(s0, gamma1, beta1)
    u = MatMul(n1, w_up)  u1 = Add(u, b_up)  r = Relu(u1)
    d = MatMul(r, w_down)  d1 = Add(d, b_down)  s1 = Add(s0, d1)
    n2 = LayerNormalization<epsilon = 0.00001>(s1, gamma2, beta2)
    t = Transpose<perm = [1, 0]>(w_head)  y = MatMul(n2, t) }"""


def spelt(model, opset=None):
    for name in SPELLING:
        options = {"opset": opset} if name == "convert_opset" and opset else {}
        PASSES[name](**options)(model)
    return model


def outputs(model, seed=0):
    return session(model, optimization="none", threads=1).run(None, feeds_of(model, seed))


def difference(expected, found):
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)) for a, b in zip(expected, found, strict=True))


def loud(model, names=("w_up",), channels=(3, 17), by=12.0):
    """The model with a few loud input channels, as trained transformers have."""
    for name in names:
        value = next(v for v in model.graph.initializers.values() if v.name == name)
        data = array(value).copy()
        data[list(channels)] *= by
        value.const_value = ir.tensor(data, name=name)
    return model


def test_a_stream_has_writers_norms_readers_and_constants():
    (stream,) = streams(spelt(build(BLOCK)).graph)
    assert stream.width == 48
    assert [layer.weight.name for layer in stream.writers] and len(stream.writers) == 2
    assert sorted(len(behind) for behind in stream.norms.values()) == [1, 1]
    assert len(stream.constants) == 1 and not stream.readers
    assert not stream.foreign_makers and not stream.foreign_readers


@pytest.mark.parametrize("width", [48, 64, 50])
def test_rotations_keep_lengths_and_means(width):
    (stream,) = streams(spelt(build(BLOCK)).graph)
    rotation = rotation_for(dataclasses.replace(stream, width=width), seed=1)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(width), atol=1e-12)
    np.testing.assert_allclose(rotation.sum(0), np.ones(width), atol=1e-12)
    assert np.abs(rotation).max() < 0.9  # no channel stays by itself


def test_the_function_stays_with_layer_norms():
    model, expected = spelt(build(BLOCK)), outputs(build(BLOCK))
    changes = RotateResidual(always=True)(model).changes
    assert [change.what for change in changes] == ["4 layers rotated, 0 products added"]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert difference(expected, outputs(model)) <= 1e-5
    assert not RotateResidual(always=True)(model).changes


def test_the_function_stays_in_a_llama():
    model, expected = spelt(tiny_llama(), opset=23), outputs(tiny_llama())
    (stream,) = streams(model.graph)
    assert len(stream.writers) == 4 and len(stream.tables) + len(stream.foreign_makers) == 1
    assert len(RotateResidual(always=True)(model).changes) == 1
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert difference(expected, outputs(model)) <= 1e-5


@pytest.mark.parametrize(
    ("old", "new", "products"),
    [
        ("s1 = Add(s0, d1)", "s1a = Add(s0, d1)  k = Sigmoid(s1a)  s1 = Add(s1a, k)", 2),  # made and read by others
        ("float[B, 5, 10] y)", "float[B, 5, 10] y, float[B, 5, 48] s1)", 1),  # returned
        ("s0 = Add(e1, b_place)", "s00 = Add(e1, b_place)  s0 = Identity(s00)", 0),
        ("d1 = Add(d, b_down)", "d0 = Add(d, b_down)  d1 = Tanh(d0)", 1),
    ],
)
def test_foreign_makers_and_readers_get_the_old_basis(old, new, products):
    text = BLOCK.replace(old, new)
    model, expected = spelt(build(text)), outputs(build(text))
    (change,) = RotateResidual(always=True, extra=2)(model).changes
    assert f"{products} products added" in change.what
    assert difference(expected, outputs(model)) <= 1e-5
    if products:
        few = spelt(build(text))
        assert not RotateResidual(always=True, extra=products - 1)(few).changes
        assert difference(expected, outputs(few)) == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("s0 = Add(e1, b_place)", "s0a = Add(e1, b_place)  s0 = Relu(s0a)"),  # not linear: no writer left but one
        ("n1 = LayerNormalization<epsilon = 0.00001>", "n1 = LayerNormalization<epsilon = 0.00001, axis = 1>"),
    ],
)
def test_what_is_no_rotation_is_not_made_one(old, new):
    text = BLOCK.replace(old, new)
    if "axis = 1" in new:
        text = text.replace("float[48] gamma1, float[48] beta1", "float[5, 48] gamma1, float[5, 48] beta1")
    model, expected = spelt(build(text)), outputs(build(text))
    RotateResidual(always=True)(model)
    assert difference(expected, outputs(model)) <= 1e-5


def test_a_wrong_rotation_is_seen(monkeypatch):
    """One that keeps lengths but not the mean changes what a LayerNormalization gives."""
    import qonnx.passes.rotate_residual as module

    wrong = lambda stream, seed: np.linalg.qr(np.random.default_rng(seed).normal(size=(stream.width,) * 2))[0]  # noqa: E731 - a stand-in
    monkeypatch.setattr(module, "rotation_for", wrong)
    model, expected = spelt(build(BLOCK)), outputs(build(BLOCK))
    RotateResidual(always=True)(model)
    assert difference(expected, outputs(model)) > 1e-3


def test_kept_only_where_rounding_gains():
    """Loud channels gain; weights that lie on a grid already would lose."""
    gains = spelt(loud(build(BLOCK)))
    assert RotateResidual(bits=3, block=64)(gains).changes
    on_a_grid = spelt(build(BLOCK))
    for value in on_a_grid.graph.initializers.values():
        if any(is_op(use.node, "MatMul") for use in value.uses()):
            value.const_value = ir.tensor(np.sign(array(value)) + np.float32(0.0), name=value.name)
    for node in on_a_grid.graph:
        if is_op(node, "LayerNormalization"):
            scale = node.inputs[1]
            scale.const_value = ir.tensor(np.ones_like(array(scale)), name=scale.name)
    assert not RotateResidual()(on_a_grid).changes
    assert any("is not rotated" in sentence for sentence in warnings(on_a_grid))


# Heads of values

HEADS = """<ir_version: 10, opset_import: ["": 21]> g (float[B, 5, 16] x, float[16, 16] w_q, float[16, 16] w_k,
    float[16, 16] w_v, float[16] b_v, float[16, 12] w_o) => (float[B, 5, 12] y)
    <int64[4] split = {0, 0, 2, 8}, int64[3] join = {0, 0, 16}> {
    q = MatMul(x, w_q)  q4 = Reshape(q, split)  qh = Transpose<perm = [0, 2, 1, 3]>(q4)
    k = MatMul(x, w_k)  k4 = Reshape(k, split)  kh = Transpose<perm = [0, 2, 3, 1]>(k4)
    vm = MatMul(x, w_v)  v = Add(vm, b_v)  v4 = Reshape(v, split)  vh = Transpose<perm = [0, 2, 1, 3]>(v4)
    s = MatMul(qh, kh)  p = Softmax<axis = -1>(s)
    o = MatMul(p, vh)  ot = Transpose<perm = [0, 2, 1, 3]>(o)  oj = Reshape(ot, join)
    y = MatMul(oj, w_o) }"""


def labelled(text):
    model = spelt(build(text))
    PASSES["label"]()(model)
    return model


def test_heads_are_rotated_and_the_function_stays():
    model, expected = labelled(HEADS), outputs(build(HEADS))
    kept = {name: array(v) for name, v in model.graph.initializers.items()}
    (change,) = RotateHeads(always=True)(model).changes
    assert "2 heads" in change.what
    assert difference(expected, outputs(model)) <= 1e-5
    changed = {name for name, v in model.graph.initializers.items() if not np.array_equal(kept.get(name), array(v))}
    assert changed == {"w_v", "b_v", "w_o"}
    assert not RotateHeads(always=True)(model).changes


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("o = MatMul(p, vh)", "vr = Relu(vh)  o = MatMul(p, vr)"),  # something acts on single channels
        ("y = MatMul(oj, w_o)", "yy = MatMul(oj, w_o)  t = Tanh(oj)  z = ReduceSum(t)  y = Add(yy, z)"),
        ("perm = [0, 2, 1, 3]>(o)", "perm = [0, 2, 3, 1]>(o)"),  # channels and tokens change places
    ],
)
def test_values_that_anyone_else_reads_keep_their_basis(old, new):
    assert not RotateHeads(always=True)(labelled(HEADS.replace(old, new))).changes


def test_heads_are_rotated_only_where_rounding_gains():
    model = labelled(HEADS)
    for name in ("w_v", "w_o"):
        value = model.graph.initializers[name]
        value.const_value = ir.tensor((array(value) > 0).astype(np.float32), name=name)  # on every grid
    assert not RotateHeads()(model).changes


# Inputs at run time

PAIR = """<ir_version: 10, opset_import: ["": 21]> g (float[B, 5, 32] x, float[32, 48] w_up, float[48, 20] w_down,
    float[7, 20] w_last, float[7] b_last) => (float[N, 7] y) <int64[2] flat = {-1, 20}> {
    u = MatMul(x, w_up)  r = Relu(u)  d = MatMul(r, w_down)  t = Tanh(d)  f = Reshape(t, flat)
    y = Gemm<transB = 1>(f, w_last, b_last) }"""


def test_inputs_are_transformed_at_run_time_and_the_function_stays():
    model, expected = spelt(build(PAIR)), outputs(build(PAIR))
    changes = RotateInputs(always=True)(model).changes
    assert len(changes) == 2  # of order 48 and 20; the graph's own input stays
    assert [node.op_type for node in model.graph].count("Hadamard") == 2
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert difference(expected, outputs(model)) <= 1e-5
    assert not RotateInputs(always=True)(model).changes


def test_outliers_are_worth_a_transform():
    model = build(PAIR)
    value = model.graph.initializers["w_down"]
    data = array(value).copy()
    data[np.random.default_rng(0).random(data.shape) < 0.03] *= 12
    value.const_value = ir.tensor(data, name="w_down")
    changes = RotateInputs(bits=3, block=16, gain=0.3)(spelt(model)).changes
    assert ["order 48" in change.what for change in changes] == [True]


def test_no_transform_of_an_order_that_is_not_known():
    text = PAIR.replace("float[48, 20] w_down", "float[51, 20] w_down").replace(
        "float[32, 48] w_up", "float[32, 51] w_up"
    )
    changes = RotateInputs(always=True)(spelt(build(text))).changes
    assert ["order 20" in change.what for change in changes] == [True]


def test_targets_without_our_operators_refuse_transforms():
    with pytest.raises(QonnxError, match="rotate_inputs"):
        RotateInputs(TARGETS["tensorrt"])
