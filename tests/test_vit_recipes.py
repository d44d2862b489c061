"""The recipes for vision transformers on real ones: what they hold on photographs and digits not seen before."""

from __future__ import annotations

import numpy as np
import pytest

from models import digits, evaluate, photos, real
from qonnx.conversion import convert
from qonnx.ledger import ledger
from qonnx.model import save
from qonnx.runtime import session


@pytest.fixture(scope="module")
def calibration(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("data") / "photos.npz"
    np.savez(file, **{real.REAL["vit-s"].input_name: np.concatenate(photos.crops("calibration-wide", 32))})
    return str(file)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "sqnr", "iou"), [("vit-w8a8", 26.5, 0.92), ("vit-w6a6", 16.5, 0.82)])
def test_every_product_of_the_vit_is_on_codes_and_features_hold(recipe, sqnr, iou, calibration, tmp_path):
    conversion = convert(str(real.path("vit-s")), data=calibration, recipe=recipe)
    lines = ledger(conversion.model)
    assert {line.state for line in lines} == {"done"}
    assert sum(node.op_type == "LogAttention" for node in conversion.model.graph) == 12
    save(conversion.model, tmp_path / "vit.onnx")
    scores = evaluate.vit_s(tmp_path / "vit.onnx")
    assert scores["feature_sqnr_db"] > sqnr and scores["iou"] > iou


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "lost"), [("vit-w8a8", 1), ("vit-w6a6", 1), ("vit-w4a8", 2), ("vit-w4a4", 3)])
def test_digits_are_still_read(recipe, lost, tmp_path):
    """Of 360 digits, of which the float model reads 359: 0.3 points are one digit, one point is three."""
    images, _ = digits.samples("calibration", 128)
    data = [{digits.INPUT: image[None]} for image in images]
    save(convert(str(digits.VIT), data=data, recipe=recipe, threads=1).model, tmp_path / "digits.onnx")
    before, after = (360 * digits.accuracy(path) for path in (digits.VIT, tmp_path / "digits.onnx"))
    assert after >= before - lost
    portable = session(tmp_path / "digits.onnx", native=False)
    native, image = session(tmp_path / "digits.onnx"), images[:1]
    a, b = (one.run(None, {digits.INPUT: image})[0] for one in (native, portable))
    np.testing.assert_allclose(a, b, rtol=0.05, atol=0.05 * np.abs(a).max())
