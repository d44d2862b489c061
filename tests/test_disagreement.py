"""Reasons of disagreement: steps of a runtime's codes put into ONNX Runtime's own run, and what is said about them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from models.tiny import build, inputs
from qonnx.conversion import convert
from qonnx.disagreement import Reason, reason
from qonnx.model import load
from qonnx.runtime import session
from qonnx.units import UnitGap, cut, shifted
from tests.test_units import NETWORK


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disagreement")
    model = build(NETWORK)
    ir.save(model, folder / "float.onnx")
    samples = [inputs(model, seed) for seed in range(3)]
    convert(folder / "float.onnx", data=samples, output=folder / "w8a8.onnx", quiet=True, threads=1)
    return folder / "w8a8.onnx", samples[0]


def plainly(model, feed) -> dict:
    opened = session(model, optimization="none", threads=1)
    names = [value.name for value in opened.get_outputs()]
    return dict(zip(names, opened.run(names, dict(feed)), strict=True))


def wrong_in_one_code(made, by: int) -> tuple[str, dict]:
    """(name of the first convolution's codes, all right codes but one of its)."""
    name = next(name for name, operator in made.operators.items() if operator == "Conv")
    codes = {key: value.copy() for key, value in made.expected.items()}
    middle = np.abs(codes[name].astype(int) - 100).argmin()  # away from both ends of the type
    codes[name].flat[middle] += by
    return name, codes


def test_steps_that_are_nought_change_nothing(quantized):
    path, feed = quantized
    made, whole = cut(load(path), feed, 1), load(path)
    copy = shifted(whole, made, made.expected)
    assert [n.op_type for n in copy.graph] == [n.op_type for n in whole.graph]


def test_shifted_codes_are_what_is_read_behind_them(quantized):
    path, feed = quantized
    made, whole = cut(load(path), feed, 1), load(path)
    name, codes = wrong_in_one_code(made, 1)
    copy = shifted(whole, made, codes)
    (moved,) = (n for n in copy.graph if n.outputs[0].name == f"{name}_shifted_3")
    copy.graph.outputs.append(moved.outputs[0])
    moved.outputs[0].shape = ir.Shape(codes[name].shape)
    np.testing.assert_array_equal(plainly(copy, feed)[moved.outputs[0].name], codes[name])
    operators = set(made.operators.values()) - {"Conv"}
    assert operators, "there are others, whose codes are right"
    for operator in operators:
        assert len(shifted(whole, made, codes, operator).graph) == len(whole.graph)


def test_codes_stay_inside_their_type(quantized):
    path, feed = quantized
    made = cut(load(path), feed, 1)
    codes = {key: np.full_like(value, 255) for key, value in made.expected.items()}
    made = type(made)(made.model, made.operators, made.feed, {key: np.zeros_like(x) for key, x in codes.items()})
    copy = shifted(load(path), made, codes)
    for node in [n for n in copy.graph if (n.outputs[0].name or "").endswith("_shifted_3")]:
        copy.graph.outputs.append(node.outputs[0])
        node.outputs[0].shape = ir.Shape(codes[node.outputs[0].name.removesuffix("_shifted_3")].shape)
    for name, found in plainly(copy, feed).items():
        if name.endswith("_shifted_3"):
            assert (found == 255).all()


def test_one_step_explains_what_one_step_does(quantized):
    """A runtime that is wrong in one code of one unit: its disagreement is explained by that step, to the bit."""
    path, feed = quantized
    made = cut(load(path), feed, 1)
    name, codes = wrong_in_one_code(made, 1)
    got = plainly(shifted(load(path), made, codes), feed)
    found = reason(path, lambda folder, feed, outputs: {key: codes[key] for key in outputs}, feed, got, 1)
    worst = found.units[0]
    assert (worst.operator, worst.steps, worst.worst) == ("Conv", 1, name)
    assert found.together_db == found.observed_db == worst.alone_db < 100
    assert all(row.alone_db is None for row in found.units[1:])
    assert "no operator is wrong" in found.verdict and "which alone leaves" in str(found)


def test_a_fault_behind_the_quantizers_is_not_taken_for_rounding(quantized):
    path, feed = quantized
    made = cut(load(path), feed, 1)
    got = {name: value * 0.8 for name, value in plainly(load(path), feed).items()}
    found = reason(path, lambda folder, feed, outputs: {key: made.expected[key] for key in outputs}, feed, got, 1)
    assert found.together_db == np.inf and found.observed_db == pytest.approx(20 * np.log10(1 / 0.2), abs=0.01)
    assert "look at the operators between quantizers" in found.verdict


def test_more_than_a_step_is_a_fault():
    found = Reason((UnitGap("Conv", 3, 0.01, 14, "a_codes", 12.0),), 12.0, 12.0)
    assert found.verdict == "Conv 'a_codes' is off by 14 steps, which is no rounding"


def test_a_float_model_has_no_reason(tmp_path):
    model = build(NETWORK)
    ir.save(model, tmp_path / "float.onnx")
    assert reason(tmp_path / "float.onnx", lambda *_: {}, inputs(model, 0), {}, 1) is None
