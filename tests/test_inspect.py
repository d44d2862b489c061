"""inspect: counts, sizes and outlooks of models given as text."""

from __future__ import annotations

import io
import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from rich.console import Console

from qonnx import inspect_terminal
from qonnx.footprint import disk_bytes
from qonnx.inspection import inspect
from qonnx.targets import TARGETS

MODEL = """<ir_version: 10, opset_import: ["": 21, "their.domain": 1], producer_name: "me">
net (float[N, 3, 8, 8] x, bool c) => (float[N, 4, 8, 8] y)
  <float[4, 3, 3, 3] w = {WEIGHTS}, float[4] b = {0, 0, 0, 0}> {
  [conv] h = Conv<pads=[1,1,1,1]>(x, w, b)
  [theirs] t = their.domain.Twist(h)
  [branch] y = If(c) <
    then_branch = yes () => (float[N, 4, 8, 8] p) { p = Relu(t) },
    else_branch = no () => (float[N, 4, 8, 8] q) { q = Neg(t) }
  > }""".replace("WEIGHTS", ", ".join(["0.5"] * 108))

WEIGHT_ONLY = """<ir_version: 10, opset_import: ["": 21]>
net (float[N, 4] x) => (float[N, 2] y)
  <int8[4, 2] q = {1, 2, 3, 4, 5, 6, 7, 8}, float s = {0.1}> {
  w = DequantizeLinear(q, s)
  [product] y = MatMul(x, w) }"""


def test_counts_and_sizes():
    found = inspect(ir.from_onnx_text(MODEL))
    assert found.operators == {"Conv": 1, "their.domain::Twist": 1, "If": 1, "Relu": 1, "Neg": 1}
    assert found.nodes == 5
    assert found.weights == 4 * 3 * 3 * 3 + 4
    assert found.bits_per_weight == 32
    assert found.disk == found.weights * 4
    assert [port.shape for port in found.inputs] == ["N×3×8×8", "scalar"]
    assert found.control_flow == {"If": 1}
    assert found.domains == {"their.domain": 1}
    assert found.opsets == {"ai.onnx": 21, "their.domain": 1}
    (layer,) = found.layers
    assert (layer.node, layer.weight, layer.bytes) == ("conv", "4×3×3×3", found.disk)


@pytest.mark.parametrize("target", list(TARGETS))
def test_outlook_follows_the_target(target):
    outlook = next(x for x in inspect(ir.from_onnx_text(MODEL)).outlooks if x.target == target)
    assert outlook.total == 1
    assert outlook.nodes + sum(outlook.reasons.values()) == outlook.total
    if "Conv" not in TARGETS[target].operators:
        assert outlook.reasons == {"runs Conv in float": 1}


def test_quantized_parts_are_seen():
    found = inspect(ir.from_onnx_text(WEIGHT_ONLY))
    assert found.quantized == 1
    assert found.weights == 8
    assert found.bits_per_weight == 8 + 32 / 8  # one float scale for eight codes
    assert all(outlook.reasons == {"already quantized": 1} for outlook in found.outlooks)


def test_both_renderings():
    found = inspect(ir.from_onnx_text(MODEL))
    assert json.loads(found.to_json())["schema"] == "qonnx-inspection/1"
    out = io.StringIO()
    inspect_terminal.render(found, Console(file=out, width=100))
    for words in ("conv", "N×3×8×8", "control flow: If (1)", "their.domain (1)", *TARGETS):
        assert words in out.getvalue()


def test_size_on_disk_counts_external_data(tmp_path):
    weight = np.ones((64, 64), np.float32)
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,64] x) => (float[N,64] y) {y = MatMul(x, w)}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    both = sum((tmp_path / name).stat().st_size for name in ("m.onnx", "m.data"))
    assert both > weight.nbytes and disk_bytes(tmp_path / "m.onnx") == both
