"""Vision transformers as exporters spell them: channels are followed through class tokens, shifted windows and scaled
keys; whole files of torch and timm where both are installed."""

from __future__ import annotations

import importlib.util
import pathlib

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models import exported
from models.tiny import build
from qonnx.conversion import convert
from qonnx.families import is_vision_transformer
from qonnx.ledger import ledger
from qonnx.model import load, save
from qonnx.notes import note
from qonnx.passes import PASSES, SPELLING
from qonnx.passes.infer_shapes import InferShapes
from qonnx.passes.label import Label
from qonnx.passes.observe import Observe
from qonnx.passes.reparameterize import Reparameterize
from qonnx.passes.reparameterize_attention import ReparameterizeAttention
from qonnx.runtime import session

WITH_TORCH = all(importlib.util.find_spec(name) for name in ("torch", "timm"))
HEAD = '<ir_version: 10, opset_import: ["": 21]>'
NORM = "n = LayerNormalization <axis = -1> (x, gamma, beta)"

# Rows of a norm on their way to a layer: `x` [2, 4, 4, 8] or [2, 16, 8].
TOKEN = f"""{HEAD} g (float[2,16,8] x, float[8] gamma, float[8] beta, float[5,8] w, float[5] b) => (float[2,5] y)
<int64 zero = {{0}}> {{
    {NORM}
    t = Gather <axis = 1> (n, zero)
    y = Gemm <transB = 1> (t, w, b)
}}"""
MEAN = f"""{HEAD} g (float[2,4,4,8] x, float[8] gamma, float[8] beta, float[8,5] w) => (float[2,5] y)
<int64[2] axes = {{1, 2}}> {{
    {NORM}
    t = ReduceMean <keepdims = 0> (n, axes)
    y = MatMul(t, w)
}}"""
WINDOWS = f"""{HEAD} g (float[2,4,4,8] x, float[8] gamma, float[8] beta, float[8,5] w, float[5] b)
=> (float[8,4,5] y)
<int64[1] one = {{1}}, int64[1] none = {{0}}, int64[1] far = {{9}}, int64[1] rows = {{1}},
 int64[6] cut = {{2, 2, 2, 2, 2, 8}}, int64[3] flat = {{8, 4, 8}}> {{
    {NORM}
    below = Slice(n, one, far, rows)
    above = Slice(n, none, one, rows)
    turned = Concat <axis = 1> (below, above)
    c = Reshape(turned, cut)
    p = Transpose <perm = [0, 1, 3, 2, 4, 5]> (c)
    f = Reshape(p, flat)
    m = MatMul(f, w)
    y = Add(m, b)
}}"""


def observed(text: str) -> tuple[ir.Model, list[dict]]:
    """The model with one channel of its norm 100 times as wide as the others, roles and statistics noted."""
    model = build(text)
    gamma = next(value for name, value in model.graph.initializers.items() if name == "gamma")
    wide = gamma.const_value.numpy().copy()
    wide[3] *= 100
    gamma.const_value = ir.tensor(wide, name="gamma")
    shape = model.graph.inputs[0].shape.numpy()
    data = [{"x": np.random.default_rng(i).normal(size=shape).astype(np.float32)} for i in range(4)]
    InferShapes()(model)
    Label()(model)
    Observe(data)(model)
    return model, data


def run(model: ir.Model, feeds: dict) -> np.ndarray:
    return session(model.clone(), optimization="none").run(None, feeds)[0]


