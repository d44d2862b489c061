"""A walk gives what one run gives, on every tiny model, and drops what nobody reads any more."""

import numpy as np
import onnx_ir as ir
import pytest

from models.tiny import TINY, build, inputs
from qonnx.probes import tapped, values
from qonnx.runtime import session
from qonnx.walk import Walk


def readable(model: ir.Model) -> list[list[str]]:
    """Tensors of the main graph that a session can return, node by node."""
    return [[v.name for v in node.outputs if isinstance(v.type, ir.TensorType) and v.name] for node in model.graph]


@pytest.mark.parametrize("tiny", TINY)
def test_every_tensor_is_what_one_run_gives(tiny: str):
    model = TINY[tiny]()
    feeds = inputs(model, 1)
    names = [name for some in readable(model) for name in some]
    if not names:
        pytest.skip("no tensor has a known type")
    found = session(tapped(model, names), optimization="none", threads=1).run(names, feeds)
    expected = dict(zip(names, found, strict=True))
    walk = Walk(model, [feeds], threads=1)
    for some in readable(model):
        walk.reach(some)
        for name in some:
            want, (got,) = expected[name], walk.arrays(name)
            assert got.dtype == want.dtype and got.shape == want.shape
            if want.size and want.dtype.kind == "f":
                bound = (2.0**-7 if want.dtype == np.float16 else 1e-5) * np.abs(want).max() + 1e-30
                np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), atol=bound, rtol=0)


def test_only_the_front_is_kept():
    model = build(
        """<ir_version: 10, opset_import: ["": 21]> g (float[2,4] x) => (float[2,4] y) {
            a = Relu(x)  b = Neg(a)  c = Add(a, b)  d = Abs(c)  y = Add(d, c) }"""
    )
    walk = Walk(model, [{"x": np.ones((2, 4), np.float32)}], threads=1)
    walk.reach(["a"])
    assert set(walk.live[0]) == {"a"}
    walk.reach(["c"])
    assert set(walk.live[0]) == {"c"}
    walk.reach(["d"], wanted=["c"])
    assert set(walk.live[0]) == {"c", "d"}


def test_weights_ahead_may_change():
    model = build(
        """<ir_version: 10, opset_import: ["": 21]> g (float[1,2] x, float[2,2] w, float[2,2] w2) => (float[1,2] y) {
            a = MatMul(x, w)  y = MatMul(a, w2) }"""
    )
    walk = Walk(model, [{"x": np.ones((1, 2), np.float32)}], threads=1)
    walk.reach(["a"])
    behind = values(model.graph)["w2"]
    behind.const_value = ir.tensor(np.zeros((2, 2), np.float32), name="w2")
    walk.reach(["y"])
    assert not walk.arrays("y")[0].any()
