"""What other tools write, form by form, as the recipe read-quantized reads it: same numbers, standard operators."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qonnx.conversion import convert
from qonnx.notes import warnings
from qonnx.passes.spell_quantized import SpellQuantized
from qonnx.runtime import session

X = np.random.default_rng(0).normal(size=(6, 32)).astype(np.float32)
W = np.random.default_rng(1).normal(size=(32, 16)).astype(np.float32)


def with_constants(text: str, **constants: tuple[np.ndarray, ir.DataType]) -> ir.Model:
    """A model in ONNX text whose inputs of these names are constants."""
    model = ir.from_onnx_text(text)
    for value in [v for v in model.graph.inputs if v.name in constants]:
        data, kind = constants[value.name]
        model.graph.inputs.remove(value)
        tensor = ir.Tensor(np.asarray(data).astype(kind.numpy()), dtype=kind, name=value.name)
        value.const_value, value.type, value.shape = tensor, ir.TensorType(kind), tensor.shape
        model.graph.register_initializer(value)
    return model


def read(model: ir.Model, folder, **options) -> tuple[onnx.ModelProto, np.ndarray]:
    """(the file that read-quantized writes, its output on X)."""
    ir.save(model, folder / "theirs.onnx")
    convert(folder / "theirs.onnx", recipe="read-quantized", output=folder / "ours.onnx", quiet=True, **options)
    opened = session(folder / "ours.onnx", optimization="none", threads=1)
    return onnx.load(folder / "ours.onnx"), opened.run(None, {"x": X})[0]


HEAD = (
    '<ir_version: 10, opset_import: ["": 21, "com.amd.quark": 1, "trt": 1, "com.vai.quantize": 1, "com.microsoft": 1]>'
)


def test_qcdq_weights_of_brevitas_are_stored_in_their_width(tmp_path):
    """int8 codes → Clip(−7, 7) → DequantizeLinear by output channel, as export_onnx_qcdq writes 4 bits."""
    scale = np.abs(W).max(0) / 7
    codes = np.rint(W / scale)
    model = with_constants(
        f"{HEAD}\ng (float[6,32] x, int8[32,16] w, int8 low, int8 high, float[16] s, int8[16] z) => (float[6,16] y)"
        "{ c = Clip(w, low, high)  d = DequantizeLinear<axis = 1>(c, s, z)  y = MatMul(x, d) }",
        w=(codes * 1.2, ir.DataType.INT8),  # beyond the ends: Clip is no ornament
        low=(np.array(-7), ir.DataType.INT8),
        high=(np.array(7), ir.DataType.INT8),
        s=(scale, ir.DataType.FLOAT),
        z=(np.zeros(16), ir.DataType.INT8),
    )
    made, found = read(model, tmp_path, target="onnx")
    right = X @ (np.clip((codes * 1.2).astype(np.int8), -7, 7) * scale).astype(np.float32)
    np.testing.assert_allclose(found, right, rtol=0, atol=1e-5)
    assert "Clip" not in {node.op_type for node in made.graph.node}
    assert {t.data_type for t in made.graph.initializer} & {onnx.TensorProto.INT4}


@pytest.mark.parametrize("case", ["activation", "another-reader", "float"])
def test_other_clips_stay(case):
    graph = {
        "activation": "(int8[6] w, int8 low, int8 high, float s) => (float[6] y)"
        "{ c = Clip(w, low, high)  y = DequantizeLinear(c, s) }",
        "another-reader": "(int8[6] w, int8 low, int8 high, float s) => (float[6] y, int8[6] c)"
        "{ c = Clip(w, low, high)  y = DequantizeLinear(c, s) }",
        "float": "(float[6] w, float low, float high) => (float[6] y) { y = Clip(w, low, high) }",
    }[case]
    kind = ir.DataType.FLOAT if case == "float" else ir.DataType.INT8
    given = {"low": (np.array(-7), kind), "high": (np.array(7), kind)}
    if case == "another-reader":
        given["w"] = (np.arange(6), kind)
    model = with_constants(f'<ir_version: 10, opset_import: ["": 21]>\ng {graph}', **given)
    before = [node.op_type for node in model.graph]
    SpellQuantized()(model)
    assert not warnings(model)
    if case != "another-reader":
        assert [node.op_type for node in model.graph] == before


def test_weights_that_modelopt_leaves_in_float_in_front_of_their_quantizer_are_stored_as_codes(tmp_path):
    """float → QuantizeLinear → DequantizeLinear: explicit quantization for TensorRT, as ModelOpt writes it."""
    scale = np.abs(W).max(0) / 127
    model = with_constants(
        f"{HEAD}\ng (float[6,32] x, float[32,16] w, float[16] s, int8[16] z, float t, int8 u) => (float[6,16] y)"
        "{ a = QuantizeLinear(x, t, u)  b = DequantizeLinear(a, t, u)"
        "  c = QuantizeLinear<axis = 1>(w, s, z)  d = DequantizeLinear<axis = 1>(c, s, z)  y = MatMul(b, d) }",
        w=(W, ir.DataType.FLOAT),
        s=(scale, ir.DataType.FLOAT),
        z=(np.zeros(16), ir.DataType.INT8),
        t=(np.array(0.03), ir.DataType.FLOAT),
        u=(np.array(0), ir.DataType.INT8),
    )
    ir.save(model, tmp_path / "plain.onnx")
    right = session(tmp_path / "plain.onnx", optimization="none", threads=1).run(None, {"x": X})[0]
    made, found = read(model, tmp_path, target="tensorrt")
    np.testing.assert_array_equal(found, right)
    kinds = {tuple(t.dims): t.data_type for t in made.graph.initializer}
    assert kinds[32, 16] == onnx.TensorProto.INT8
    assert [n.op_type for n in made.graph.node].count("QuantizeLinear") == 1


@pytest.mark.parametrize(
    ("domain", "names"),
    [
        ("com.microsoft", ("QuantizeLinear", "DequantizeLinear")),
        ("com.amd.quark", ("ExtendedQuantizeLinear", "ExtendedDequantizeLinear")),
        ("com.vai.quantize", ("VitisQuantizeLinear", "VitisDequantizeLinear")),
    ],
)
def test_quantizers_to_16_bits_under_other_names(domain, names, tmp_path):
    quantize, decode = (f"{domain}.{name}" for name in names)
    model = with_constants(
        f"{HEAD}\ng (float[6,32] x, float s, uint16 z) => (float[6,32] y)"
        f"{{ a = {quantize}(x, s, z)  y = {decode}(a, s, z) }}",
        s=(np.array(2e-4), ir.DataType.FLOAT),
        z=(np.array(30000), ir.DataType.UINT16),
    )
    made, found = read(model, tmp_path, target="onnx")
    right = (np.clip(np.rint(X / np.float32(2e-4)) + 30000, 0, 65535) - 30000) * np.float32(2e-4)
    np.testing.assert_allclose(found, right, rtol=0, atol=1e-6)
    assert {node.domain for node in made.graph.node} == {""} and {o.domain for o in made.opset_import} == {""}


def test_modelopts_fp8_quantizers(tmp_path):
    model = with_constants(
        f"{HEAD}\ng (float[6,32] x, float s) => (float[6,32] y)"
        "{ a = trt.TRT_FP8QuantizeLinear(x, s)  y = trt.TRT_FP8DequantizeLinear(a, s) }",
        s=(np.array(0.25), ir.DataType.FLOAT),
    )
    _, found = read(model, tmp_path, target="onnx")
    right = (X / np.float32(0.25)).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * np.float32(0.25)
    np.testing.assert_allclose(found, right, rtol=1e-6)


@pytest.mark.parametrize("kind", [ir.DataType.INT32, ir.DataType.BFLOAT16])
def test_types_that_onnx_does_not_quantize_to_are_named(kind):
    model = with_constants(
        f"{HEAD}\ng (float[6,32] x, float s, int32 z) => (int32[6,32] y)"
        "{ y = com.amd.quark.ExtendedQuantizeLinear(x, s, z) }",
        s=(np.array(1e-4), ir.DataType.FLOAT),
        z=(np.array(0), kind),
    )
    assert not SpellQuantized()(model).changes
    assert f"ONNX does not quantize to {kind.name.lower()}" in warnings(model)[0]
