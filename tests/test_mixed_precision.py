"""A bound on a recipe of few weight bits: layers get 8-bit weights, no more of them than it takes."""

import numpy as np
import pytest

from models import digits
from qonnx.conversion import convert
from qonnx.ledger import ledger
from qonnx.passes.rewire import array


def data(count=40):
    return [{digits.INPUT: image[None]} for image in digits.samples("calibration", count)[0]]


def converted(tmp_path, **options):
    options = {"recipe": "vit-w4a8", "threads": 1, "force": True, "output": tmp_path / "digits.onnx", **options}
    return convert(str(digits.VIT), data=data(), **options)


def stored_bits(model) -> dict[int, int]:
    """Weights by bits."""
    found: dict[int, int] = {}
    for node in model.graph:
        for value in node.inputs:
            codes = None if value is None or "_codes" not in (value.name or "") else array(value)
            if codes is not None and codes.ndim == 2 and node.op_type == "DequantizeLinear":
                found[value.dtype.bitwidth] = found.get(value.dtype.bitwidth, 0) + codes.size
    return found


@pytest.mark.slow
def test_a_bound_between_4_and_8_bits_raises_some_layers(tmp_path):
    plain = converted(tmp_path).report.comparison.outputs[0].figures.sqnr_db
    best = converted(tmp_path, recipe="vit-w8a8").report.comparison.outputs[0].figures.sqnr_db
    asked = plain + 0.4 * (best - plain)
    conversion = converted(tmp_path, min_sqnr=asked)
    assert conversion.report.comparison.outputs[0].figures.sqnr_db >= asked and not conversion.report.broken
    (step,) = [step for step in conversion.report.steps if step.name == "protect"]
    kinds = [line.detail for line in ledger(conversion.model) if "s8.channel" in line.detail]
    layers = [line for line in ledger(conversion.model) if line.state == "done"]
    assert 0 < step.changes < len(layers) / 2 and len(kinds) >= step.changes
    assert all(line.state == "done" for line in ledger(conversion.model))  # nothing went to float


def test_without_a_bound_nothing_is_raised_and_no_sample_is_held_back(tmp_path):
    conversion = converted(tmp_path)
    (step,) = [step for step in conversion.report.steps if step.name == "protect"]
    assert step.changes == 0
    assert any("checked on the samples" in warning for warning in conversion.report.warnings)
    assert np.isfinite(conversion.report.comparison.outputs[0].figures.sqnr_db)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, "s4.block32"),
        ({"bits": 8}, "s8.channel"),
        ({"per_channel": True}, "s4.channel"),
        ({"per_channel": False}, "s4"),
    ],
)
def test_bits_and_granularity_of_the_user_reach_the_layers(options, kind):
    model = convert(str(digits.VIT), data=data(10), recipe="vit-w4a8", threads=1, **options).model
    details = {line.node: line.detail for line in ledger(model) if line.state == "done"}
    (found,) = {detail.split(" × ")[-1] for name, detail in details.items() if "qkv" in name}
    assert found == kind
    assert digits.accuracy(model) > 0.9  # the file runs
