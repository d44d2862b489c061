"""Portable variants: every one loads, computes the same, says its price, and names what stands in its way."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import qonnx
from models.tiny import build, inputs
from qonnx.__main__ import main
from qonnx.conversion import convert
from qonnx.errors import QonnxError
from qonnx.exports import VARIANTS, export
from qonnx.runtime import session
from tests.low_bit_cases import model_of, weight_of

NETWORK = """
<ir_version: 10, opset_import: ["": 21]>
g (float[N,3,8,8] x, float[8,3,3,3] w1, float[512,32] w2, float[32,16] w3) => (float[N,16] y)
{
  a = Conv<pads = [1,1,1,1]>(x, w1)
  b = Flatten(a)
  c = MatMul(b, w2)
  d = Relu(c)
  y = MatMul(d, w3)
}
"""


@pytest.fixture(scope="module")
def low_bit(tmp_path_factory):
    """A model with a node of ai.qonnx and its function."""
    path = tmp_path_factory.mktemp("export") / "low.onnx"
    ir.save(model_of("MatMulLowBit", weight_of("b3", 24, 64, 32)), path)
    return path


@pytest.fixture(scope="module")
def four_bit(tmp_path_factory):
    """4-bit weights: a convolution, which ONNX Runtime leaves as it is, and products, which it packs."""
    folder = tmp_path_factory.mktemp("export4")
    ir.save(build(NETWORK), folder / "float.onnx")
    convert(folder / "float.onnx", recipe="weight-int4", target="ort-cpu", output=folder / "four.onnx")
    return folder / "four.onnx"


def feeds_of(path) -> dict:
    model = ir.load(path)
    return inputs(model, 3) if model.graph.inputs[0].name == "x" else {}


def run(path, feeds) -> np.ndarray:
    """In plain ONNX Runtime, without any library."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


@pytest.mark.parametrize("source", ["low_bit", "four_bit"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_computes_the_same_without_our_library(source, variant, tmp_path, request):
    path = request.getfixturevalue(source)
    (row,) = export(path, tmp_path, [variant])
    assert not row.refused
    written = tmp_path / row.file
    assert row.bytes == written.stat().st_size
    feeds = feeds_of(path)
    expected = session(path, optimization="none").run(None, feeds)[0]
    np.testing.assert_allclose(run(written, feeds), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_nodes_of_function_bodies_have_names_of_their_own(low_bit, tmp_path):
    model = onnx.load(low_bit)
    for function in model.functions:
        for node in function.node:
            node.name = "same"
    onnx.save(model, tmp_path / "same.onnx")
    (row,) = export(tmp_path / "same.onnx", tmp_path, ["functions"])
    names = [node.name for f in onnx.load(tmp_path / row.file).functions for node in f.node]
    assert len(names) == len(set(names)) > 10


def test_inlined_and_standard_have_no_functions_and_no_other_domain(low_bit, tmp_path):
    for row in export(low_bit, tmp_path, ["inlined", "standard"]):
        model = onnx.load(tmp_path / row.file)
        assert not model.functions
        assert {node.domain for node in model.graph.node} == {""}
        assert {entry.domain for entry in model.opset_import} == {""}
        names = [node.name for node in model.graph.node]
        assert len(names) == len(set(names))
        assert "MatMulLowBit" in row.prices[0]


@pytest.mark.native
def test_dense_memory_elsewhere_is_a_price(low_bit, tmp_path):
    (row,) = export(low_bit, tmp_path, ["functions"])
    assert row.memory_portable > 4 * row.memory, "3 bits here, float32 there"
    assert any("dense" in price for price in row.prices)


def test_four_bit_tensors_are_widened_for_ort_format_only_where_they_stay(four_bit, tmp_path):
    (row,) = export(four_bit, tmp_path, ["ort"])
    (price,) = [price for price in row.prices if "weights of fewer than 8 bits" in price]
    assert int(price.split()[0]) < 3, "the large product stays packed"


def test_matmul_nbits_is_written_out_in_standard_operators(tmp_path):
    ir.save(build(NETWORK), tmp_path / "float.onnx")
    convert(tmp_path / "float.onnx", recipe="weight-int4", target="ort-cuda", output=tmp_path / "nbits.onnx")
    assert "MatMulNBits" in {node.op_type for node in onnx.load(tmp_path / "nbits.onnx").graph.node}
    (row,) = export(tmp_path / "nbits.onnx", tmp_path, ["standard"])
    assert {node.domain for node in onnx.load(tmp_path / row.file).graph.node} == {""}
    assert any("MatMulNBits" in price for price in row.prices)


def test_what_has_no_standard_spelling_is_named(tmp_path, capsys):
    head = '<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>'
    text = f"{head}\ng (float[N,8] x) => (float[N,8] y) {{ y = com.microsoft.Gelu(x) }}"
    ir.save(ir.from_onnx_text(text), tmp_path / "gelu.onnx")
    (row,) = export(tmp_path / "gelu.onnx", tmp_path, ["standard"])
    assert "com.microsoft.Gelu" in row.refused
    assert not (tmp_path / row.file).exists()
    assert main(["export", str(tmp_path / "gelu.onnx"), "--variant", "standard"]) == 1
    assert "not written" in capsys.readouterr().out


def test_the_command_writes_every_variant_and_does_not_overwrite(four_bit, tmp_path, capsys):
    assert main(["export", str(four_bit), "-o", str(tmp_path / "new"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["variant"] for row in rows] == list(VARIANTS)
    assert {p.name for p in (tmp_path / "new").iterdir()} == {row["file"] for row in rows}
    assert main(["export", str(four_bit), "-o", str(tmp_path / "new")]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["export", str(four_bit), "-o", str(tmp_path / "new"), "-f"]) == 0


def test_unknown_variants_and_files_are_sentences(four_bit, tmp_path):
    with pytest.raises(QonnxError, match="did you mean 'inlined'"):
        qonnx.export(four_bit, tmp_path, ["inlind"])
    with pytest.raises(QonnxError, match="does not exist"):
        qonnx.export(tmp_path / "no.onnx", tmp_path)