@pytest.mark.parametrize("text", [TOKEN, MEAN, WINDOWS], ids=["token", "mean", "windows"])
def test_a_norm_is_folded_into_the_layer_that_reads_its_moved_rows(text):
    model, data = observed(text)
    before = run(model, data[0])
    assert len(Reparameterize(strength=1.0)(model).changes) == 1
    # sums of some hundreds, each of 8 products: a few roundings of numbers of that size
    assert np.abs(before - run(model, data[0])).max() <= 64 * 2**-24 * 8 * np.abs(before).max()
    values = {value.name: value for node in model.graph for value in node.outputs}
    claimed = {name: note(value).stats for name, value in values.items() if note(value).stats is not None}
    Observe(data)(model)
    low, high = note(values["n"]).stats.channel_minimum, note(values["n"]).stats.channel_maximum
    assert np.ptp(high - low) < 1e-3 * (high - low).max()
    for name, old in claimed.items():
        new = note(values[name]).stats
        slack = 1e-4 * max(abs(new.minimum), abs(new.maximum))
        assert old.minimum <= new.minimum + slack and old.maximum >= new.maximum - slack, name


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        (TOKEN, "t = Gather <axis = 1> (n, zero)", "r = Relu(n)  t = Gather <axis = 1> (r, zero)"),
        (WINDOWS, "Concat <axis = 1> (below, above)", "Concat <axis = 1> (below, x_above)"),  # of something else
        (WINDOWS, "perm = [0, 1, 3, 2, 4, 5]", "perm = [0, 1, 5, 2, 4, 3]"),  # channels leave the last axis
        (MEAN, "{1, 2}", "{1, 3}"),  # a mean of channels
    ],
    ids=["computed", "joined", "transposed", "mean of channels"],
)
def test_rows_that_are_more_than_moved_leave_the_norm_alone(text, old, new):
    changed = text.replace(old, new)
    if "x_above" in new:
        changed = changed.replace("above = Slice(n,", "n_above = Slice(n,").replace(
            "turned =", "x_above = Slice(x, none, one, rows)\n    turned ="
        )
        changed = changed.replace("n_above = Slice(n, none, one, rows)\n", "")
    if "{1, 3}" in new:
        changed = changed.replace("float[8,5] w", "float[4,5] w")
    assert changed != text
    model, _ = observed(changed)
    assert not Reparameterize(strength=1.0)(model).changes


SCALED = f"""{HEAD} g (float[2,5,8] x, float[8,24] w, float[24] b, float[8,8] w_o, float[8] b_o)
=> (float[2,5,8] y) <int64[5] split = {{2, 5, 3, 2, 4}}, int64[3] join = {{2, 5, 8}}, int64 zero = {{0}},
int64 one = {{1}}, int64 two = {{2}}, float root = {{0.7071}}, float half = {{0.5}},
float[2,2,5,5] mask = {{{{mask}}}}> {{
    m = MatMul(x, w)
    a = Add(m, b)
    r = Reshape(a, split)
    t = Transpose <perm = [2, 0, 3, 1, 4]> (r)
    q = Gather <axis = 0> (t, zero)
    k = Gather <axis = 0> (t, one)
    v = Gather <axis = 0> (t, two)
    kt = Transpose <perm = [0, 1, 3, 2]> (k)
    qs = Mul(q, root)
    ks = Mul(root, kt)
    vs = Mul(v, half)
    s = MatMul(qs, ks)
    sm = Add(s, mask)
    p = Softmax <axis = -1> (sm)
    o = MatMul(p, vs)
    ot = Transpose <perm = [0, 2, 1, 3]> (o)
    oj = Reshape(ot, join)
    mo = MatMul(oj, w_o)
    y = Add(mo, b_o)
}}""".replace("{mask}", ", ".join("-100.0" if i % 7 == 3 else "0.0" for i in range(100)))


