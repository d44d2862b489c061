"""compare on graphs that are not plain: control flow, functions, one tensor read in many ways, changing shapes."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qonnx.compare import compare

RNG = np.random.default_rng(4)

BRANCH = """<ir_version: 10, opset_import: ["": 21]>
net (float[N, 4] x, bool c) => (float[N, 2] y)
  <float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}> {
  [product] h = MatMul(x, w)
  [branch] y = If(c) <
    then_branch = yes () => (float[N, 2] p) { p = Relu(h) },
    else_branch = no () => (float[N, 2] q) { q = MatMul(x, w) }
  > }"""

FUNCTION = """<ir_version: 10, opset_import: ["": 21, "my": 1]>
net (float[N, 4] x) => (float[N, 2] y)
  <float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}> {
  [scaled] t = my.Twice(x)
  [product] y = MatMul(t, w) }
<domain: "my", opset_import: ["": 21]> Twice (a) => (b) { b = Add(a, a) }"""

# The residual is read in float by the Add, and through Q/DQ by the product.
RESIDUAL = """<ir_version: 10, opset_import: ["": 21]>
net (float[N, 4] x) => (float[N, 4] y)
  <float[4, 4] w = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1}, float s = {0.02}, uint8 z = {128}> {
  [first] h = MatMul(x, w)
  QDQ
  [second] g = MatMul(READ, w)
  [sum] y = Add(h, g) }"""
PLAIN = RESIDUAL.replace("QDQ", "").replace("READ", "h")
QUANTIZED = RESIDUAL.replace("QDQ", "hq = QuantizeLinear(h, s, z) hd = DequantizeLinear(hq, s, z)").replace(
    "READ", "hd"
)


def model(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(text))


def quick(reference: str, result: str, data):
    return compare(model(reference), model(result), data, latency=False, threads=1)


@pytest.mark.parametrize("chosen", [True, False])
def test_control_flow(chosen):
    data = [{"x": RNG.normal(size=(3, 4)).astype(np.float32), "c": np.array(chosen)}]
    found = quick(BRANCH, BRANCH, data)
    assert found.outputs[0].figures.max_abs == 0
    assert [layer.node for layer in found.layers] == ["product"]  # the one inside the branch has no name outside
    assert found.layers[0].isolated.sqnr_db == math.inf
    assert not found.warnings


def test_functions():
    found = quick(FUNCTION, FUNCTION, [{"x": RNG.normal(size=(3, 4)).astype(np.float32)}])
    assert found.outputs[0].figures.max_abs == 0
    assert [layer.node for layer in found.layers] == ["product"]
    assert not found.warnings


def test_a_quantizer_of_one_reader_belongs_to_that_reader():
    data = [{"x": RNG.normal(size=(8, 4)).astype(np.float32)}]
    found = quick(PLAIN, QUANTIZED, data)
    own = {layer.node: layer.isolated.sqnr_db for layer in found.layers}
    assert own["first"] == math.inf and math.isfinite(own["second"])
    assert [trial.tensor for trial in found.quantizers] == ["h"]
    assert found.layers[-1].accumulated.sqnr_db < math.inf


def test_clipping_is_seen_by_the_quantizer():
    data = [{"x": 4 * RNG.normal(size=(64, 4)).astype(np.float32)}]
    (trial,) = quick(PLAIN, QUANTIZED, data).quantizers
    h = data[0]["x"] @ np.float32([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]])
    assert (trial.low, trial.high) == (pytest.approx(-2.56), pytest.approx(2.54))
    assert trial.clipped == ((h < -2.57) | (h > 2.55)).mean()
    assert trial.maximum == h.max() and sum(trial.histogram) == h.size


def test_shapes_that_change_between_samples():
    data = [{"x": RNG.normal(size=(n, 4)).astype(np.float32)} for n in (3, 7)]
    found = quick(PLAIN, QUANTIZED, data)
    assert found.outputs[0].shape == "3…7×4"
    assert found.layers[0].accumulated.count == (3 + 7) * 4


def test_names_that_differ_are_paired_by_position():
    renamed = PLAIN.replace("float[N, 4] x", "float[N, 4] image").replace("MatMul(x", "MatMul(image")
    found = quick(PLAIN, renamed, [{"x": np.ones((1, 4), np.float32)}])
    assert found.outputs[0].figures.max_abs == 0
    assert "x → image" in found.warnings[0]


def test_renamed_layers_are_matched_by_order():
    renamed = QUANTIZED
    for name in ("first", "second", "h", "g"):
        renamed = renamed.replace(f"[{name}]", f"[other_{name}]")
    renamed = renamed.replace(" h =", " other_h =").replace("(h,", "(other_h,").replace(" g =", " other_g =")
    renamed = renamed.replace("other_h, g)", "other_h, other_g)").replace(" w)", " v)").replace("[4, 4] w", "[4, 4] v")
    found = quick(PLAIN, renamed, [{"x": RNG.normal(size=(8, 4)).astype(np.float32)}])
    how = {layer.node: layer.matched for layer in found.layers}
    assert how["first"] == how["second"] == "order"
    assert found.layers[0].isolated.sqnr_db == math.inf


def test_a_tensor_in_other_units_blames_nobody():
    """Channels of h are scaled up, and the next weight undoes it; a wrong scale that nothing undoes is still blamed."""
    scaled = PLAIN.replace("Add(h, g)", "Identity(g)").replace("QDQ", "")
    right = scaled.replace("w = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1}", "w = {W}, float[4, 4] v = {V}")
    right = right.replace("[second] g = MatMul(h, w)", "[second] g = MatMul(h, v)")
    w, v = np.round(RNG.normal(size=(2, 4, 4)), 3)
    factors = np.array([1, 4, 16, 64])

    def text(w, v):
        return right.replace("W}", ", ".join(map(str, w.ravel())) + "}").replace(
            "V}", ", ".join(map(str, v.ravel())) + "}"
        )

    data = [{"x": RNG.normal(size=(32, 4)).astype(np.float32)}]
    found = quick(text(w, v), text(w * factors, v / factors[:, None]), data)
    assert found.rescaled == 1
    assert min(layer.isolated.sqnr_db for layer in found.layers if layer.isolated) > 100
    faulty = quick(text(w, v), text(w * factors, v), data)
    assert faulty.rescaled == 0 and faulty.blamed[0].node == "first"
