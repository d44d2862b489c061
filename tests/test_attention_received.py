"""Attention received: which layers make values, what a token counts, and that solvers spend their freedom there."""

import numpy as np
import pytest

from models import llama
from models.tiny import build
from qonnx.notes import note
from qonnx.passes.assign_weights import AssignWeights
from qonnx.passes.attention_received import attention_over, received
from qonnx.passes.solve_in_turn import SolveInTurn
from qonnx.targets import TARGETS

HEAD = '<ir_version: 13, opset_import: ["": 25]> g (float[1,N,64] x, '
APART = """float[64,64] w_q, float[64,64] w_k, float[64,64] w_v, float[64] b) => (float[1,N,64] y) {
    q = MatMul(x, w_q)  k = MatMul(x, w_k)  v = MatMul(x, w_v)  c = Add(v, b)  t = Transpose<perm = [0, 2, 1]>(k)
    s = MatMul(q, t)  p = Softmax<axis = -1>(s)  y = MatMul(p, c) }"""
FUSED = """float[64,192] w) => (float[1,N,64] y) {
    a = MatMul(x, w)  q, k, v = Split<axis = -1, num_outputs = 3>(a)  t = Transpose<perm = [0, 2, 1]>(k)
    s = MatMul(q, t)  p = Softmax<axis = -1>(s)  y = MatMul(p, v) }"""
REUSED = """float[64,64] w) => (float[1,N,64] y) {
    v = MatMul(x, w)  t = Transpose<perm = [0, 2, 1]>(x)  s = MatMul(x, t)  p = Softmax<axis = -1>(s)
    m = MatMul(p, v)  y = Add(m, v) }"""
SCORED = """float[64,64] w) => (float[1,N,64] y) {
    v = MatMul(x, w)  t = Transpose<perm = [0, 2, 1]>(x)  s = MatMul(x, t)  p = Sigmoid(s)  y = MatMul(p, v) }"""


def over(text: str) -> dict[str, str | None]:
    """Output of each product with a constant -> the probabilities found behind it."""
    model = build(HEAD + text)
    constant = set(model.graph.initializers.values())
    nodes = [node for node in model.graph if node.op_type == "MatMul" and node.inputs[1] in constant]
    return {node.outputs[0].name: p.name if (p := attention_over(node)) is not None else None for node in nodes}


def test_values_are_told_from_queries_and_keys():
    assert over(APART) == {"q": None, "k": None, "v": "p"}


@pytest.mark.parametrize("text", [FUSED, REUSED, SCORED], ids=["fused", "read beside attention", "no softmax"])
def test_what_is_not_only_values_is_left_alone(text):
    assert set(over(text).values()) == {None}


def test_values_of_grouped_heads_with_a_past_are_found():
    shape = llama.Shape(layers=2, heads=4, groups=2, head_width=8)
    model = llama.build(llama.random_arrays(shape, tokens=40, width=32, inner=48), shape)
    products = [node for node in model.graph if node.op_type == "MatMul"]
    found = {node.name: p.name for node in products if (p := attention_over(node)) is not None}
    assert found == {"0.v": "0.softmax.out", "1.v": "1.softmax.out"}


def test_weights_are_the_energy_of_an_error_behind_attention():
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(1, 3, 20, 20)) * 3
    probabilities = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    energy = [np.square(probabilities[..., t, None] * np.ones(5)).sum() for t in range(20)]  # of an error of token t
    weights = received(probabilities, 20)
    assert weights.mean() == pytest.approx(1, rel=1e-6) and weights.min() >= 0.1
    assert np.corrcoef(weights, energy)[0, 1] == pytest.approx(1, abs=1e-6)
    assert received(probabilities, 21) is None and received(np.zeros((1, 3, 20, 20)), 20) is None


def test_solvers_spend_their_freedom_on_tokens_that_are_attended_to():
    text = """<ir_version: 13, opset_import: ["": 25]> g (float[1,N,64] x, float[1,N,N] s, float[64,64] w_v)
        => (float[1,N,64] y) { p = Softmax<axis = -1>(s)  v = MatMul(x, w_v)  y = MatMul(p, v) }"""
    generator, data = np.random.default_rng(1), []
    first = generator.normal(size=64)  # to which all others attend
    for _ in range(8):
        x, scores = generator.normal(size=(1, 40, 64)), generator.normal(size=(1, 40, 40))
        x[:, 0], scores[..., 0] = first, 6.0
        data.append({"x": x.astype(np.float32), "s": scores.astype(np.float32)})
    errors = []
    for attention in (False, True):
        model = build(text)
        weight = model.graph.initializers["w_v"].const_value.numpy().copy()
        AssignWeights(TARGETS["ort-cpu"], bits=2, block=32)(model)
        SolveInTurn(data, solver="gptq", ridge=float("inf"), biases=False, attention=attention)(model)
        (solved,) = (note(node).solved for node in model.graph if node.outputs[0].name == "v")
        errors.append(np.abs(first @ (solved.decode() - weight)).mean())
    assert errors[1] < 0.5 * errors[0]