def test_keys_and_values_that_a_number_scales_in_their_heads():
    model = build(SCALED)
    bias = model.graph.initializers["b"]
    bias.const_value = ir.tensor(bias.const_value.numpy() + np.repeat(np.float32([0, 5, 3]), 8), name="b")
    data = [{"x": np.random.default_rng(i).normal(size=(2, 5, 8)).astype(np.float32)} for i in range(4)]
    InferShapes()(model)
    Label()(model)
    Observe(data)(model)
    before = run(model, data[0])
    changes = ReparameterizeAttention()(model).changes
    assert sorted(change.what.split()[0] for change in changes) == ["8", "ranges"]
    np.testing.assert_allclose(before, run(model, data[0]), rtol=1e-5, atol=64 * 2**-24 * np.abs(before).max() * 8)
    values = {value.name: value for node in model.graph for value in node.outputs}
    claimed = {name: (note(values[name]).stats.minimum, note(values[name]).stats.maximum) for name in ("ks", "vs")}
    Observe(data)(model)
    for name, (low, high) in claimed.items():
        new = note(values[name]).stats
        assert (low, high) == pytest.approx((new.minimum, new.maximum), abs=1e-5 * max(-low, high))


RECIPES = {"vit-w8a8": 25.0, "vit-w6a6": 18.0, "vit-w4a8": 14.0, "vit-w4a4": 8.0}  # SQNR in dB that none falls below


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("exporter", exported.EXPORTERS)
@pytest.mark.parametrize("network", exported.NETWORKS)
def test_every_product_of_an_exported_network_is_on_codes(network, exporter, recipe, tmp_path):
    onnx.save(exported.stored(network, exporter), tmp_path / "network.onnx")
    assert every_product_is_on_codes(tmp_path / "network.onnx", network, recipe) > RECIPES[recipe]


@pytest.mark.parametrize("exporter", exported.EXPORTERS)
@pytest.mark.parametrize("network", exported.NETWORKS)
def test_every_norm_is_folded_and_every_key_centred(network, exporter):
    """Also behind shifted windows, whose shapes and masks are computed; values there where their way is static."""
    model = ir.from_proto(exported.stored(network, exporter))
    for name in SPELLING:
        PASSES[name]()(model)
    before = session(model.clone(), optimization="none").run(None, exported.images(1, 1)[0])[0]
    Label()(model)
    Observe(exported.images(4))(model)
    folded = Reparameterize(strength=1.0)(model).changes
    changes = ReparameterizeAttention()(model).changes
    blocks = exported.BLOCKS[network]
    assert len(folded) >= 2 * blocks
    assert sum("keys centred" in change.what for change in changes) == blocks
    values = sum("values folded" in change.what for change in changes)
    assert values == (2 if network.startswith("swin") and exporter == "torchscript" else blocks)
    after = session(model.clone(), optimization="none").run(None, exported.images(1, 1)[0])[0]
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-4 * np.abs(before).max())


@pytest.mark.slow
@pytest.mark.skipif(not WITH_TORCH, reason=f"needs torch and timm: {exported.INSTALL}")
@pytest.mark.parametrize("exporter", exported.EXPORTERS)
@pytest.mark.parametrize("network", exported.NETWORKS)
def test_so_it_is_with_what_the_installed_exporters_write(network, exporter, tmp_path):
    exported.export(network, exporter, tmp_path / "network.onnx")
    assert every_product_is_on_codes(tmp_path / "network.onnx", network, "vit-w8a8") > RECIPES["vit-w8a8"]


def every_product_is_on_codes(file: pathlib.Path, network: str, recipe: str) -> float:
    """The SQNR in dB of the converted network; fails if a product or an attention is left in float."""
    assert is_vision_transformer(load(str(file)))
    conversion = convert(str(file), data=exported.images(16), recipe=recipe, threads=1)
    assert {row.state for row in ledger(conversion.model)} == {"done"}
    assert sum(node.op_type == "LogAttention" for node in conversion.model.graph) == exported.BLOCKS[network]
    save(conversion.model, file.with_name("codes.onnx"))
    before, after = session(file), session(file.with_name("codes.onnx"))
    x, y = (np.concatenate([s.run(None, feeds)[0] for feeds in exported.images(4, 1)]) for s in (before, after))
    assert np.isfinite(y).all()
    return 10 * np.log10((x**2).sum() / ((x - y) ** 2).sum())
