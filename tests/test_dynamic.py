"""Dynamic quantization: products run on integers with ranges of the moment, exactly as the formula says."""

import collections

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.tiny import build
from qonnx import runtime
from qonnx.errors import QonnxError
from qonnx.formats import FORMATS
from qonnx.notes import note
from qonnx.passes.assign_weights import AssignWeights
from qonnx.passes.lower_dynamic import LowerDynamic
from qonnx.passes.place_qdq import PlaceQDQ
from qonnx.passes.solve_weights import SolveWeights
from qonnx.passes.tidy import Tidy
from qonnx.recipe import recipe
from qonnx.settings import Settings
from qonnx.targets import TARGETS, target

HEAD = '<ir_version: 10, opset_import: ["": 21]> g '
# q and k read one activation; the Gemm has a bias and a turned weight, MatMul's bias is an Add behind it.
NET = """(float[N,64] x, float[64,48] w1, float[48] b1, float[64,48] w2, float[40,48] w3, float[40] b3)
    => (float[N,40] y) {
    q = MatMul(x, w1)
    qb = Add(q, b1)
    k = MatMul(x, w2)
    s = Mul(qb, k)
    y = Gemm<transB = 1>(s, w3, b3)
}"""


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def quantize(model: ir.Model, *, lower: bool = True, settings=None, **options) -> ir.Model:
    options = {"activations": "dynamic", **options}
    steps = [AssignWeights(TARGETS["ort-cpu"], settings, **options), SolveWeights(), PlaceQDQ()]
    for one in (*steps, *([LowerDynamic()] if lower else []), Tidy()):
        one(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model


def run(model: ir.Model, feeds: dict, optimization: str = "none") -> np.ndarray:
    return runtime.session(model, optimization=optimization, threads=1).run(None, feeds)[0]


def operators(model: ir.Model) -> collections.Counter:
    return collections.Counter(node.op_type for graph in model.graphs() for node in graph)


def quantized(x: np.ndarray) -> np.ndarray:
    """What DynamicQuantizeLinear makes of a tensor, decoded: one range, which includes zero, in 8 bits."""
    scale, zero_point = FORMATS["u8"].scale_and_zero_point(x.min(), x.max())
    return FORMATS["u8"].decode(FORMATS["u8"].encode(x, scale, zero_point), scale, zero_point)


def test_the_result_is_what_the_formula_says():
    model = build(HEAD + "(float[N,64] x, float[64,48] w) => (float[N,48] y) { y = MatMul(x, w) }")
    x, w = normal(7, 64), model.graph.initializers["w"].const_value.numpy()
    quantize(model)
    scale = np.abs(w).max(0) / 127
    want = quantized(x).astype(np.float64) @ (np.rint(w / scale) * scale).astype(np.float64)
    for optimization in ("none", "all"):
        np.testing.assert_allclose(run(model, {"x": x}, optimization), want, atol=2**-20 * np.abs(want).max())


def test_a_shared_activation_is_quantized_once_and_biases_stay():
    model, x = build(HEAD + NET), normal(9, 64)
    before = run(model, {"x": x})
    quantize(model)
    count = operators(model)
    assert count["DynamicQuantizeLinear"] == 2 and count["MatMulInteger"] == 3
    assert not count["MatMul"] + count["Gemm"] + count["DequantizeLinear"]
    fates = [note(node).fate for node in model.graph if note(node).fate is not None]
    assert [f.detail for f in fates] == ["u8 dynamic × s8.channel"] * 3 and {f.state for f in fates} == {"done"}
    # One tensor in 8 bits over ±3.5 σ has 37 dB; three activations and three weights add up to at most 8 dB more noise.
    for optimization in ("none", "all"):
        after = run(model, {"x": x}, optimization)
        assert 10 * np.log10((before**2).sum() / ((before - after) ** 2).sum()) > 29


def test_onnx_runtime_fuses_every_product(tmp_path):
    """Two products share an activation (MatMulIntegerToFloat), one has its own (DynamicQuantizeMatMul)."""
    options = runtime.ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    runtime.session(quantize(build(HEAD + NET)), threads=1, options=options)
    left = collections.Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert left["MatMulIntegerToFloat"] == 2 and left["DynamicQuantizeMatMul"] == 1
    assert not left["MatMulInteger"]


@pytest.mark.parametrize("symmetric", [True, False])
def test_weight_zero_points_are_kept(symmetric):
    text = HEAD + "(float[N,64] x, float[64,48] w) => (float[N,48] y) { y = MatMul(x, w) }"
    plain, lowered, x = build(text), build(text), normal(7, 64)
    quantize(plain, lower=False, symmetric=symmetric)
    quantize(lowered, symmetric=symmetric)
    want = run(plain, {"x": quantized(x)})
    np.testing.assert_allclose(run(lowered, {"x": x}), want, atol=2**-18 * np.abs(want).max())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("(float16[3,64] x, float16[64,64] w) => (float16[3,64] y) { y = MatMul(x, w) }", "16-bit float"),
        ("(float[1,64,6,6] x, float[48,64,3,3] w) => (float[1,48,4,4] y) { y = Conv(x, w) }", "convolution"),
        ("(float[3,64] x, float[64,64] w) => (float[3,64] y) { y = Gemm<alpha = 0.5>(x, w) }", "scaled"),
        (
            "(float[3,64] x, float[64,64] w, float[3,1] b) => (float[3,64] y) { y = Gemm(x, w, b) }",
            "one bias a row",
        ),
    ],
)
def test_what_has_no_integer_product_keeps_its_dequantized_weight(text, why):
    model = quantize(build(HEAD + text))
    assert operators(model)["DequantizeLinear"] == 1 and not operators(model)["MatMulInteger"], why


