"""Laws of table formats: published constants, ml_dtypes casts, every code, and products that mean what was solved."""

import dataclasses

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.tiny import build
from qonnx import runtime
from qonnx.custom_ops.lowbit import FP4, NF4
from qonnx.errors import QonnxError
from qonnx.formats import TABLES, TableFormat
from qonnx.formats.tables import normal_float
from qonnx.notes import note
from qonnx.passes.assign_weights import AssignWeights
from qonnx.passes.place_low_bit import PlaceLowBit
from qonnx.passes.place_qdq import PlaceQDQ
from qonnx.passes.solve_weights import SolveWeights
from qonnx.passes.tidy import Tidy
from qonnx.solvers import SOLVERS
from qonnx.targets import TARGETS

each = pytest.mark.parametrize("format", TABLES.values(), ids=TABLES)
ZERO = np.int64(0)
CASTS = {
    "fp4": ml_dtypes.float4_e2m1fn,
    "fp6-e2m3": ml_dtypes.float6_e2m3fn,
    "fp6-e3m2": ml_dtypes.float6_e3m2fn,
    "fp8-e4m3": ml_dtypes.float8_e4m3fn,
    "fp8-e5m2": ml_dtypes.float8_e5m2,
}
NET = """<ir_version: 10, opset_import: ["": 21]> g (float[N,64] x, float[64,96] w1, float[96] b1, float[40,96] w2,
    float[40] b2) => (float[N,40] y) {
    a = MatMul(x, w1)  c = Add(a, b1)  d = Relu(c)  y = Gemm<transB = 1>(d, w2, b2) }"""


def test_published_tables():
    np.testing.assert_allclose(np.float32(TABLES["nf4"].table), NF4, rtol=2**-23)
    np.testing.assert_allclose(normal_float(4), NF4, atol=3e-7)
    np.testing.assert_array_equal(TABLES["fp4"].table, FP4)
    assert TABLES["half2"].table == (-1.5, -0.5, 0.5, 1.5) and TABLES["ternary"].table == (-1, 0, 1)


@pytest.mark.parametrize("name", CASTS)
def test_rounding_is_that_of_ml_dtypes(name):
    """Every number that a cast may see inside the range: all levels, all middles between two, and random ones."""
    format, kind = TABLES[name], CASTS[name]
    levels = np.unique(np.asarray(format.table, np.float32))
    middles = (levels[1:] + levels[:-1]) / 2
    drawn = np.random.default_rng(0).uniform(levels[0], levels[-1], 20000)
    x = np.concatenate([levels, middles, np.nextafter(middles, np.float32(9e9)), drawn]).astype(np.float32)
    got = format.decode(format.encode(x, np.float32(1), ZERO), np.float32(1), ZERO)
    np.testing.assert_array_equal(got, x.astype(kind).astype(np.float32))
    codes = np.arange(len(format.table), dtype=np.uint8)
    finite = np.isfinite(codes.view(kind).astype(np.float32)) if kind(1).itemsize == 1 else np.ones(len(codes), bool)
    np.testing.assert_array_equal(np.float32(format.table)[finite], codes.view(kind).astype(np.float32)[finite])


@each
def test_every_code_survives_decode_and_encode(format):
    codes = np.arange(format.levels)
    for scale in (np.float32(1), np.float32(0.037)):
        values = format.decode(codes, scale, ZERO)
        again = format.encode(values, scale, ZERO)
        np.testing.assert_array_equal(format.decode(again, scale, ZERO), values)  # two codes may mean one number
        ends = again[[values.argmin(), values.argmax()]]
        np.testing.assert_array_equal(format.encode(np.float32([-1e30, 1e30]), scale, ZERO), ends)


@each
def test_the_nearest_level_is_taken(format):
    x = np.random.default_rng(1).normal(size=2000).astype(np.float32)
    scale, _ = format.scale_and_zero_point(x.min(), x.max())
    decoded = format.decode(format.encode(x, scale, ZERO), scale, ZERO)
    best = np.abs(x[:, None] - np.float32(format.table) * scale).min(1)
    np.testing.assert_allclose(np.abs(x - decoded), best, atol=1e-6)


