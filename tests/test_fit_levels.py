"""Fitted levels: the best codes of a histogram, less error behind layers, graphs that mean what plans say."""

import itertools

import numpy as np
import onnx_ir as ir
import pytest

from models.tiny import build
from qonnx import runtime
from qonnx.levels import best_levels
from qonnx.notes import note
from qonnx.passes.assign import Assign
from qonnx.passes.fit_levels import FitLevels
from qonnx.passes.label import Label
from qonnx.passes.lower_static import LowerStatic
from qonnx.passes.observe import Observe
from qonnx.passes.place_qdq import PlaceQDQ
from qonnx.passes.solve_weights import SolveWeights
from qonnx.passes.tidy import Tidy
from qonnx.plan import Encoding
from qonnx.targets import TARGETS
from tests.qdq_cases import HEAD, spelt

# The second and third product read one tensor of heavy tails, the first one the input.
LAYERS = """ g (float[B,24,32] x, float[32,64] w0, float[64,64] w1, float[64,48] w2)
    => (float[B,24,64] y, float[B,24,48] z) {
    a = MatMul(x, w0)  b = Mul(a, a)  c = Mul(b, a)  y = MatMul(c, w1)  z = MatMul(c, w2) }"""


def samples(count=6):
    generator = np.random.default_rng(3)
    return [{"x": generator.standard_normal((1, 24, 32)).astype(np.float32)} for _ in range(count)]


def planned(fit: bool, where: str = "ort-cpu", bits: int = 8, **options) -> ir.Model:
    model, target, data = spelt(HEAD + LAYERS), TARGETS[where], samples()
    Label()(model)
    Observe(data=data, target=target)(model)
    inner = "s4" if bits == 4 else None
    Assign(target, inner_activation_levels=16, inner_weight=inner)(model)
    if fit:
        FitLevels(data, **options)(model)
    return model


def written(fit: bool, where: str = "ort-cpu", bits: int = 8, **options) -> ir.Model:
    model = planned(fit, where, bits, **options)
    SolveWeights()(model)
    PlaceQDQ()(model)
    Tidy()(model)
    return model


def outputs(model: ir.Model, feeds: dict, **options) -> list[np.ndarray]:
    return runtime.session(model, optimization="none", threads=1, **options).run(None, feeds)


def _grid(model: ir.Model) -> Encoding:
    """That of the tensor that two layers read."""
    (grid,) = note(next(v for n in model.graph for v in n.outputs if v.name == "c")).encodings.values()
    return grid


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def error(weights, levels) -> float:
    at = np.arange(len(weights))
    return float((weights * np.min([np.square(at - level) for level in levels], axis=0)).sum())


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_no_choice_of_levels_is_better(seed, number):
    weights = np.random.default_rng(seed).exponential(size=9) * (np.random.default_rng(seed + 99).random(9) < 0.7)
    found = best_levels(weights, number)
    assert list(found) == sorted(set(found)) and len(found) <= number
    # A rounded mean is the best whole level of its run.
    best = min(error(weights, levels) for levels in itertools.combinations(range(9), min(number, 9)))
    assert error(weights, found) <= best * (1 + 1e-12) + 1e-12


def test_levels_are_as_many_as_have_weight():
    weights = np.zeros(256)
    weights[[3, 200]] = 1
    assert best_levels(weights, 16) == (3, 200)
    assert best_levels(np.zeros(256), 16) == (0,)


def test_even_weights_have_even_levels():
    gaps = np.diff(best_levels(np.ones(256), 16))
    assert len(gaps) == 15 and (gaps == 16).all()


def test_an_encoding_of_chosen_codes_rounds_to_the_nearest():
    grid = _grid(planned(True))
    assert len(grid.codes) == 16 and grid.format.name == "u8/16"
    values = grid.scale * (np.array(grid.codes) - grid.zero_point)
    assert (grid.low, grid.high) == pytest.approx((values[0], values[-1]))
    even = Encoding(grid.format, grid.scale, grid.zero_point)
    assert not np.array_equal(even.quantize(values), grid.quantize(values))
    assert np.allclose(grid.quantize(values.astype(np.float32)), values, rtol=1e-6)
    x = np.random.default_rng(0).uniform(grid.low - 1, grid.high + 1, 999).astype(np.float32)
    nearest = np.abs(x[:, None] - values).min(1)
    assert (np.abs(grid.quantize(x) - x) <= nearest + grid.scale * 1.01).all()  # positions are rounded first


def test_the_first_layer_and_activations_of_many_levels_stay_even():
    model = planned(True)
    grids = {v.name: note(v).encodings for n in model.graph for v in n.inputs if note(v).encodings}
    assert set(grids) == {"x", "c"}
    assert all(not grid.codes for grid in grids["x"].values()) and all(grid.codes for grid in grids["c"].values())


def test_a_second_fit_changes_nothing():
    model = planned(True)
    assert not FitLevels(samples())(model).modified


def test_without_data_grids_stay_even():
    model = planned(False)
    assert not FitLevels(None)(model).modified


def test_layers_lose_less_than_on_even_levels():
    feeds = {"x": np.random.default_rng(77).standard_normal((8, 24, 32)).astype(np.float32)}
    true = outputs(build(HEAD + LAYERS), feeds)
    losses = [
        [
            np.square(a - b).sum()
            for a, b in zip(outputs(written(fit, power=1.0) if fit else written(fit), feeds), true, strict=True)
        ]
        for fit in (False, True)
    ]
    for even, fitted in zip(*losses, strict=True):
        assert fitted < 0.5 * even


@pytest.mark.parametrize("where", ["ort-cpu", "tensorrt"])  # unsigned and signed codes
def test_the_graph_rounds_as_the_encoding_says(where):
    grid = _grid(planned(True, where))
    model = written(True, where)
    assert kinds(model).count("Gather") == 1 and "Clip" not in kinds(model)
    (read,) = {n.inputs[0] for n in model.graph if n.op_type == "MatMul" and n.inputs[0].name.startswith("c_")}
    dequantize = read.producer()
    assert set(dequantize.inputs[0].producer().inputs[0].const_value.numpy().tolist()) == set(grid.codes)
    model.graph.outputs.append(read)
    model.graph.outputs.append(next(v for n in model.graph for v in n.outputs if v.name == "c"))
    *_, rounded, exact = outputs(model, samples(1)[0])
    assert np.array_equal(rounded, grid.quantize(exact))


@pytest.mark.parametrize("native", [False, pytest.param(True, marks=pytest.mark.native)])
def test_lowered_products_mean_what_the_graph_said(native):
    if native and runtime.library_path() is None:
        pytest.skip("no native library")
    model = written(True, bits=4)
    feeds = samples(1)[0]
    before = outputs(model, feeds)
    LowerStatic(TARGETS["ort-cpu"])(model)
    assert kinds(model).count("LookupQuantize") == 1 and "Gather" not in kinds(model)
    assert kinds(model).count("QuantizedMatMulLowBit") == 2
    for a, b in zip(outputs(model, feeds, native=native), before, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_targets_of_standard_operators_keep_the_table():
    model = written(True, "onnx", bits=4)
    LowerStatic(TARGETS["onnx"])(model)
    assert "Gather" in kinds(model) and "LookupQuantize" not in kinds(model)
