"""Assign: which nodes get plans, on which formats, with which grids, and why others do not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from models.tiny_texts import TEXTS
from qonnx.errors import QonnxError
from qonnx.formats import FORMATS
from qonnx.notes import note
from qonnx.passes.assign import Assign
from qonnx.plan import Plan, encoding, union
from qonnx.settings import Settings
from qonnx.targets import TARGETS, target
from tests.qdq_cases import HEAD, assigned, fates, node_of, spelt

DENSE = f"""{HEAD} g (float[B,32] x, float[32,32] w, float[32,32] w2) => (float[B,32] y) {{
    m = MatMul(x, w)
    a = Gelu(m)
    y = MatMul(a, w2)
}}"""
RESIDUAL = f"""{HEAD} g (float[B,16,6,6] x, float[16,16,3,3] w1, float[16,16,3,3] w2, float[16,16,1,1] w3)
    => (float[B,16,6,6] y) {{
    c1 = Conv<pads: ints = [1,1,1,1]>(x, w1)
    r1 = Relu(c1)
    c2 = Conv<pads: ints = [1,1,1,1]>(r1, w2)
    s = Add(c2, r1)
    r = Relu(s)
    y = Conv(r, w3)
}}"""


def plan(model, output: str) -> Plan | None:
    return note(node_of(model, output)).plan


def shown(model, output: str) -> str:
    found = plan(model, output)
    return "" if found is None else f"{found}{' out' if found.output else ''}{' bias' if found.bias else ''}"


def test_a_product_gets_the_types_of_the_target():
    model = assigned(spelt(DENSE))
    assert shown(model, "m") == "u8 × s8.channel"
    assert shown(assigned(spelt(DENSE), "tensorrt"), "y") == "s8 × s8.channel"
    assert shown(assigned(spelt(DENSE), "qnn"), "y") == "u8 × s8 out"


def test_a_type_that_the_target_does_not_take_is_refused_before_any_work():
    with pytest.raises(QonnxError, match=r"takes activations of type s8.*not u16"):
        Assign(target("tensorrt"), activation="u16")


def test_attention_values_stay_float_with_a_reason_and_the_rest_does_not():
    model = assigned(spelt(TEXTS["attention"]))
    assert fates(model)["o1"] == ("skipped", "accuracy")
    assert shown(model, "scores") == "u8 × u8"
    assert plan(assigned(spelt(TEXTS["attention"]), probabilities="quantize"), "o1") is not None


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (Settings(nodes_to_exclude=("MatMul_m*",)), "--nodes-to-exclude"),
        (Settings(nodes_to_exclude=("re:.*_m_.*",)), "--nodes-to-exclude"),
        (Settings(op_types_to_quantize=("Conv",)), "not in --op-types-to-quantize"),
    ],
)
def test_what_the_user_excludes_has_the_pattern_in_the_ledger(settings: Settings, why: str):
    model = assigned(spelt(DENSE), settings=settings)
    fate = note(node_of(model, "m")).fate
    assert (fate.state, fate.reason) == ("skipped", "excluded")
    assert why in fate.detail


def test_a_rule_of_the_target_keeps_small_products_and_names_itself():
    text = (
        DENSE.replace("32,32", "32,8")
        .replace("float[B,32] y", "float[B,8] y")
        .replace("y = MatMul(a, w2)", "y = Neg(a)")
    )
    fate = note(node_of(assigned(spelt(text), "tensorrt"), "m")).fate
    assert fate.reason == "target-rule"
    assert "N < 16" in fate.detail


def test_a_layer_that_is_float_on_the_target_still_stores_its_weight_in_codes():
    model = assigned(
        spelt(f"""{HEAD} g (float[B,4,5,5] x, float[4,3,2,2] w) => (float[B,3,6,6] y) {{
        y = ConvTranspose(x, w)
    }}""")
    )
    assert shown(model, "y") == "float × s8.channel"


def test_nothing_that_never_ran_or_overflowed_is_planned():
    model = spelt(DENSE)
    Assign(target("ort-cpu"), Settings())(model)
    assert fates(model)["m"] == ("skipped", "no-stats")


def test_the_relu_behind_a_convolution_is_where_its_range_is_chosen():
    model = assigned(spelt(RESIDUAL))
    found = note(node_of(model, "r1").outputs[0]).encodings["u8"]
    assert (found.zero_point, found.low) == (0, 0.0)
    assert not note(node_of(model, "c1").outputs[0]).encodings


@pytest.mark.parametrize(("dtype", "expected"), [("float", True), ("float16", False)])
def test_a_bias_becomes_int32_only_where_products_of_scales_have_a_type(dtype: str, expected: bool):
    text = f"""{HEAD} g ({dtype}[B,4] x, {dtype}[4,4] w, {dtype}[4] b) => ({dtype}[B,4] y) {{
        y = Gemm(x, w, b)
    }}"""
    assert plan(assigned(spelt(text)), "y").bias is expected


def test_seven_bit_weights_where_products_saturate(monkeypatch):
    monkeypatch.setattr("qonnx.passes.assign.has_vnni", lambda: False)
    assert plan(assigned(spelt(DENSE)), "m").weight.name == "s8/128.channel"
    assert plan(assigned(spelt(DENSE), settings=Settings(reduce_range=False)), "m").weight.name == "s8.channel"
    assert plan(assigned(spelt(DENSE), "ort-arm"), "m").weight.name == "s8.channel"


# Operators without weights.


def test_one_branch_of_a_residual_add_on_tensorrt():
    model = assigned(spelt(RESIDUAL), "tensorrt")
    assert list(plan(model, "s").inputs) == [1], "the convolution behind the other branch takes the Add in"
    assert not plan(model, "s").output


def test_of_two_convolutions_the_later_one_keeps_the_add():
    text = RESIDUAL.replace("s = Add(c2, r1)", "c4 = Conv(r1, w3)\n s = Add(c4, c2)")
    assert list(plan(assigned(spelt(text), "tensorrt"), "s").inputs) == [1]


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("the convolution's output is read elsewhere too", ("y = Conv(r, w3)", "y = Mul(r, c2)")),
        ("no branch is a convolution", ("s = Add(c2, r1)", "t = Tanh(c2)\n s = Add(t, r1)")),
        ("a constant is a bias", ("s = Add(c2, r1)", "s = Add(c2, b)")),
    ],
)
def test_near_misses_of_a_residual_add(why: str, change: tuple[str, str]):
    text = RESIDUAL.replace(*change).replace("float[16,16,1,1] w3", "float[16,16,1,1] w3, float[16,1,6] b")
    model = assigned(spelt(text), "tensorrt")
    assert all(note(node).plan is None for node in model.graph if node.op_type == "Add"), why


def test_both_branches_between_quantized_neighbours_on_openvino():
    assert list(plan(assigned(spelt(RESIDUAL), "openvino"), "s").inputs) == [0, 1]
    model = assigned(spelt(RESIDUAL.replace("y = Conv(r, w3)", "y = Tanh(r)")), "openvino")
    assert fates(model)["s"] == ("skipped", "float-neighbours")


@pytest.mark.parametrize("name", ["ort-cpu", "ort-arm", "onnx"])
def test_elementwise_operators_stay_float_where_the_target_wants_none(name: str):
    model = assigned(spelt(RESIDUAL), name)
    assert plan(model, "s") is None
    assert "s" not in fates(model), "what the target does not name is no line of the ledger"


def test_every_operator_is_a_unit_on_qnn():
    model = assigned(spelt(RESIDUAL), "qnn")
    assert all(note(node).plan is not None and note(node).plan.output for node in model.graph)
    before, behind = (note(node_of(model, name).outputs[0]).encodings["u8"] for name in ("c1", "r1"))
    assert before is behind, "the convolution writes codes of the range behind the Relu"


CONCAT = f"""{HEAD} g (float[B,16,6,6] x, float[16,16,1,1] w1, float[16,16,1,1] w2, float[16,32,1,1] w3)
    => (float[B,16,6,6] y) {{
    a = Conv(x, w1)
    b0 = Conv(x, w2)
    ten = Constant<value = float {{10.0}}>()
    t = Tanh(b0)
    b = Mul(t, ten)
    c = Concat<axis: int = 1>(a, b)
    y = Conv(c, w3)
}}"""


@pytest.mark.parametrize("name", ["openvino", "tensorrt"])
def test_inputs_of_a_concat_and_its_reader_share_one_grid(name: str):
    model = assigned(spelt(CONCAT), name)
    type = target(name).activation.type
    grids = [note(node_of(model, value).outputs[0]).encodings[type] for value in ("a", "b", "c")]
    assert grids[0] == grids[1] == grids[2]
    assert grids[0].high > 9, "it covers the widest of them"


def test_a_concat_that_no_integer_operator_reads_is_left_alone():
    model = assigned(
        spelt(CONCAT.replace("y = Conv(c, w3)", "y, z = Split<axis: int = 1, num_outputs: int = 2>(c)")), "openvino"
    )
    assert plan(model, "c") is None


FIXED = f"""{HEAD} g (float[B,8] x) => (float[B,8] p, float[B,8] s, float[B,8] t) {{
    h = Constant<value = float {{0.01}}>()
    q = Mul(x, h)
    p = Softmax(q)
    s = Sigmoid(q)
    t = Tanh(q)
}}"""


def test_ranges_that_the_target_fixes():
    model = assigned(spelt(FIXED), "qnn")
    grids = {name: note(node_of(model, name).outputs[0]).encodings["u8"] for name in "pst"}
    assert grids["p"] == grids["s"] == encoding(grids["p"].format, 0.0, 1.0)
    assert (grids["t"].low, grids["t"].high) == pytest.approx((-1.0, 1.0), abs=2 / 255)


@pytest.mark.parametrize("type", ["u16", "s16"])
def test_scales_that_the_target_fixes_at_sixteen_bits(type: str):
    model = assigned(spelt(FIXED), "qnn", activation=type)
    for operator, name in (("Sigmoid", "s"), ("Tanh", "t")):
        scale, zero_point = target("qnn").fixed_scales[f"{operator}.{type}"]
        found = note(node_of(model, name).outputs[0]).encodings[type]
        assert (found.scale, found.zero_point) == (np.float32(scale), zero_point)


def test_no_range_is_narrower_than_the_target_takes():
    text = f"""{HEAD} g (float[B,8] x) => (float[B,8] y) {{
        tiny = Constant<value = float {{0.0000001}}>()
        m = Mul(x, tiny)
        y = Relu(m)
    }}"""
    found = note(node_of(assigned(spelt(text), "qnn"), "m").outputs[0]).encodings["u8"]
    assert found.scale * 255 >= target("qnn").smallest_range
    assert found.scale * 255 < 1.01 * target("qnn").smallest_range


@pytest.mark.parametrize("name", TARGETS)
def test_a_second_run_has_nothing_to_say(name: str):
    model = assigned(spelt(CONCAT), name)
    assert not Assign(target(name), Settings())(model).changes


def test_a_union_of_grids_is_the_widest_or_covers_all():
    u8 = FORMATS["u8"]
    narrow, wide, shifted = encoding(u8, 0, 1), encoding(u8, -1, 2), encoding(u8, -3, 0)
    assert union([narrow, wide]) is wide
    both = union([wide, shifted])
    assert both.low <= -3 + both.scale and both.high >= 2 - both.scale


@pytest.mark.parametrize("dtype", ["FLOAT16", "BFLOAT16"])
def test_scales_of_short_floats_are_of_their_type_and_cover_the_range(dtype: str):
    kind = ir.DataType[dtype]
    for low, high in ((-0.37, 1.91), (0.0, 6.0), (-3.3, 0.0)):
        for type in ("u8", "s8"):
            found = encoding(FORMATS[type], low, high, kind)
            assert float(np.asarray(found.scale).astype(kind.numpy())) == found.scale
            reach = found.scale / 2 + 1e-9  # an asymmetric zero point is rounded
            assert found.low <= low + reach and found.high >= high - reach
