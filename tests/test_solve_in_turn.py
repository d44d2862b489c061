"""Solving layers in turn: less error than one by one, no mean error left, streams corrected."""

import concurrent.futures
import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from models.tiny import build
from qonnx import runtime
from qonnx.notes import note
from qonnx.passes import solve_jobs
from qonnx.passes.assign_weights import AssignWeights
from qonnx.passes.place_qdq import PlaceQDQ
from qonnx.passes.solve_in_turn import SolveInTurn
from qonnx.passes.solve_weights import SolveWeights
from qonnx.passes.tidy import Tidy
from qonnx.recipe import parse_recipe
from qonnx.targets import TARGETS

HEAD = '<ir_version: 13, opset_import: ["": 25]> g '
CHAIN = """(float[N,64] x, float[64,96] w1, float[96] b1, float[48,96] w2, float[48] b2, float[48,32] w3)
    => (float[N,32] y) {
    a = MatMul(x, w1)  c = Add(a, b1)  d = Relu(c)  e = Gemm<transB = 1>(d, w2, b2)  f = Tanh(e)  y = MatMul(f, w3) }"""
BLOCKS = """(float[N,64] x, float[64,96] w1, float[96,64] w2, float[64] b2, float[64,96] w3, float[96,64] w4)
    => (float[N,64] y) {
    a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)  d = Add(c, b2)  s = Add(x, d)
    e = MatMul(s, w3)  f = Relu(e)  g = MatMul(f, w4)  y = Add(g, s) }"""
SHARED = """(float[N,64] x, float[64,64] w) => (float[N,64] y) {
    a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, w) }"""
KERNELS = """(float[1,32,9,9] x, float[32,32,3,3] w1, float[32] b1, float[40,32,1,1] w2) => (float[1,40,7,7] y) {
    a = Conv(x, w1, b1)  b = Relu(a)  y = Conv(b, w2) }"""
TABLE = """(float[100,64] table, int64[7] i, float[64,64] w) => (float[7,64] y) {
    a = Gather(table, i)  y = MatMul(a, w) }"""
MODELS = {"chain": CHAIN, "blocks": BLOCKS, "shared": SHARED, "kernels": KERNELS, "table": TABLE}


def samples(model: ir.Model, seed: int, count: int = 10) -> list[dict]:
    """Rows with strong common directions and an offset, as activations have."""
    generator, mixing = np.random.default_rng(seed), np.random.default_rng(7).normal(size=(64, 16))
    feeds = []
    for _ in range(count):
        if model.graph.inputs[0].name == "i" or "i" in {v.name for v in model.graph.inputs}:
            feeds.append({"i": generator.integers(0, 100, 7)})
        elif model.graph.inputs[0].shape[1] == 64:
            x = generator.normal(size=(50, 16)) @ mixing.T + 0.3 * generator.normal(size=(50, 64)) + 1
            feeds.append({"x": x.astype(np.float32)})
        else:
            smooth = generator.normal(size=(1, 32, 1, 1)) + 0.3 * generator.normal(size=(1, 32, 9, 9))
            feeds.append({"x": smooth.astype(np.float32)})
    return feeds


def solved(text: str, *passes, bits: int = 2, seed: int = 0) -> ir.Model:
    model = build(HEAD + text)
    data = samples(model, seed)
    AssignWeights(TARGETS["ort-cpu"], bits=bits)(model)
    for one in passes:
        one = dataclasses.replace(one, data=data) if isinstance(one, SolveInTurn) else one
        one(model)
    PlaceQDQ()(model)
    Tidy()(model)
    return model


def outputs(model: ir.Model, feeds: list[dict]) -> np.ndarray:
    session = runtime.session(model, optimization="none", threads=1)
    return np.concatenate([session.run(None, sample)[0] for sample in feeds]).astype(np.float64)


def noise(text: str, *passes, seed: int, **options) -> float:
    """Relative error power on samples of that seed; the passes see those of seed 0."""
    true = build(HEAD + text)
    feeds = samples(true, seed)
    want, got = outputs(true, feeds), outputs(solved(text, *passes, **options), feeds)
    return float(np.square(got - want).sum() / np.square(want - want.mean(0)).sum())


