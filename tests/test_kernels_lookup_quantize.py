"""Grids of chosen levels: kernel = function body = onnx.reference = numpy, on every tier, to the last code."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from qonnx.custom_ops import library_path, ops
from qonnx.custom_ops.lookup_quantize import OPERATOR, codes_of
from qonnx.runtime import session

TIERS = ("scalar", "avx2", "avx512", "avx512vnni")
native = pytest.mark.skipif(library_path() is None, reason="no native library")


def table_of(levels, seed=0):
    """A table with so many different codes, in no order: any bytes are allowed."""
    rng = np.random.default_rng(seed)
    return rng.choice(rng.choice(256, levels, replace=False), 256).astype(np.uint8)


def model_of(scale, zero_point, table, element="FLOAT"):
    x = ir.Value(name="x", shape=ir.Shape(["rows", "columns"]), type=ir.TensorType(ir.DataType[element]))
    arrays = {"scale": np.float32(scale), "zero_point": np.array(zero_point, np.uint8), "table": table}
    values = [ir.Value(name=name, const_value=ir.tensor(np.asarray(a), name=name)) for name, a in arrays.items()]
    node = ops.node(OPERATOR, [x, *values], node_name="quantize")
    (codes,) = node.outputs
    codes.name, codes.shape, codes.type = "codes", x.shape, ir.TensorType(ir.DataType.UINT8)
    graph = ir.Graph([x], [codes], nodes=[node], initializers=values, opset_imports={"": 21}, name="g")
    model = ir.Model(graph, ir_version=10)
    ops.add_to_model(model, OPERATOR)
    return model


def numbers(scale, shape=(7, 93)):
    """Within and beyond the grid, on it and half-way between its positions, huge ones and infinities among them."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-400, 400, shape).astype(np.float32)
    halves = rng.random(shape) < 0.3
    x[halves] = np.round(x[halves] * 2) / 2
    x[0, :5] = [np.inf, -np.inf, 0.0, -0.0, 3e38]
    return (x * np.float32(scale)).astype(np.float32)


@pytest.mark.native
@native
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("levels", [2, 16, 256])
@pytest.mark.parametrize(("scale", "zero_point"), [(1.0, 0), (0.037, 255), (2.0**-5, 93)])
def test_kernels_give_the_codes_of_the_formula(monkeypatch, tier, levels, scale, zero_point):
    monkeypatch.setenv("QONNX_CPU", tier)
    x, table = numbers(scale), table_of(levels)
    codes = session(model_of(scale, zero_point, table)).run(None, {"x": x})[0]
    assert np.array_equal(codes, codes_of(x, scale, zero_point, table))


@pytest.mark.native
@native
@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 16384, 16385])
def test_every_length_is_coded_to_its_end(size):
    x, table = np.random.default_rng(size).uniform(-9, 9, (1, size)).astype(np.float32), table_of(16)
    codes = session(model_of(0.05, 128, table)).run(None, {"x": x})[0]
    assert np.array_equal(codes, codes_of(x, 0.05, 128, table))


@pytest.mark.native
@native
@pytest.mark.parametrize(("element", "dtype"), [("FLOAT16", np.float16), ("BFLOAT16", ml_dtypes.bfloat16)])
def test_16_bit_numbers_have_the_codes_of_their_values(element, dtype):
    x, table = numbers(1.0)[1:].astype(dtype), table_of(16)
    model = session(model_of(0.5, 100, table, element))
    value = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(x.view(np.uint16), ir.DataType[element].value)
    codes = model.run_with_ort_values(None, {"x": value})[0].numpy()
    assert np.array_equal(codes, codes_of(x.astype(np.float32), 0.5, 100, table))


@pytest.mark.parametrize("levels", [2, 16, 256])
def test_the_function_is_the_formula_in_onnxruntime_and_in_the_reference(levels):
    x, table = numbers(0.037), table_of(levels)
    proto = ir.to_proto(model_of(0.037, 17, table))
    wanted = codes_of(x, 0.037, 17, table)
    plain = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.array_equal(plain.run(None, {"x": x})[0], wanted)
    finite = np.clip(x, -1e6, 1e6)  # the reference casts what lies beyond int32 as it likes
    assert np.array_equal(ReferenceEvaluator(proto).run(None, {"x": finite})[0], wanted)


@pytest.mark.native
@native
@pytest.mark.parametrize(
    ("scale", "table", "sentence"),
    [(0.0, np.zeros(256, np.uint8), "scale is 0"), (1.0, np.zeros(16, np.uint8), "256 entries are wanted")],
)
def test_operands_that_make_no_grid_are_refused(scale, table, sentence):
    model = session(model_of(scale, 0, table))
    with pytest.raises(Exception, match=sentence):
        model.run(None, {"x": np.zeros((2, 2), np.float32)})