def test_blocked_weights_are_left():
    model = build(HEAD + NET)
    quantize(model, bits=4)
    assert not operators(model)["MatMulInteger"]


def test_reduced_range_takes_seven_bits():
    model = quantize(build(HEAD + NET), settings=Settings(reduce_range=True))
    codes = [v.const_value.numpy() for v in model.graph.initializers.values() if v.dtype == ir.DataType.INT8]
    assert len(codes) == 3
    assert all(c.min() >= -64 and c.max() == 63 for c in codes)


def test_bodies_are_lowered_too():
    text = """(bool flag, float[3,64] x, float[64,64] w) => (float[3,64] y) {
        y = If(flag) <
            then_branch = t () => (float[3,64] a) { a = MatMul(x, w) },
            else_branch = e () => (float[3,64] b) { c = MatMul(x, w) b = Relu(c) }>
    }"""
    model, x = build(HEAD + text), normal(3, 64)
    before = {flag: run(model, {"flag": np.array(flag), "x": x}) for flag in (True, False)}
    quantize(model)
    assert operators(model)["MatMulInteger"] == 2 and len(model.graph.initializers) == 2
    for flag, want in before.items():
        for optimization in ("none", "all"):
            after = run(model, {"flag": np.array(flag), "x": x}, optimization)
            assert 10 * np.log10((want**2).sum() / ((want - after) ** 2).sum()) > 32


def test_a_second_application_changes_nothing():
    model = quantize(build(HEAD + NET))
    assert not LowerDynamic()(model).changes


def test_the_preset_runs_and_a_target_without_such_operators_refuses():
    model, x = build(HEAD + NET), normal(9, 64)
    before = run(model, {"x": x})
    recipe("dynamic-w8a8").run(model, target=target("ort-cpu"))
    assert operators(model)["MatMulInteger"] == 3
    after = run(model, {"x": x}, "all")
    assert 10 * np.log10((before**2).sum() / ((before - after) ** 2).sum()) > 29
    refusing = [t for t in TARGETS.values() if "integer-operator" in t.forbid]
    for one in refusing:
        with pytest.raises(QonnxError, match="at run time"):
            recipe("dynamic-w8a8").run(build(HEAD + NET), target=one)