TURN = SolveInTurn(None)


@pytest.mark.parametrize("name", MODELS)
def test_less_error_than_round_to_nearest_on_new_data(name):
    text = MODELS[name]
    assert noise(text, TURN, seed=1) < 0.8 * noise(text, SolveWeights("nearest"), seed=1)


@pytest.mark.parametrize("name", ["chain", "blocks", "kernels"])
def test_no_mean_error_is_left_on_the_samples(name):
    true = build(HEAD + MODELS[name])
    feeds = samples(true, 0)
    want, got = outputs(true, feeds), outputs(solved(MODELS[name], TURN), feeds)
    axes = (0, 2, 3) if want.ndim == 4 else (0,)
    spread = want.std(axes)
    assert (np.abs((got - want).mean(axes)) < 1e-2 * spread).all()  # the sums are float32


def test_a_residual_stream_is_corrected():
    assert noise(BLOCKS, TURN, seed=1) < 0.9 * noise(BLOCKS, SolveInTurn(None, residual=False), seed=1)


def test_least_squares_gains_on_new_data():
    assert noise(CHAIN, TURN, seed=1) < 0.95 * noise(CHAIN, SolveInTurn(None, ridge=float("inf")), seed=1)


def test_a_shared_weight_is_stored_once():
    model = solved(SHARED, TURN)
    assert len({id(note(node).solved) for node in model.graph if note(node).solved is not None}) == 1
    assert [node.op_type for node in model.graph].count("DequantizeLinear") == 1


def test_every_sample_may_have_another_shape():
    model = build(HEAD + CHAIN)
    AssignWeights(TARGETS["ort-cpu"], bits=4)(model)
    feeds = [{"x": sample["x"][: 10 + i]} for i, sample in enumerate(samples(model, 0))]
    assert len(SolveInTurn(feeds)(model).changes) == 3


def test_without_data_weights_are_rounded():
    model = build(HEAD + CHAIN)
    AssignWeights(TARGETS["ort-cpu"], bits=4)(model)
    changes = SolveInTurn(None)(model).changes
    assert [change.what for change in changes] == ["weight solved as u4.block32 without data"] * 3


def test_activations_pass_through_their_grids():
    """With 4-bit activations as well, the twin's inputs are the rounded ones: the result beats solving for float."""
    text = """passes = ["observe", "assign", "solve_weights", "place_qdq"]
    [options.assign]
    weight = "s4"
    activation = "u4"
    [options.solve_weights]
    solver = "gptq"
    [options.observe]
    gram = true"""
    coarse = dataclasses.replace(TARGETS["ort-cpu"], activation_types=("u4", "u8"))
    results = {}
    for name in ("solve_weights", "solve_in_turn"):
        used = text.replace("solve_weights", name)
        model = build(HEAD + CHAIN)
        feeds = samples(model, 0)
        parse_recipe(used, name).run(model, target=coarse, data=feeds)
        new = samples(model, 1)
        want = outputs(build(HEAD + CHAIN), new)
        results[name] = np.square(outputs(model, new) - want).sum() / np.square(want - want.mean(0)).sum()
    assert results["solve_in_turn"] < 0.9 * results["solve_weights"]


def test_biases_may_stay_as_they_are():
    """Then the float model does not run beside the twin, and no Add appears; weights are solved as well as ever."""
    alone = SolveInTurn(None, ridge=float("inf"), biases=False)
    model = solved(CHAIN, alone)
    operators = [node.op_type for node in model.graph]
    assert operators.count("Add") == 1 and operators.count("DequantizeLinear") == 3
    want = [build(HEAD + CHAIN).graph.initializers[name].const_value.numpy() for name in ("b1", "b2")]
    found = [array for array in (v.const_value.numpy() for v in model.graph.initializers.values()) if array.ndim == 1]
    for bias in want:
        assert any(array.shape == bias.shape and (array == bias).all() for array in found)
    assert noise(CHAIN, alone, seed=1) < 0.9 * noise(CHAIN, SolveWeights("nearest"), seed=1)


