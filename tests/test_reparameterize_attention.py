"""Attention: centred keys and evened values change no output; logarithmic attention and its neighbours at 4 bits."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from models.tiny import build
from qonnx.custom_ops import log_attention
from qonnx.errors import QonnxError
from qonnx.linter import lint
from qonnx.notes import note
from qonnx.passes.assign import Assign
from qonnx.passes.assign_codebooks import AssignCodebooks
from qonnx.passes.channel_flow import last_axis, leaves
from qonnx.passes.infer_shapes import InferShapes
from qonnx.passes.label import Label
from qonnx.passes.lower_static import LowerStatic
from qonnx.passes.observe import Observe
from qonnx.passes.place_qdq import PlaceQDQ
from qonnx.passes.reparameterize_attention import ReparameterizeAttention
from qonnx.passes.reparameterize_inputs import ReparameterizeInputs
from qonnx.passes.solve_weights import SolveWeights
from qonnx.recipe import recipe
from qonnx.runtime import session
from qonnx.settings import Settings
from qonnx.targets import target

HEAD = '<ir_version: 10, opset_import: ["": 21]>'
SHAPES = "int64[4] split = {0, 0, 2, 4}, int64[3] join = {0, 0, 8}"
REST = """
    qh = Transpose <perm = [0, 2, 1, 3]> (q4)
    kh = Transpose <perm = [0, 2, 3, 1]> (k4)
    vh = Transpose <perm = [0, 2, 1, 3]> (v4)
    s = MatMul(qh, kh)
    p = Softmax <axis = -1> (s)
    o = MatMul(p, vh)
    ot = Transpose <perm = [0, 2, 1, 3]> (o)
    oj = Reshape(ot, join)
    m = MatMul(oj, w_o)
    y = Add(m, b_o)
}"""
SEPARATE = f"""{HEAD}
g (float[B,5,8] x, float[8,8] w_q, float[8,8] w_k, float[8,8] w_v, float[8] b_k, float[8] b_v, float[8,8] w_o,
    float[8] b_o) => (float[B,5,8] y) <{SHAPES}> {{
    q = MatMul(x, w_q)
    km = MatMul(x, w_k)
    k = Add(km, b_k)
    vm = MatMul(x, w_v)
    v = Add(b_v, vm)
    q4 = Reshape(q, split)
    k4 = Reshape(k, split)
    v4 = Reshape(v, split)
{REST}"""
FUSED = f"""{HEAD}
g (float[B,5,8] x, float[8,24] w, float[24] b, float[8,8] w_o, float[8] b_o)
    => (float[B,5,8] y) <int64[5] split = {{0, 0, 3, 2, 4}}, int64[3] join = {{0, 0, 8}}, int64 zero = {{0}},
     int64 one = {{1}}, int64 two = {{2}}> {{
    mm = MatMul(x, w)
    a = Add(mm, b)
    r = Reshape(a, split)
    q4 = Gather <axis = 2> (r, zero)
    k4 = Gather <axis = 2> (r, one)
    v4 = Gather <axis = 2> (r, two)
{REST}"""


def observed(text: str) -> tuple[ir.Model, list[dict]]:
    """The model with biased keys and one wide channel of values; its statistics and roles noted."""
    model = build(text)
    keys = {"b_k": slice(0, 8), "b": slice(8, 16)}
    values = {"w_v": 3, "w": 16 + 3}
    for value in model.graph.initializers.values():
        array = value.const_value.numpy().copy()
        if value.name in keys:
            array[keys[value.name]] += 5.0
        if value.name in values:
            array[:, values[value.name]] *= 50.0
        value.const_value = ir.tensor(array, name=value.name)
    data = [{"x": np.random.default_rng(i).normal(size=(2, 5, 8)).astype(np.float32)} for i in range(6)]
    InferShapes()(model)
    Label()(model)
    Observe(data)(model)
    return model, data


def run(model: ir.Model, feeds: dict, *names: str) -> list[np.ndarray]:
    copy = model.clone()
    known = {value.name: value for node in copy.graph for value in node.outputs}
    copy.graph.outputs.extend(known[name] for name in names)
    return session(copy, optimization="none").run(None, feeds)


@pytest.mark.parametrize("text", [SEPARATE, FUSED], ids=["separate", "fused"])
def test_outputs_stay_while_keys_are_centred_and_values_even(text):
    model, data = observed(text)
    before = run(model, data[0], "kh", "vh")
    made = ReparameterizeAttention()(model).changes
    assert sorted(change.what.split(" ")[0] for change in made) == ["8", "ranges"]
    after = run(model, data[0], "kh", "vh")
    # the wide channel makes values of some hundreds; a few roundings of numbers of that size
    assert np.abs(before[0] - after[0]).max() <= 64 * 2**-24 * np.abs(before[2]).max() * 8
    everything = [run(model, feeds, "kh", "vh") for feeds in data]
    kh, vh = (np.concatenate([arrays[i] for arrays in everything]) for i in (1, 2))
    assert np.abs(kh.mean((0, 3))).max() < 1e-5 * np.abs(before[1]).max()
    assert np.abs(before[1].mean((0, 3))).min() > 1.0
    low, high = vh.min((0, 2)), vh.max((0, 2))
    width = high - low
    assert width.max() / width.min() == pytest.approx(1.0, rel=1e-4)
    assert np.abs(low + high).max() <= 2 * width.max() / 255  # centred, by whole steps


@pytest.mark.parametrize("text", [SEPARATE, FUSED], ids=["separate", "fused"])
def test_statistics_follow(text):
    model, data = observed(text)
    ReparameterizeAttention()(model)
    values = {value.name: value for node in model.graph for value in node.outputs}
    claimed = {name: note(values[name]).stats for name in ("kh", "vh", "oj")}
    Observe(data)(model)
    for name, old in claimed.items():
        new = note(values[name]).stats
        size = max(abs(new.minimum), abs(new.maximum))
        if name != "oj":
            assert (old.minimum, old.maximum) == pytest.approx((new.minimum, new.maximum), abs=1e-5 * size)
        else:
            np.testing.assert_allclose(old.channel_maximum, new.channel_maximum, atol=1e-4 * size)


@pytest.mark.parametrize(
    ("old", "new", "left"),
    [
        ("y = Add(m, b_o)", "y = Add(m, b_o)\n    z = Add(oj, oj)", 1),  # the values have another reader
        ("k4 = Reshape(k, split)", "kr = Relu(k)\n    k4 = Reshape(kr, split)", 1),  # keys change on the way
        ("Softmax <axis = -1>", "Softmax <axis = 2>", 0),  # rows do not sum to one
        ("s = MatMul(qh, kh)", "s0 = MatMul(qh, kh)\n    s = Mul(s0, s0)", 1),  # no constant factor
    ],
)
def test_near_misses_are_left_alone(old, new, left):
    text = SEPARATE.replace(old, new)
    if "z = " in new:
        text = text.replace("=> (float[B,5,8] y)", "=> (float[B,5,8] y, float[B,5,8] z)")
    model, data = observed(text)
    before = run(model, data[0])
    assert len(ReparameterizeAttention()(model).changes) == left
    for a, b in zip(before, run(model, data[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_channels_are_followed_to_their_heads():
    model, _ = observed(FUSED)
    value = next(v for node in model.graph for v in node.outputs if v.name == "a")
    found = {(leaf.node.outputs[0].name, leaf.index): leaf for leaf in leaves(value, last_axis((2, 5, 24)))}
    assert set(found) == {("s", 0), ("s", 1), ("o", 1)}
    keys = found["s", 1].channels  # [batch, head, channel, token]
    assert keys.shape == (2, 2, 4, 5) and (keys[0, 1, :, 0] == 8 + 4 + np.arange(4)).all()
    assert found["s", 1].along(-1) is not None and found["s", 1].along(-2) is None


def quantized(levels: int) -> tuple[ir.Model, list[dict], list[np.ndarray]]:
    """The separate model on codes of so many levels, attention on the codes of base 2."""
    model, data = observed(SEPARATE)
    before = [run(model, feeds)[0] for feeds in data]
    ReparameterizeAttention()(model)
    log = {"probabilities": "log", "log_levels": 16, "log_codes_per_octave": 1.0}
    Assign(target("ort-cpu"), inner_weight="s4", inner_activation_levels=levels, **log)(model)
    SolveWeights()(model)
    PlaceQDQ()(model)
    return model, data, before


def test_attention_becomes_one_operator_on_logarithmic_codes():
    model, data, before = quantized(0)
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("LogAttention") == 1 and "Softmax" not in kinds
    fate = next(note(node).fate for node in model.graph if node.op_type == "LogAttention")
    assert fate.state == "done" and fate.detail == "log2/16 × s8"
    native = [session(model.clone()).run(None, feeds)[0] for feeds in data]
    portable = [session(model.clone(), native=False).run(None, feeds)[0] for feeds in data]
    for a, b in zip(native, portable, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(a).max())
    noise = sum(np.square(a - b).sum() for a, b in zip(native, before, strict=True))
    assert 10 * np.log10(sum(np.square(b).sum() for b in before) / noise) > 15  # weights of 4 bits: about 20 dB


def test_codes_have_as_many_levels_as_planned():
    model, data, _ = quantized(16)
    pairs = [node for node in model.graph if node.op_type == "QuantizeLinear"]
    inner = [node for node in pairs if node.inputs[0].producer() is not None]
    assert len(inner) == 4  # query, key, values, and what enters the last layer; x itself keeps 8 bits
    for node in inner:
        (codes,) = run(model, data[0], node.outputs[0].name)[1:]
        assert np.ptp(codes.astype(int)) <= 15
    widths = {node.inputs[1].producer().inputs[0].dtype for node in model.graph if node.op_type == "MatMul"} - {None}
    assert widths >= {ir.DataType.INT4, ir.DataType.INT8}  # layers that read x keep 8 bits


def test_static_products_mean_what_the_graph_meant():
    model, data, _ = quantized(16)
    before = [session(model.clone(), optimization="none").run(None, feeds)[0] for feeds in data]
    assert [change.what.split(",")[0] for change in LowerStatic()(model).changes] == ["StaticQuantizeMatMulLowBit"]
    for native in (True, False):
        for feeds, want in zip(data, before, strict=True):
            got = session(model.clone(), native=native).run(None, feeds)[0]
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    assert model.graph.outputs[0].producer().op_type == "StaticQuantizeMatMulLowBit"  # its bias went into it
    assert not LowerStatic()(model).changes


def test_shared_activations_are_quantized_once():
    text = SEPARATE.replace("q = MatMul(x, w_q)", "t = Tanh(x)\n    q = MatMul(t, w_q)").replace("(x, w", "(t, w")
    model, data = observed(text)
    Assign(target("ort-cpu"), inner_weight="s4")(model)
    SolveWeights()(model)
    PlaceQDQ()(model)
    made = [change.what.split(",")[0] for change in LowerStatic()(model).changes]
    assert sorted(made) == ["QuantizedMatMulLowBit"] * 3 + ["StaticQuantizeMatMulLowBit"]
    want = session(model.clone(), native=False).run(None, data[0])[0]
    np.testing.assert_allclose(session(model.clone()).run(None, data[0])[0], want, rtol=1e-4, atol=1e-4)


def planned(**options) -> list[str]:
    """The plans of the separate model's nodes on 4-bit weights."""
    model, _ = observed(SEPARATE)
    Assign(target("ort-cpu"), inner_weight="s4", **options)(model)
    return [str(note(node).plan) for node in model.graph if note(node).plan is not None]


def test_a_range_reduced_for_bytes_leaves_four_bits_alone():
    plans = planned(settings=Settings(reduce_range=True))
    assert "u8 × s4.channel" in plans and "u8 × s8/128.channel" in plans


@pytest.mark.parametrize("name", ["tensorrt", "openvino", "qnn", "onnx"])
def test_targets_of_standard_operators_refuse_ours(name):
    with pytest.raises(QonnxError, match=f"target '{name}' reads standard operators only"):
        Assign(target(name), probabilities="log")
    with pytest.raises(QonnxError, match=f"target '{name}' reads standard operators only"):
        AssignCodebooks(target(name))
    model, *_ = quantized(16)
    assert not LowerStatic(target(name))(model).changes
    assert [found.rule for found in lint(model, target(name))].count("contrib-operator") == 1


@pytest.mark.parametrize(("levels", "per_octave"), [(1, 1.0), (300, 1.0), (16, 0.0)])
def test_impossible_logarithms_are_refused_before_any_work(levels, per_octave):
    with pytest.raises(QonnxError, match=r"levels|octave"):
        Assign(target("ort-cpu"), probabilities="log", log_levels=levels, log_codes_per_octave=per_octave)


def test_bits_of_the_command_line_reach_inner_layers():
    steps = {step.name: step.options for step in recipe("vit-w4a8").override(Settings(bits=8)).steps}
    assert steps["assign"]["inner_weight"] == "s8" and steps["assign"]["weight"] == "s8"


GELU = f"""{HEAD}
g (float[B,5,8] x, float[8,8] w, float[8,6] w2, float[6] b) => (float[B,5,6] y) {{
    h = MatMul(x, w)
    a = Gelu(h)
    m = MatMul(a, w2)
    y = Add(m, b)
}}"""


@pytest.mark.parametrize("shifts", [False, True])
def test_inputs_are_scaled_and_the_layer_takes_the_inverse(shifts):
    model = build(GELU.replace('"": 21', '"": 20'))
    data = [{"x": 3 * np.random.default_rng(i).normal(size=(2, 5, 8)).astype(np.float32)} for i in range(4)]
    InferShapes()(model)
    Observe(data)(model)
    before = run(model, data[0])[0]
    assert len(ReparameterizeInputs(strength=1.0, shifts=shifts)(model).changes) == 1
    assert [node.op_type for node in model.graph].count("Mul") == 1
    np.testing.assert_allclose(run(model, data[0])[0], before, rtol=1e-5, atol=1e-5 * np.abs(before).max())
    name = next(node for node in model.graph if node.op_type == "MatMul" and node.inputs[0].name != "x").inputs[0].name
    even = np.concatenate([run(model, feeds, name)[1].reshape(-1, 8) for feeds in data])
    reach = even.max(0) - even.min(0) if shifts else np.abs(even).max(0)
    assert reach.max() / reach.min() == pytest.approx(1.0, rel=1e-4)


def test_logarithmic_attention_beats_uniform_codes_on_peaked_rows():
    """Four bits: SQNR of attention × V against uniform codes of the probabilities with the best clip."""
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(64, 257)).astype(np.float32) * 3
    value = generator.normal(size=(257, 64)).astype(np.float32)
    exact = np.exp(scores - scores.max(-1, keepdims=True))
    exact /= exact.sum(-1, keepdims=True)
    table = log_attention.weight_table(16, 1.0)
    weights = table[log_attention.codes_of(scores, 16, 1.0)]
    logarithmic = (weights @ value) / weights.sum(-1, keepdims=True)

    def uniform(top: float) -> np.ndarray:
        return np.minimum(np.rint(exact / top * 15), 15) / 15 * top @ value

    def noise(y: np.ndarray) -> float:
        return float(np.square(y - exact @ value).sum())

    assert noise(logarithmic) < min(noise(uniform(top)) for top in np.geomspace(0.01, 1, 40)) / 3
