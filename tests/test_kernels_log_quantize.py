"""Logarithmic quantizers: kernel = function body = onnx.reference = numpy, on every tier."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from qonnx.custom_ops import library_path, ops
from qonnx.custom_ops.log_attention import weight_table
from qonnx.custom_ops.log_quantize import QUANTIZE, QUANTIZE_DEQUANTIZE, codes_of
from qonnx.runtime import session

TIERS = ("scalar", "avx2", "avx512", "avx512vnni")
# levels, codes per octave: log2, log√2, finer bases, AdaLog's 37 / q, more octaves than float32 has
GRIDS = [(16, 1.0), (16, 2.0), (64, 4.0), (256, 16.0), (256, 1.0), (16, 37 / 25), (40, 37 / 60), (2, 1.0)]
native = pytest.mark.skipif(library_path() is None, reason="no native library")


def model_of(op, levels, per_octave, scale=1.0, element="FLOAT", table=None, **wrong):
    dtype = ir.DataType[element]
    x = ir.Value(name="x", shape=ir.Shape(["rows", "columns"]), type=ir.TensorType(dtype))
    table = weight_table(levels, per_octave) if table is None else table
    arrays = {"scale": np.array(scale, np.float32), "table": table}
    values = [ir.Value(name=name, const_value=ir.tensor(array, name=name)) for name, array in arrays.items()]
    node = ops.node(op, [x, *values], node_name="quantize", **{"codes_per_octave": per_octave, **wrong})
    (y,) = node.outputs
    y.name, y.shape = "y", x.shape
    y.type = ir.TensorType(ir.DataType.UINT8 if op == QUANTIZE else dtype)
    graph = ir.Graph([x], [y], nodes=[node], initializers=values, opset_imports={"": 21}, name="g")
    model = ir.Model(graph, ir_version=10)
    ops.add_to_model(model, op)
    return model


def numbers(levels, per_octave, scale, shape=(7, 93)):
    """Spread over all octaves that have codes and some more, with zeros, negative and huge numbers among them."""
    rng = np.random.default_rng(0)
    octaves = rng.uniform(-3, min(levels / per_octave, 130) + 3, shape)
    x = (scale * 2.0**-octaves).astype(np.float32)
    x[rng.random(shape) < 0.1] = 0
    x[0, :6] = [-1.0, -0.0, np.inf, -np.inf, scale, 1e-42]
    return x


def check_codes(codes, x, levels, per_octave, scale):
    """Equal to float64, but one off where the logarithm lies within its float32 roundings of a border."""
    wanted = codes_of(x, scale, levels, per_octave).astype(int)
    positive = x > 0
    octaves = np.abs(np.log2(np.where(positive, x, 1).astype(np.float64) / np.float64(np.float32(scale))))
    octaves[~np.isfinite(octaves)] = 0
    position = octaves * per_octave
    slack = (8 * 2.0**-24) * position + 4 * per_octave * 2.0**-24
    near = np.abs(position - np.floor(position) - 0.5) <= slack
    off = np.abs(codes.astype(int) - wanted)
    assert (off[~near] == 0).all() and (off <= 1).all(), f"codes off by {off.max()}"
    assert near.mean() < 0.02


@pytest.mark.native
@native
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(("levels", "per_octave"), GRIDS)
@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_kernels_give_the_codes_of_the_formula(monkeypatch, tier, levels, per_octave, scale):
    monkeypatch.setenv("QONNX_CPU", tier)
    x = numbers(levels, per_octave, scale)
    codes = session(model_of(QUANTIZE, levels, per_octave, scale)).run(None, {"x": x})[0]
    check_codes(codes, x, levels, per_octave, scale)
    values = session(model_of(QUANTIZE_DEQUANTIZE, levels, per_octave, scale)).run(None, {"x": x})[0]
    np.testing.assert_array_equal(values, weight_table(levels, per_octave)[codes] * np.float32(scale))


@pytest.mark.parametrize(("levels", "per_octave"), GRIDS)
@pytest.mark.parametrize("op", [QUANTIZE, QUANTIZE_DEQUANTIZE])
def test_the_function_body_computes_the_formula(op, levels, per_octave):
    x = numbers(levels, per_octave, 0.37)
    proto = ir.to_proto(model_of(op, levels, per_octave, 0.37))
    onnx.checker.check_model(proto, full_check=True)
    plain = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    table = weight_table(levels, per_octave)
    for y in (plain.run(None, {"x": x})[0], ReferenceEvaluator(proto).run(None, {"x": x})[0]):
        codes = y
        if op == QUANTIZE_DEQUANTIZE:  # entries that underflow to zero cannot be told apart: compare what they mean
            wanted = table[codes_of(x, 0.37, levels, per_octave)] * np.float32(0.37)
            neighbours = np.abs(np.log2(np.maximum(y, 1e-38) / np.maximum(wanted, 1e-38)))
            assert (neighbours <= 1.01 / per_octave).all() and (y == wanted).mean() > 0.97
            continue
        check_codes(codes, x, levels, per_octave, 0.37)


@pytest.mark.native
@native
@pytest.mark.parametrize("element", ["FLOAT16", "FLOAT"])
@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (3, 16), (1, 40000), (9, 1000)])
def test_any_shape_and_type(element, shape):
    x = np.random.default_rng(1).random(shape).astype(ir.DataType[element].numpy())
    codes = session(model_of(QUANTIZE, 16, 2.0, element=element)).run(None, {"x": x})[0]
    values = session(model_of(QUANTIZE_DEQUANTIZE, 16, 2.0, element=element)).run(None, {"x": x})[0]
    assert codes.shape == values.shape == shape and values.dtype == x.dtype
    if x.size:
        check_codes(codes, x.astype(np.float32).reshape(shape), 16, 2.0, 1.0)
        np.testing.assert_array_equal(values, weight_table(16, 2.0)[codes].astype(x.dtype))


@pytest.mark.native
@native
def test_bfloat16_rows():
    x = np.random.default_rng(1).random((5, 70)).astype(ml_dtypes.bfloat16)
    opened = session(model_of(QUANTIZE, 16, 1.0, element="BFLOAT16"))
    binding = opened.io_binding()
    kind = ir.DataType.BFLOAT16.value
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy_with_onnx_type(x.view(np.uint16), kind))
    binding.bind_output("y")
    opened.run_with_iobinding(binding)
    check_codes(binding.get_outputs()[0].numpy(), x.astype(np.float32), 16, 1.0, 1.0)


def test_nan_stays_nan_as_a_value():
    x = np.array([[0.5, np.nan, 0.25]], np.float32)
    proto = ir.to_proto(model_of(QUANTIZE_DEQUANTIZE, 16, 1.0))
    outputs = [ReferenceEvaluator(proto).run(None, {"x": x})[0]]
    outputs.append(ort.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0])
    if library_path():
        outputs.append(session(model_of(QUANTIZE_DEQUANTIZE, 16, 1.0)).run(None, {"x": x})[0])
    for y in outputs:
        np.testing.assert_array_equal(y, x)


@pytest.mark.native
@native
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"codes_per_octave": 0.0}, "attribute codes_per_octave=0.000000 is missing or not a positive number"),
        ({"scale": -1.0}, "input scale is -1.000000, not a positive number"),
        ({"scale": [1.0, 2.0]}, r"scale has shape \[2\], but one number is wanted"),
        ({"table": np.ones(300, np.float32)}, r"table has shape \[300\], but 2 to 256 entries are wanted"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(wrong, sentence):
    per_octave = {"per_octave": 1.0}
    if "codes_per_octave" in wrong:
        wrong = {**wrong, "table": weight_table(16, 1.0)}
    with pytest.raises(Exception, match=sentence):
        session(model_of(QUANTIZE, 16, **per_octave, **wrong)).run(None, {"x": np.ones((1, 2), np.float32)})
