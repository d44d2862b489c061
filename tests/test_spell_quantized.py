"""Quantized models of other tools, spelled with Q/DQ: ONNX Runtime's own tools, and the operators of Brevitas."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from models.tiny import build, inputs
from qonnx.conversion import convert
from qonnx.notes import warnings
from qonnx.passes.spell_brevitas import limits
from qonnx.passes.spell_contrib import unpack_bits
from qonnx.passes.spell_quantized import SPELLINGS, SpellQuantized
from qonnx.runtime import optimized, session

# Operators that ONNX Runtime's tool writes as QLinear… or QGemm, all in one model.
NETWORK = """
<ir_version: 10, opset_import: ["": 21]>
g (float[N,4,8,8] x, float[4,4,3,3] w1, float[4] b1, float[4,4,1,1] w2, float[16,6] w3, float[6] b3)
 => (float[N,6] y)
{
  a = Conv<pads = [1,1,1,1]>(x, w1, b1)
  b = Relu(a)
  c = Conv(b, w2)
  d = Sigmoid(c)
  e = Mul(c, d)
  f = Add(e, b)
  g1 = LeakyRelu<alpha = 0.1>(f)
  h = AveragePool<kernel_shape = [2,2], strides = [2,2]>(g1)
  i = MaxPool<kernel_shape = [2,2], strides = [2,2]>(h)
  j = GlobalAveragePool(i)
  k = Concat<axis = 1>(j, j, j, j)
  l = Flatten(k)
  y = Gemm(l, w3, b3)
}
"""


class Reader(CalibrationDataReader):
    def __init__(self, model: ir.Model, count: int = 4):
        self.samples = iter([inputs(model, seed) for seed in range(count)])

    def get_next(self):
        return next(self.samples, None)


def run(model, feeds) -> list[np.ndarray]:
    return session(model, optimization="none", threads=1).run(None, feeds)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("spell") / "float.onnx"
    ir.save(build(NETWORK), path)
    return path


@pytest.mark.parametrize("per_channel", [False, True])
def test_qoperator_files_become_qdq(network, tmp_path, per_channel):
    float_model = ir.load(network)
    quantized = tmp_path / "qoperator.onnx"
    reader, kinds = Reader(float_model), {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(network, quantized, reader, QuantFormat.QOperator, per_channel=per_channel, **kinds)
    before = {node.op_type for node in onnx.load(quantized).graph.node}
    assert {"QLinearConv", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QGemm"} <= before
    converted = convert(quantized, recipe="read-quantized", target="openvino")
    model = converted.model
    assert {node.domain for node in model.graph} == {""}
    assert not {node.op_type for node in model.graph if "Linear" in node.op_type} - {
        "QuantizeLinear",
        "DequantizeLinear",
    }
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    feeds = inputs(float_model, 9)
    (a,), (b,) = run(str(quantized), feeds), run(model, feeds)
    step = float(np.ptp(run(str(network), feeds)[0])) / 255 * 4
    assert np.abs(a - b).max() <= step, "equal up to a step at ties, carried through four layers"
    assert np.mean(np.abs(a - b) < 1e-6) > 0.5


def test_dynamic_matmuls_become_qdq(tmp_path):
    text = '<ir_version: 10, opset_import: ["": 21]>\ng (float[N,16] x, float[16,8] w, float[8] b) => (float[N,8] y) '
    source = build(text + "{ a = MatMul(x, w)\n y = Add(a, b) }")
    ir.save(source, tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "dynamic.onnx", per_channel=True)
    fused = optimized(str(tmp_path / "dynamic.onnx"))
    assert {n.op_type for n in fused.graph.node} & {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
    model = ir.from_proto(fused)
    feeds = inputs(source, 3)
    expected = session(ir.to_proto(model).SerializeToString(), optimization="none").run(None, feeds)
    result = SpellQuantized()(model)
    assert result.changes
    assert {n.op_type for n in model.graph} <= {"DynamicQuantizeLinear", "DequantizeLinear", "MatMul", "Add"}
    np.testing.assert_allclose(run(model, feeds)[0], expected[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_matmul_nbits_becomes_a_blocked_weight_and_back(tmp_path, bits, symmetric):
    text = "g (float[N,40] x, float[40,12] w) => (float[N,12] y) { y = MatMul(x, w) }"
    source = build(f'<ir_version: 10, opset_import: ["": 21]>\n{text}')
    ir.save(source, tmp_path / "float.onnx")
    tool = MatMulNBitsQuantizer(onnx.load(tmp_path / "float.onnx"), bits=bits, block_size=16, is_symmetric=symmetric)
    tool.process()
    onnx.save(tool.model.model, tmp_path / "nbits.onnx")
    feeds = inputs(source, 1)
    expected = run(str(tmp_path / "nbits.onnx"), feeds)[0]
    spelled = convert(tmp_path / "nbits.onnx", recipe="read-quantized", target="openvino").model
    assert [n.op_type for n in spelled.graph] == ["DequantizeLinear", "MatMul"]
    np.testing.assert_allclose(run(spelled, feeds)[0], expected, rtol=0, atol=2e-5)
    back = convert(tmp_path / "nbits.onnx", recipe="read-quantized", target="ort-cuda").model
    assert [n.op_type for n in back.graph] == ["MatMulNBits"]
    np.testing.assert_allclose(run(back, feeds)[0], expected, rtol=0, atol=2e-5)


def test_codes_are_unpacked_low_bits_first():
    assert unpack_bits(np.array([[0xE4, 0x1B]], np.uint8), 2, 7).tolist() == [[0, 1, 2, 3, 3, 2, 1]]
    assert unpack_bits(np.array([0x21, 0x43], np.uint8), 4, 3).tolist() == [1, 2, 3]


# ------------------------------------------------------------------------------------------------ Brevitas

HEAD = '<ir_version: 10, opset_import: ["": 21, "qonnx.custom_op.general": 1, "onnx.brevitas": 1]>'


def dialect(call: str, shape: str = "float[3,5] x", **constants) -> ir.Model:
    """x -> y of one call of the dialect over named constants."""
    names = "".join(f", float[1] {name}" for name in constants)
    model = ir.from_onnx_text(f"{HEAD}\ng ({shape}{names}) => (float[3,5] y) {{ y = {call} }}")
    for value in [v for v in model.graph.inputs if v.name in constants]:
        tensor = ir.tensor(np.asarray(constants[value.name], np.float32), name=value.name)
        value.const_value, value.shape = tensor, ir.Shape(tensor.shape)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    return model


def spelled(model: ir.Model) -> ir.Model:
    SpellQuantized()(model)
    assert not [n for n in model.graph if n.domain], warnings(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model


def quant(x, scale, zero, bits, signed, narrow, rounding=np.rint):
    """The definition, in numpy."""
    low, high = limits(bits, signed, narrow)
    return ((rounding(np.clip(x / scale + zero, low, high)) - zero) * scale).astype(np.float32)


ROUNDING = (("FLOOR", np.floor), ("ROUND", np.rint), ("CEIL", np.ceil))
X = np.linspace(-3, 3, 15, dtype=np.float32).reshape(3, 5)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8, 12, 16])
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("constant", [False, True])
def test_quant_of_any_width(bits, signed, constant):
    scale, narrow = 2.9 / 2 ** (bits - signed), signed
    attributes = f'signed = {signed}, narrow = {narrow}, rounding_mode = "ROUND"'
    call = f"qonnx.custom_op.general.Quant<{attributes}>({'w' if constant else 'x'}, s, z, b)"
    more = {"w": X} if constant else {}
    model = dialect(call, s=scale, z=0.0, b=float(bits), **more)
    if constant:
        model = with_reader(model)
    expected = quant(X, scale, 0, bits, signed, narrow)
    np.testing.assert_allclose(run(spelled(model), {"x": np.zeros_like(X) if constant else X})[0], expected, atol=1e-6)
    if constant and bits <= 4:
        assert {v.dtype.bitwidth for v in model.graph.initializers.values()} >= {4}, "stored in half a byte"


def with_reader(model: ir.Model) -> ir.Model:
    """y := quantized constant + x, so that x is read."""
    old = model.graph.outputs[0]
    add = ir.node("Add", [old, model.graph.inputs[0]])
    old.name, add.outputs[0].name = "quantized", "y"
    add.outputs[0].type, add.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), old.shape
    model.graph.append(add)
    model.graph.outputs[0] = add.outputs[0]
    return model


def test_quant_by_channel_and_with_zero_points():
    scale, zero = np.array([[0.1], [0.2], [0.05]], np.float32), np.array([[3.0], [0.0], [5.0]], np.float32)
    model = dialect("onnx.brevitas.IntQuant<signed = 0, narrow = 0>(x, s, z, b)", s=scale, z=zero, b=4.0)
    np.testing.assert_allclose(run(spelled(model), {"x": X})[0], quant(X, scale, zero, 4, 0, 0), atol=1e-6)
    assert {n.attributes.get_int("axis", 9) for n in model.graph if "Linear" in n.op_type} == {0}


@pytest.mark.parametrize("mode", ["FLOOR", "CEIL"])
def test_rounding_of_constants_is_kept_and_of_activations_refused(mode):
    call = f'qonnx.custom_op.general.Quant<signed = 1, narrow = 0, rounding_mode = "{mode}">'
    model = with_reader(dialect(call + "(w, s, z, b)", s=0.4, z=0.0, b=4.0, w=X))
    rounding = {"FLOOR": np.floor, "CEIL": np.ceil}[mode]
    got = run(spelled(model), {"x": np.zeros_like(X)})[0]
    np.testing.assert_allclose(got, quant(X, np.float32(0.4), 0, 4, 1, 0, rounding), atol=1e-6)
    model = dialect(call + "(x, s, z, b)", s=0.4, z=0.0, b=4.0)
    assert not SpellQuantized()(model).changes
    assert mode in warnings(model)[0] and "half to even" in warnings(model)[0]


@pytest.mark.parametrize("constant", [False, True])
def test_bipolar(constant):
    more = {"w": X} if constant else {}
    model = dialect(f"qonnx.custom_op.general.BipolarQuant({'w' if constant else 'x'}, s)", s=0.3, **more)
    model = with_reader(model) if constant else model
    got = run(spelled(model), {"x": np.zeros_like(X) if constant else X})[0]
    np.testing.assert_allclose(got, np.where(X >= 0, 0.3, -0.3), atol=1e-6)


@pytest.mark.parametrize("mode", ["FLOOR", "ROUND", "CEIL"])
@pytest.mark.parametrize("zero", [0.0, 8.0])
def test_trunc_drops_low_bits(mode, zero):
    """Both versions: five inputs keep the scale, six (as Brevitas writes them) have one of the output."""
    call, rounding = f'qonnx.custom_op.general.Trunc<rounding_mode = "{mode}"', dict(ROUNDING)[mode]
    model = dialect(call + ">(x, s, z, i, o)", s=0.125, z=zero, i=8.0, o=6.0)
    codes = np.rint(X / 0.125 + zero)
    np.testing.assert_allclose(run(spelled(model), {"x": X})[0], (rounding(codes / 4) - zero) * 0.125, atol=1e-6)
    for signed, narrow, ends in ((1, 0, (-4, 3)), (1, 1, (-3, 3)), (0, 0, (0, 7))):
        more = f", signed = {signed}, narrow = {narrow}>"
        model = dialect(call + more + "(x, s, z, i, p, o)", s=0.125, z=zero, i=8.0, p=0.5, o=3.0)
        expected = (rounding(np.clip(codes / 4, *ends)) - zero / 4) * 0.5
        np.testing.assert_allclose(run(spelled(model), {"x": X})[0], expected, atol=1e-6)


@pytest.mark.parametrize("constant", [False, True])
def test_float_quant_of_a_known_minifloat(constant):
    more = {"w": X} if constant else {}
    call = f"qonnx.custom_op.general.FloatQuant({'w' if constant else 'x'}, s, e, m, c, l)"
    model = dialect(call, s=0.01, e=4.0, m=3.0, c=7.0, l=448.0, **more)
    model = with_reader(model) if constant else model
    got = run(spelled(model), {"x": np.zeros_like(X) if constant else X})[0]
    right = (X / np.float32(0.01)).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * np.float32(0.01)
    np.testing.assert_allclose(got, right, rtol=1e-6)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(("exponent", "mantissa", "bias"), [(3, 2, 3), (2, 1, 1), (2, 3, 1), (4, 3, 8), (5, 10, 15)])
def test_float_quant_of_any_minifloat(exponent, mantissa, bias, constant):
    """The nearest of all numbers that the minifloat has; ties go to the one with an even last bit."""
    codes = np.arange(2 ** (exponent + mantissa))
    field, tail = codes >> mantissa, codes & (2**mantissa - 1)
    grid = np.where(field > 0, (1 + tail / 2**mantissa) * 2.0 ** (field - bias), tail * 2.0 ** (1 - bias - mantissa))
    x = np.concatenate([np.linspace(-1.2, 1.2, 7) * grid[-1], [0.0, grid[1], -grid[1] / 2, grid[-1]], -grid[1:5]])
    x = (x * 0.75).astype(np.float32).reshape(3, 5)
    distance = np.abs(np.abs(x).reshape(-1, 1) / 0.75 - grid)
    tied = distance <= distance.min(1, keepdims=True)
    expected = np.sign(x) * grid[np.where(tied, codes % 2, 2).argmin(1)].reshape(x.shape) * 0.75
    call = f"qonnx.custom_op.general.FloatQuant({'w' if constant else 'x'}, s, e, m, c, l)"
    numbers = {"s": 0.75, "e": exponent, "m": mantissa, "c": bias, "l": grid[-1], **({"w": x} if constant else {})}
    model = with_reader(dialect(call, **numbers)) if constant else dialect(call, **numbers)
    np.testing.assert_array_equal(run(spelled(model), {"x": np.zeros_like(x) if constant else x})[0], expected)


def test_float_quant_by_rows_and_by_columns_at_once():
    """Scales along two axes have no place in DequantizeLinear; the formula takes them."""
    scale = np.linspace(0.1, 1.5, 15, dtype=np.float32).reshape(3, 5)
    call = "qonnx.custom_op.general.FloatQuant(x, s, e, m, c, l)"
    model = dialect(call, s=scale, e=4.0, m=3.0, c=7.0, l=448.0)
    right = (X / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale
    np.testing.assert_allclose(run(spelled(model), {"x": X})[0], right, rtol=1e-6)


@pytest.mark.parametrize(
    ("more", "mantissa", "why"),
    [
        ("<saturation = 0>", 3.0, "saturate"),
        ('<rounding_mode = "FLOOR">', 3.0, "half to even"),
        ("", 14.0, "14 bits of mantissa"),
    ],
)
def test_float_quants_that_stay(more, mantissa, why):
    call = f"qonnx.custom_op.general.FloatQuant{more}(x, s, e, m, c, l)"
    model = dialect(call, s=1.0, e=4.0, m=mantissa, c=7.0, l=448.0)
    assert not SpellQuantized()(model).changes
    assert why in warnings(model)[0]


def test_near_misses_stay():
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>\n'
        "g (float[N,32] x, uint8[8,2,8] b, float[8,2] s) => (float[N,8] y) "
        "{ y = com.microsoft.MatMulNBits<K = 32, N = 8, bits = 4, block_size = 16>(x, b, s) }"
    )
    assert not SpellQuantized()(model).changes
    assert "no constant" in warnings(model)[0]


def test_every_spelling_belongs_to_an_operator_that_is_not_standard_qdq():
    assert not {("", "QuantizeLinear"), ("", "DequantizeLinear")} & set(SPELLINGS)


def test_a_float_model_has_nothing_to_read(network):
    converted = convert(network, recipe="read-quantized")
    assert not any("Linear" in node.op_type for node in converted.model.graph)
