"""Label: roles of values and the activation that follows them."""

from __future__ import annotations

import pytest

from models.tiny import TINY, build
from qonnx.notes import note
from qonnx.passes.label import Label

HEAD = '<ir_version: 8, opset_import: ["": 20]>'


def labelled(text: str) -> dict:
    """Notes by the name of the value."""
    model = build(text)
    Label()(model)
    return {value.name: note(value) for node in model.graph for value in node.outputs}


def test_attention_has_scores_and_probabilities():
    model = TINY["attention"]()
    Label()(model)
    roles = {value.name: note(value).role for node in model.graph for value in node.outputs}
    assert roles["p"] == "probabilities"
    assert roles["scores"] == "scores"
    assert roles["y"] == "residual"
    assert roles["q1"] is None, "the Add of a bias is no residual"


def test_scores_are_found_behind_scaling_and_movement():
    notes = labelled(f"""{HEAD} g (float[B,4,4] x, float[4,4] w) => (float[B,4,4] y) {{
        s = MatMul(x, w)
        eight = Constant<value = float {{8.0}}>()
        d = Div(s, eight)
        t = Transpose<perm: ints = [0, 2, 1]>(d)
        p = Softmax(t)
        y = Identity(p)
    }}""")
    assert notes["s"].role == "scores"


def test_a_softmax_that_ends_the_model_gives_no_probabilities_of_attention():
    notes = labelled(f"""{HEAD} g (float[B,4] x, float[4,4] w) => (float[B,4] y) {{
        s = MatMul(x, w)
        y = Softmax(s)
    }}""")
    assert notes["y"].role is None


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("y = Relu(c)", "Relu"),
        ("y = HardSwish(c)", "HardSwish"),
        ("y = HardSigmoid<alpha: float = 0.25>(c)", "HardSigmoid(0.25,0.5)"),
        ("s = Sigmoid(c)\n y = Mul(c, s)", "Silu"),
        ("s = Sigmoid(c)\n y = Mul(s, c)", "Silu"),
    ],
)
def test_the_activation_behind_a_value_is_named(body: str, after: str):
    notes = labelled(f"{HEAD} g (float[B,4] x, float[4,4] w) => (float[B,4] y) {{\n c = MatMul(x, w)\n {body}\n }}")
    assert notes["c"].after == after


@pytest.mark.parametrize(
    ("why", "body", "second"),
    [
        ("another reader sees the value as it is", "y = Relu(c)\n z = Neg(c)", "z"),
        ("the value itself is an output", "y = Relu(c)", "c"),
        ("the Sigmoid is read by someone else", "s = Sigmoid(c)\n y = Mul(c, s)\n z = Neg(s)", "z"),
        ("the product is with another tensor", "s = Sigmoid(c)\n y = Mul(x, s)\n z = Mul(c, x)", "z"),
    ],
)
def test_near_misses_of_a_following_activation(why: str, body: str, second: str):
    outputs = f"float[B,4] y, float[B,4] {second}"
    notes = labelled(f"{HEAD} g (float[B,4] x, float[4,4] w) => ({outputs}) {{\n c = MatMul(x, w)\n {body}\n }}")
    assert notes["c"].after is None, why


def test_a_second_run_has_nothing_to_say():
    model = TINY["attention"]()
    assert Label()(model).changes
    assert not Label()(model).changes