@each
def test_scales_are_of_the_format(format):
    size = np.exp(np.random.default_rng(2).normal(0, 3, 500))
    scale, zero_point = format.scale_and_zero_point(-size, size / 2)
    assert not zero_point.any() and (scale > 0).all()
    if format.scale_fraction is not None:
        fraction, _ = np.frexp(scale)
        np.testing.assert_array_equal(fraction * 2 ** (format.scale_fraction + 1) % 1, 0)
    if format.scale_fraction == 0:  # OCP: the exponent of the largest number minus that of the largest element
        np.testing.assert_array_equal(np.log2(scale), np.floor(np.log2(size)) - np.floor(np.log2(format.largest)))


def test_tables_that_are_none_are_refused():
    for wrong in ((1.0,), (0.0, 0.0), (0.0, np.inf)):
        with pytest.raises(ValueError):
            TableFormat("wrong", wrong)


@each
@pytest.mark.parametrize("solver", ["nearest-searched", "gptq", "quantease"])
def test_solvers_work_on_tables(format, solver):
    generator = np.random.default_rng(3)
    rows = generator.normal(size=(1, 12, 128)).astype(np.float32)
    x = generator.normal(size=(300, 30)) @ generator.normal(size=(30, 128)) + 0.3 * generator.normal(size=(300, 128))
    gram = (x.T @ x)[None].astype(np.float32)
    plain, better = (rows - SOLVERS[name](rows, format, gram).decode() for name in ("nearest", solver))
    plain, better = (np.einsum("gri,gij,grj->", e, gram, e) for e in (plain, better))
    assert better <= plain * (1 + 1e-6) if solver != "nearest-searched" else np.isfinite(better)


@each
def test_products_mean_what_was_solved(format):
    """MatMul and Gemm with MatMulLowBit against the same graph with the decoded weights."""
    model, plain = build(NET), build(NET)
    AssignWeights(TARGETS["ort-cpu"], bits=4, table=format.title)(model)
    SolveWeights("nearest-searched")(model)
    for node, twin in zip(model.graph, plain.graph, strict=True):
        if note(node).solved is not None:
            assert note(node).solved.format.title == format.title
            decoded = note(node).solved.decode()
            twin.inputs[1].const_value = ir.tensor(decoded, name=twin.inputs[1].name)
    for one in (PlaceLowBit(), PlaceQDQ(), Tidy()):
        one(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    kind = "MatMulLowBit" if format.levels <= 16 else "DequantizeLinear"
    assert [node.op_type for node in model.graph].count(kind) == 2
    assert {note(node).fate.state for node in model.graph if note(node).fate} == {"done"}
    x = np.random.default_rng(4).normal(size=(5, 64)).astype(np.float32)
    want, got = (runtime.session(m, optimization="none", threads=1).run(None, {"x": x})[0] for m in (plain, model))
    np.testing.assert_allclose(got, want, atol=200 * 2**-24 * np.abs(want).max())
    named = ("w1/codes", "w1_codes")
    stored = next(v.const_value.nbytes for name, v in model.graph.initializers.items() if name in named)
    bits = format.bits if format.levels <= 16 else 8
    assert stored == {3: 96 * 13}.get(format.levels, 96 * 64 * bits // 8)  # five ternary codes a byte


def test_an_unknown_table_is_refused_with_the_nearest():
    with pytest.raises(QonnxError, match="nf4"):
        AssignWeights(TARGETS["ort-cpu"], table="nf44")


def test_coarser_scales_cost_little():
    """MX's power-of-two scales lose against float ones, NVFP4's finer blocks gain."""
    rows = np.random.default_rng(5).normal(size=(1, 64, 512)).astype(np.float32)
    noise = {
        n: np.square(rows - SOLVERS["nearest"](rows, TABLES[n]).decode()).mean() for n in ("fp4", "mxfp4", "nvfp4")
    }
    assert noise["nvfp4"] < noise["fp4"] < noise["mxfp4"] < 2.5 * noise["fp4"]
    blocks = [dataclasses.replace(TABLES["nf4"], block=block) for block in (16, 64, 256)]
    errors = [np.square(rows - SOLVERS["nearest"](rows, one).decode()).mean() for one in blocks]
    assert errors == sorted(errors)
