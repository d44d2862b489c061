"""Salient channels kept apart: which they are, that the function stays, and that the rounded model is better."""

import numpy as np
import onnx_ir as ir
import pytest

from models.tiny import build
from qonnx import runtime
from qonnx.errors import QonnxError
from qonnx.notes import note
from qonnx.passes.assign_weights import AssignWeights
from qonnx.passes.keep_salient import KeepSalient
from qonnx.passes.observe import Observe
from qonnx.passes.place_low_bit import PlaceLowBit
from qonnx.passes.place_qdq import PlaceQDQ
from qonnx.passes.solve_weights import SolveWeights
from qonnx.targets import TARGETS

NET = """<ir_version: 13, opset_import: ["": 25]> g (float[N, 96] x, float[96, 128] w1, float[128] b1, float[96, 32] w3,
    float[64, 128] w2, float[64] b2) => (float[N, 64] y, float[N, 32] z) { a = MatMul(x, w1)  h = Add(a, b1)
    r = Relu(h)  y = Gemm<transB = 1>(r, w2, b2)  z = MatMul(x, w3) }"""
WIDE = (5, 40, 41, 77)  # inputs far larger than the others


def feeds() -> list[dict]:
    scale = np.where(np.isin(np.arange(96), WIDE), 20.0, 1.0)
    return [{"x": (np.random.default_rng(i).normal(size=(40, 96)) * scale).astype(np.float32)} for i in range(4)]


def net(bits: int | None = 2, observed: bool = True) -> ir.Model:
    model = build(NET)
    if observed:
        Observe(data=feeds(), gram=True)(model)
    if bits is not None:
        AssignWeights(TARGETS["ort-cpu"], bits=bits)(model)
    return model


def run(model: ir.Model) -> list[np.ndarray]:
    session = runtime.session(model.clone(), optimization="none", threads=1)
    return [np.concatenate(part) for part in zip(*(session.run(None, feed) for feed in feeds()), strict=True)]


def test_the_function_stays_and_layers_that_read_one_tensor_share_its_channels():
    model = net()
    assert len(KeepSalient(share=0.1, multiple=4, gain=1)(model).changes) == 3
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("Gather") == 4 and kinds.count("MatMul") == 5 and kinds.count("Gemm") == 1
    for before, after in zip(run(net(None)), run(model), strict=True):
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())
    plans = [note(n).plan.weight.name for n in model.graph if note(n).plan is not None]
    assert sorted(plans) == ["s8.channel"] * 3 + ["u2.block16"] * 3
    assert not KeepSalient(share=0.1, multiple=4, gain=1)(model).changes


def test_salient_is_where_rounding_costs_most_on_the_inputs():
    model = net()
    KeepSalient(share=0.05, multiple=4, gain=1)(model)
    assert set(WIDE) <= set(model.graph.initializers["x.salient"].const_value.numpy())
    gathered = next(n for n in model.graph if n.op_type == "Gather").outputs[0]
    claimed = note(gathered).stats
    Observe(data=feeds(), gram=True)(model)
    real = note(gathered).stats
    np.testing.assert_allclose(claimed.gram.matrix, real.gram.matrix, rtol=1e-4)
    np.testing.assert_array_equal(claimed.channel_maximum, real.channel_maximum)


@pytest.mark.parametrize("table", [None, "ternary", "binary"])
def test_the_rounded_model_is_better_with_it(table):
    want, noise = run(net(None)), []
    for share in (0.0, 0.1):
        model = net(None)
        AssignWeights(TARGETS["ort-cpu"], bits=2, block=32, table=table)(model)
        if share:
            KeepSalient(share=share, multiple=4, gain=1.5)(model)
        SolveWeights(solver="nearest-searched")(model)
        PlaceLowBit()(model)
        PlaceQDQ()(model)
        noise.append(sum(float(np.square(a - b).sum()) for a, b in zip(run(model), want, strict=True)))
    assert noise[1] < 0.5 * noise[0]


def test_channels_that_cost_alike_stay_together():
    assert not KeepSalient(share=0.1, multiple=4)(net(observed=False)).changes


def test_too_narrow_layers_stay():
    assert not KeepSalient(share=0.05, multiple=16)(net()).changes  # a twentieth of 96 or 128 is nearer to 0 than to 16


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 0.6}, {"multiple": 0}], ids=str)
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(QonnxError):
        KeepSalient(**wrong)
