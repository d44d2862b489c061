"""Channels read in parts: the same function, a narrower tensor, and statistics that say so."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from models.tiny import build
from qonnx.notes import note
from qonnx.passes.infer_shapes import InferShapes
from qonnx.passes.observe import Observe
from qonnx.passes.split_channels import SplitChannels, _parts
from qonnx.runtime import session

TEXT = """<ir_version: 10, opset_import: ["": 23]>
g (float[B,5,64] x, float[64] gamma, float[64] beta, float[64,6] w, float[6] b, float[4,64] w2)
    => (float[B,5,6] y, float[M,4] z) <int64[2] rows = {-1, 64}> {
    n = LayerNormalization(x, gamma, beta)
    m = MatMul(n, w)
    y = Add(m, b)
    z0 = MatMul(n, w)
    r = Reshape(x, rows)
    o = RMSNormalization(r, gamma)
    z = Gemm<transB = 1>(o, w2)
}"""


def observed(wide: float = 50.0) -> tuple[ir.Model, list[dict]]:
    model = build(TEXT)
    gamma = model.graph.initializers["gamma"]
    data = np.ones(64, np.float32)
    data[[3, 40]] = wide, 0.4 * wide
    gamma.const_value = ir.tensor(data, name="gamma")
    feeds = [{"x": np.random.default_rng(i).normal(size=(2, 5, 64)).astype(np.float32)} for i in range(4)]
    InferShapes()(model)
    Observe(feeds, gram=True)(model)
    return model, feeds


def run(model: ir.Model, feeds: dict) -> list[np.ndarray]:
    return session(model.clone(), optimization="none").run(None, feeds)


@pytest.mark.parametrize("most", [1 / 64, 1 / 32, 1 / 4, 1.0])
def test_the_function_stays_and_the_range_shrinks(most):
    model, data = observed()
    before = run(model, data[0])
    norms = [node for node in model.graph if "Normalization" in node.op_type]
    ranges = [note(node.outputs[0]).stats for node in norms]
    assert len(SplitChannels(most=most, gain=1.0)(model).changes) == 2
    for a, b in zip(before, run(model, data[0]), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=128 * 2**-23 * np.abs(a).max())
    for norm, old in zip(norms, ranges, strict=True):
        (use,) = {use.node for use in norm.outputs[0].uses()}
        repeated = use.outputs[0]
        assert use.op_type == "Gather" and 64 < repeated.shape[-1] <= 64 + most * 64
        claimed = note(repeated).stats
        assert claimed.maximum - claimed.minimum < old.maximum - old.minimum
        Observe(data, gram=True)(model)
        real = note(repeated).stats
        np.testing.assert_allclose(claimed.channel_minimum, real.channel_minimum, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(claimed.gram.matrix, real.gram.matrix, atol=1e-4 * np.abs(real.gram.matrix).max())
        assert claimed.elements == real.elements and claimed.shape == real.shape


def test_even_channels_are_left_alone():
    model, _ = observed(wide=1.0)
    assert not SplitChannels()(model).changes


def test_the_threshold_is_the_lowest_that_fits():
    wide = np.array([10.0, 1, 1, 1, 3, 1, 1, 1])
    np.testing.assert_array_equal(_parts(wide, 2 / 8), [3, 1, 1, 1, 1, 1, 1, 1])  # 10/3: one more part would not help 3
    np.testing.assert_array_equal(_parts(wide, 4 / 8), [4, 1, 1, 1, 2, 1, 1, 1])
    np.testing.assert_array_equal(_parts(wide, 0), np.ones(8))
    random = np.random.default_rng(0).exponential(size=96)
    for most in (0.05, 0.2, 0.7):
        parts = _parts(random, most)
        room = int(most * 96)
        assert parts.sum() - 96 <= room
        limit = (random / parts).max() * (1 - 1e-6)  # the next lower threshold needs more channels than there are
        assert np.ceil(random / limit).sum() - 96 > room
