"""Activation-aware scales of weights: the same function, and less error where some channels carry much."""

import numpy as np
import pytest

from models.tiny import build
from qonnx import runtime
from qonnx.notes import note
from qonnx.passes.observe import Observe
from qonnx.passes.scale_salient import ScaleSalient
from qonnx.recipe import parse_recipe
from qonnx.targets import TARGETS

HEAD = '<ir_version: 13, opset_import: ["": 25]> g '
NET = """(float[N,64] x, float[64] gamma, float[64] beta, float[64,96] w1, float[64,32] w2)
    => (float[N,96] y, float[N,32] z) {
    n = LayerNormalization<axis = -1>(x, gamma, beta)  y = MatMul(n, w1)  z = MatMul(n, w2) }"""
RECIPE = """passes = ["observe", {0}"assign_weights", "solve_weights", "place_qdq"]
[options.observe]
gram = true
[options.assign_weights]
bits = 4
block = 32
"""


def model_and_samples(loud: bool):
    """A norm whose gains make every eighth channel thirty times as loud, or none."""
    model, generator = build(HEAD + NET), np.random.default_rng(0)
    gamma = model.graph.initializers["gamma"].const_value.numpy()
    gamma[:] = np.where(np.arange(64) % 8 == 3, 30.0 if loud else 1.0, 1.0)
    model.graph.initializers["beta"].const_value.numpy()[:] = 0
    return model, [{"x": generator.normal(size=(40, 64)).astype(np.float32)} for _ in range(4)]


def outputs(model, x: np.ndarray) -> list[np.ndarray]:
    return runtime.session(model, optimization="none", threads=1).run(None, {"x": x})


@pytest.mark.parametrize("loud", [True, False])
def test_the_function_stays(loud):
    model, samples = model_and_samples(loud)
    want = outputs(model, samples[0]["x"])
    Observe(samples, gram=True)(model)
    changes = ScaleSalient()(model).changes
    assert len(changes) == (1 if loud else len(changes))
    for a, b in zip(outputs(model, samples[0]["x"]), want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


def test_loud_channels_lose_less():
    lost = []
    for step in ("", '"scale_salient", '):
        model, samples = model_and_samples(True)
        x = np.random.default_rng(1).normal(size=(200, 64)).astype(np.float32)
        want = outputs(model, x)
        parse_recipe(RECIPE.format(step), "r").run(model, target=TARGETS["ort-cpu"], data=samples)
        got = outputs(model, x)
        lost.append(sum(np.square(a - b).sum() / np.square(b).sum() for a, b in zip(got, want, strict=True)))
    assert lost[1] < 0.7 * lost[0]


def test_without_gram_matrices_nothing_changes():
    model, samples = model_and_samples(True)
    Observe(samples)(model)
    assert not ScaleSalient()(model).changes
    assert all(note(node).fate is None for node in model.graph)
