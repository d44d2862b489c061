"""Low-rank branches: the decomposition under a Gram matrix, when a branch is kept, and what the pass writes."""

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from models.tiny import build
from qonnx import runtime
from qonnx.errors import QonnxError
from qonnx.low_rank import STARTS, branch, truncated
from qonnx.notes import note
from qonnx.passes.assign_codebooks import AssignCodebooks
from qonnx.passes.assign_weights import AssignWeights
from qonnx.passes.low_rank import LowRank
from qonnx.passes.observe import Observe
from qonnx.passes.place_qdq import PlaceQDQ
from qonnx.passes.solve_weights import SolveWeights
from qonnx.targets import TARGETS

NET = """<ir_version: 10, opset_import: ["": 21]> g (float[N, 96] x, float[96, 128] w1, float[128] b1,
    float[64, 128] w2, float[64] b2) => (float[N, 64] y) { a = MatMul(x, w1)  h = Add(a, b1)  r = Relu(h)
    y = Gemm<transB = 1>(r, w2, b2) }"""


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def gram_of(columns):
    x = normal(4 * columns, columns) * np.geomspace(1, 20, columns)
    return x.T @ x / len(x)


def loss(error, gram):
    return float(np.sum((error @ gram) * error))


def rounded(rows):
    """Four bits a row."""
    scale = np.abs(rows).max(1, keepdims=True) / 7
    return np.rint(rows / scale) * scale


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (16, 16)])
def test_without_data_it_is_the_singular_value_decomposition(shape):
    target = normal(*shape)
    left, right = truncated(target, 5)
    values = np.linalg.svd(target, compute_uv=False)
    assert ((target - left @ right) ** 2).sum() == pytest.approx((values[5:] ** 2).sum(), rel=1e-9)


def test_under_a_gram_matrix_no_other_branch_does_better():
    target, gram = normal(24, 32), gram_of(32)
    left, right = truncated(target, 4, gram)
    best = loss(target - left @ right, gram)
    assert best < loss(target - np.matmul(*truncated(target, 4)), gram)
    for seed in range(20):  # a minimum: every small step away from it loses
        for moved in (
            (left + 1e-2 * normal(24, 4, seed=seed), right),
            (left, right * (1 + 1e-2 * normal(4, 32, seed=seed))),
        ):
            assert loss(target - np.matmul(*moved), gram) >= best * (1 - 1e-2 * 1e-3 - 1e-4)


@pytest.mark.parametrize("start", STARTS)
def test_turns_never_raise_the_loss(start):
    rows, gram = normal(24, 32) + 3 * np.outer(normal(24), normal(32)), gram_of(32)
    losses = [loss(rows - rounded(rows), gram)]
    for turns in (0, 1, 4):
        left, right = branch(rows, 4, rounded, gram, start=start, turns=turns)
        rest = rows - left @ right
        losses.append(loss(rest - rounded(rest), gram))
    assert losses == sorted(losses, reverse=True) and losses[1] < 0.9 * losses[0]


def test_no_branch_where_it_lowers_nothing():
    on_the_grid = np.rint(normal(24, 32) * 3).clip(-7, 7)
    on_the_grid[:, 0] = 7
    assert branch(on_the_grid, 4, rounded, start="weight") is None
    assert branch(on_the_grid, 4, rounded, start="error", turns=3) is None


def floating():
    """The float model, with a few strong directions in its weights, as trained ones have."""
    model = build(NET)
    for name in ("w1", "w2"):
        value = model.graph.initializers[name]
        rows, columns = value.shape.numpy()
        strong = normal(rows, 2) @ normal(2, columns, seed=1)
        data = ((normal(rows, columns) + strong) / rows**0.5).astype(np.float32)
        value.const_value = ir.tensor(data, name=name)
    return model


def net(bits=4, observed=False):
    model = floating()
    if observed:
        Observe(data=feeds(), gram=True)(model)
    AssignWeights(TARGETS["ort-cpu"], bits=bits)(model)
    return model


def feeds():
    scale = np.geomspace(0.2, 5, 96)
    return [{"x": (normal(40, 96, seed=seed) * scale).astype(np.float32)} for seed in range(4)]


def run(model):
    return np.concatenate(
        [runtime.session(model, optimization="none", threads=1).run(None, feed)[0] for feed in feeds()]
    )


@pytest.mark.parametrize("start", STARTS)
def test_the_function_stays_and_the_residual_keeps_the_plan(start):
    model, before = net(), run(floating())
    assert len(LowRank(rank=4, start=start, turns=1, most=1.0)(model).changes) == 2
    assert [node.op_type for node in model.graph] == [
        "MatMul", "Add", "MatMul", "MatMul", "Add", "Relu", "Gemm", "MatMul", "MatMul", "Add",
    ]  # fmt: skip
    assert np.abs(run(model) - before).max() <= 1e-5 * np.abs(before).max()
    plans = [note(n).plan.weight.name for n in model.graph if note(n).plan is not None]
    assert plans == ["u4.block32", "s8.channel", "s8.channel"] * 2
    assert not LowRank(rank=4, start=start, most=1.0)(model).changes


@pytest.mark.parametrize(("start", "observed"), [("weight", True), ("error", True), ("error", False)])
def test_the_rounded_model_is_better_with_it(start, observed):
    want, noise = run(floating()), []
    for rank in (0, 8):
        model = net(observed=observed)
        if rank:
            LowRank(rank=rank, start=start, most=1.0)(model)
        SolveWeights(solver="nearest-searched")(model)
        PlaceQDQ()(model)
        noise.append(float(np.square(run(model) - want).sum()))
    assert noise[1] < noise[0]


def test_code_books_take_the_residual_too():
    model = floating()
    AssignCodebooks(TARGETS["ort-cpu"], format="1x8v4", most=60.0)(model)
    before = run(floating())
    assert LowRank(rank=4, most=1.0)(model).changes
    assert np.abs(run(model) - before).max() <= 1e-5 * np.abs(before).max()


def test_near_misses_stay_as_they_are():
    assert not LowRank(rank=64)(net()).changes  # 64 · (96 + 128) bytes are more than a tenth of the float weight
    model = net()
    for node in model.graph:
        if note(node).plan is not None:
            note(node).plan = dataclasses.replace(note(node).plan, output=True)
    assert not LowRank(rank=4, most=1.0)(model).changes  # a quantizer behind the product would stand before the sum
    shared = build(
        """<ir_version: 10, opset_import: ["": 21]> g (float[N, 96] x, float[96, 96] w) => (float[N, 96] y)
        { a = MatMul(x, w)  y = MatMul(a, w) }"""
    )
    AssignWeights(TARGETS["ort-cpu"], bits=4)(shared)
    assert not LowRank(rank=4, most=1.0)(shared).changes


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"turns": -1}, {"bits": 4}], ids=str)
def test_options_that_make_no_branch_are_refused(wrong):
    with pytest.raises(QonnxError):
        LowRank(**wrong)


def test_factors_in_float_have_no_plan():
    model = net()
    LowRank(rank=4, most=1.0, bits=32)(model)
    assert sum(note(n).plan is not None for n in model.graph) == 2