def test_layers_of_one_input_share_its_sums(monkeypatch):
    """q, k and v read one tensor: its Gram matrix is summed up once, and the result is as if it were not shared."""
    text = """(float[N,64] x, float[64,64] w1, float[64,64] w2, float[64,64] w3) => (float[N,64] y) {
        q = MatMul(x, w1)  k = MatMul(x, w2)  v = MatMul(x, w3)  s = Mul(q, k)  y = Add(s, v) }"""
    from qonnx.passes import solve_in_turn
    from qonnx.solvers.ridge import Inputs

    added = []
    monkeypatch.setattr(solve_in_turn.Inputs, "add", lambda *given, add=Inputs.add: (added.append(1), add(*given)))
    assert noise(text, SolveInTurn(None, ridge=float("inf")), seed=1) < noise(text, SolveWeights("nearest"), seed=1)
    assert len(added) == 10  # one sum of ten samples


SINK = """(float[1,N,64] x, float[64,16] w1, float[64,16] w2, float[64,48] w3) => (float[1,N,48] y) {
    q = MatMul(x, w1)  k = MatMul(x, w2)  v = MatMul(x, w3)  t = Transpose<perm = [0, 2, 1]>(k)
    s = MatMul(q, t)  p = Softmax<axis = -1>(s)  y = MatMul(p, v) }"""


def with_sink(seed: int) -> list[dict]:
    """The first token of 64 is always the same, large, and next to all attention goes to it; its value is small."""
    generator, feeds = np.random.default_rng(seed), []
    for _ in range(8):
        x = generator.normal(size=(1, 64, 64)).astype(np.float32)
        x[0, :, 0] = 1
        x[0, 0], x[0, 0, 0], x[0, 0, 1] = 0, 1, 8
        feeds.append({"x": x})
    return feeds


@pytest.mark.parametrize("ridge", [float("inf"), 10.0])
def test_values_of_tokens_that_all_attend_to_are_kept(ridge):
    generator = np.random.default_rng(3)
    weights = [generator.normal(size=shape).astype(np.float32) * 0.02 for shape in ((64, 16), (64, 16), (64, 48))]
    weights[0][0, 0] = weights[1][1, 0] = 3.0  # every query asks for what only the first token has
    weights[2] *= 10
    weights[2][1] *= 1e-3
    lost = []
    for attention in (False, True):
        model = build(HEAD + SINK)
        for name, weight in zip(("w1", "w2", "w3"), weights, strict=True):
            model.graph.initializers[name].const_value = ir.tensor(weight, name=name)
        new = with_sink(9)
        want = outputs(model, new)
        AssignWeights(TARGETS["ort-cpu"], bits=4)(model)
        for node in model.graph:
            if node.outputs[0].name in ("q", "k"):  # the values alone are judged
                note(node).plan = None
        SolveInTurn(with_sink(0), ridge=ridge, biases=False, attention=attention)(model)
        PlaceQDQ()(model)
        Tidy()(model)
        lost.append(float(np.square(outputs(model, new) - want).sum()))
    assert lost[1] < 0.85 * lost[0]


def test_workers_and_kept_solutions_give_what_one_process_gives(tmp_path, monkeypatch):
    ran, run, found = [], solve_jobs.Job.run, []
    monkeypatch.setattr(solve_jobs.Job, "run", lambda job: (ran.append(job), run(job))[1])
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        for more in ({}, {"workers": 2, "executor": executor}, {"folder": str(tmp_path)}, {"folder": str(tmp_path)}):
            model, before = build(HEAD + BLOCKS), len(ran)
            data = samples(model, 1)
            AssignWeights(TARGETS["ort-cpu"], bits=4)(model)
            SolveInTurn(data, solver="gptq", ridge=float("inf"), **more)(model)
            weights = [note(node).solved.decode() for node in model.graph if note(node).solved is not None]
            found.append((len(ran) - before, weights))
    assert [count for count, _ in found] == [4, 4, 4, 0]  # no layer has rows enough for two workers
    for _, weights in found[1:]:
        assert all(np.array_equal(one, other) for one, other in zip(weights, found[0][1], strict=True))
