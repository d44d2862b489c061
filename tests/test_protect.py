"""Protect and bias correction on a network with one layer that eight bits ruin, and mean errors of their own."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from models.tiny import build
from qonnx.harm import decibel, judge
from qonnx.notes import clone, note, warnings
from qonnx.passes.assign import Assign
from qonnx.passes.correct_bias import CorrectBias
from qonnx.passes.infer_shapes import InferShapes
from qonnx.passes.label import Label
from qonnx.passes.observe import Observe
from qonnx.passes.place_qdq import PlaceQDQ
from qonnx.passes.protect import Protect
from qonnx.passes.solve_weights import SolveWeights
from qonnx.runtime import session
from qonnx.settings import Settings
from qonnx.targets import TARGETS

ORT = TARGETS["ort-cpu"]
HEAD = '<ir_version: 10, opset_import: ["": 21]>'
# `w_bad` sees one input channel a hundred times the others, which it ignores: on one grid the others vanish.
NETWORK = f"""{HEAD}
g (float[B,16] x, float[16] w_spread, float[16,32] w_bad, float[32,32] w_good, float[32,8] w_last) => (float[B,8] y) {{
    s = Mul(x, w_spread)
    b = MatMul(s, w_bad)
    t = Tanh(b)
    c = MatMul(t, w_good)
    u = Tanh(c)
    y = MatMul(u, w_last)
}}"""


def network(settings: Settings | None = None, target=ORT) -> tuple[ir.Model, list[dict]]:
    model = build(NETWORK)
    spread = np.ones(16, np.float32)
    spread[5] = 100.0
    constants = model.graph.initializers
    constants["w_spread"].const_value = ir.tensor(spread, name="w_spread")
    weight = np.where(spread[:, None] > 1, 0, constants["w_bad"].const_value.numpy())
    constants["w_bad"].const_value = ir.tensor(weight.astype(np.float32), name="w_bad")
    data = [{"x": np.random.default_rng(i).normal(size=(8, 16)).astype(np.float32)} for i in range(10)]
    InferShapes()(model)
    Label()(model)
    Observe(data)(model)
    Assign(target, settings)(model)
    SolveWeights()(model)
    return model, data


def sqnr(model: ir.Model, data: list[dict]) -> float:
    float_model, _ = network()
    judged = judge(float_model, data, 1, (), squashed=True, exact=True)
    quantized = clone(model)
    PlaceQDQ()(quantized)
    return decibel(judged.measure(quantized).noise)


def kept(model: ir.Model) -> list[str]:
    return [n.outputs[0].name for n in model.graph if note(n).fate is not None and note(n).fate.reason == "accuracy"]


def test_the_ruined_layer_is_found_and_kept():
    model, data = network()
    before = sqnr(model, data)
    Protect(data, ORT, held_out=data[5:], min_sqnr=25, max_float=0.9)(model)
    assert kept(model) == ["b"]
    assert before < 25 <= sqnr(model, data)
    assert "dB" in note(next(n for n in model.graph if n.outputs[0].name == "b")).fate.detail


def test_a_bound_that_holds_costs_nothing():
    model, data = network()
    assert not Protect(data, ORT, min_sqnr=-20)(model).changes
    assert kept(model) == []


def test_the_budget_is_obeyed():
    model, data = network()
    Protect(data, ORT, min_sqnr=60, max_float=0.0)(model)
    assert kept(model) == []
    for budget, names in ((0.2, []), (0.3, ["b"])):  # the layer has 512 of 1792 multiply-adds, 0.286
        model, data = network()
        Protect(data, ORT, min_sqnr=200, max_float=budget)(model)
        assert [name for name in kept(model) if name == "b"] == names


def test_the_users_bound_replaces_the_default():
    settings = Settings(min_sqnr=-20.0)
    model, data = network(settings)
    assert not Protect(data, ORT, settings)(model).changes
    strict = Settings(min_sqnr=25.0, max_float=0.9)
    model, data = network(strict)
    assert Protect(data, ORT, strict)(model).changes


def test_disagreement_is_a_bound_as_well():
    loose, strict = Settings(max_drop=1.0), Settings(max_drop=0.0, max_float=1.0)
    model, data = network(loose)
    assert not Protect(data, ORT, loose)(model).changes
    model, data = network(strict)
    Protect(data, ORT, strict)(model)
    assert kept(model)[0] == "b"


def test_sixteen_bit_activations_come_before_float():
    wide = dataclasses.replace(ORT, name="other", higher=("a16", "float"))
    model, data = network(target=wide)
    Protect(data, wide, min_sqnr=25, max_float=0.9)(model)
    plan = note(next(n for n in model.graph if n.outputs[0].name == "b")).plan
    assert [format.bits for format in plan.inputs.values()] == [16]
    assert sqnr(model, data) >= 25


@pytest.mark.parametrize("transposed", [False, True], ids=["MatMul", "Gemm"])
def test_bias_correction_takes_out_the_layers_own_mean_error(transposed):
    """Inputs sit on a constant between two codes, so that rounding them shifts every output by a constant."""
    multiply = "c = Gemm(x, w, b)" if transposed else "m = MatMul(x, w)\n    c = Add(m, b)"
    model = build(f"""{HEAD} g (float[B,8] x, float[8,4] w, float[4] b) => (float[B,4] y) {{
        {multiply}
        y = Tanh(c)
    }}""")
    rng = np.random.default_rng(0)
    data = [{"x": np.full((6, 8), 0.3, np.float32)} for _ in range(3)]
    data.append({"x": np.array([[-100.0] * 8, [100.0] * 8], np.float32)})
    data += [{"x": np.full((6, 8), 0.3, np.float32) + rng.normal(size=(6, 8)).astype(np.float32) * 1e-3}]
    Label()(model)
    Observe(data)(model)
    Assign(ORT)(model)
    SolveWeights()(model)
    plain, fixed = clone(model), clone(model)
    CorrectBias(data, samples=5)(fixed)
    noted = [note(n).mean_error for n in fixed.graph if note(n).mean_error is not None]
    assert len(noted) == 1
    assert noted[0].shape == (4,)
    for copy in (plain, fixed):
        PlaceQDQ()(copy)
    errors = [mean_error(model, copy, data) for copy in (plain, fixed)]
    # what is left is float32 rounding and, for Gemm, half a step of the int32 bias
    assert np.abs(errors[1]).max() < 0.02 * np.abs(errors[0]).max()


def mean_error(reference: ir.Model, model: ir.Model, data: list[dict]) -> np.ndarray:
    """Mean over all rows of what quantization adds in front of the Tanh, [4]."""
    outputs = []
    for copy in (reference.clone(), model.clone()):
        value = next(n for n in copy.graph if n.op_type == "Tanh").inputs[0]
        copy.graph.outputs.append(value)
        opened = session(copy, optimization="none")
        outputs.append(np.concatenate([opened.run([value.name], feeds)[0] for feeds in data]).astype(np.float64))
    return (outputs[1] - outputs[0]).mean(0)


def test_a_second_measurement_changes_nothing():
    model, data = network()
    assert CorrectBias(data)(model).changes
    assert not CorrectBias(data)(model).changes


def test_a_squashed_output_is_judged_in_front_of_it():
    model = build(f"""{HEAD} g (float[B,4] x, float[4,4] w) => (float[B,4] y) {{
        m = MatMul(x, w)
        y = Softmax(m)
    }}""")
    data = [{"x": np.ones((1, 4), np.float32)}]
    assert judge(model, data, 1, (), squashed=False).names == ("m",)
    assert judge(model, data, 1, (), squashed=True).names == ("y",)


def test_a_bound_that_cannot_be_reached_is_said():
    model, data = network()
    Protect(data, ORT, min_sqnr=200, max_float=0.0)(model)
    assert len(warnings(model)) == 1
    assert "not reached" in warnings(model)[0]
    held, data = network()
    Protect(data, ORT, min_sqnr=25, max_float=0.9)(held)
    assert not warnings(held)


def test_constant_calibration_data_is_said():
    model = build(NETWORK)
    Observe([{"x": np.zeros((8, 16), np.float32)}])(model)
    assert "one value throughout" in warnings(model)[0]
