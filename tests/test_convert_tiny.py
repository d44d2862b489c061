"""`convert` from end to end on tiny models that hold what trips tools up: the file runs, close to the float model."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.tiny import TINY, build, inputs
from qonnx.conversion import convert
from qonnx.errors import BoundBroken, QonnxError
from qonnx.ledger import ledger
from qonnx.model import load
from qonnx.runtime import session
from tests.qdq_cases import HEAD

# Models in which static quantization finds work.
WORKING = (
    "half precision",
    "layer norm in a Cast island of a half-precision model",
    "opset 9",
    "attention",
    "Resize to sizes that Shape computes",
    "local function",
    "operator of com.microsoft",
    "unused output and unused nodes",
    "zero-size tensor",
    "identities between named ends",
)


def written(model: ir.Model, tmp_path):
    path = tmp_path / "float.onnx"
    onnx.save(ir.to_proto(model), path)
    return path


def converted(model: ir.Model, tmp_path, data, **options):
    path = tmp_path / "result.onnx"
    report = convert(written(model, tmp_path), data=data, output=path, quiet=True, **options).report
    return path, report


@pytest.mark.parametrize("name", WORKING)
def test_the_written_file_runs_and_is_near_the_float_model(name: str, tmp_path):
    float_model = TINY[name]()
    data = [inputs(float_model, seed) for seed in range(3)]
    path, report = converted(TINY[name](), tmp_path, data)
    onnx.checker.check_model(path, full_check=True)
    assert [v.name for v in load(path).graph.outputs] == [v.name for v in float_model.graph.outputs]
    expected = session(float_model, optimization="none", threads=1).run(None, data[0])
    for optimization in ("none", "all"):
        found = session(path, optimization=optimization, threads=1).run(None, data[0])
        for a, b in zip(expected, found, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            noise = np.square(b.astype(np.float64) - a).sum() / max(np.square(a.astype(np.float64)).sum(), 1e-30)
            assert noise < 0.01, "20 dB: eight bits in a handful of tensors keep more"
    assert report.comparison is not None


@pytest.mark.parametrize("name", WORKING)
@pytest.mark.parametrize("size", [1, 5])
def test_other_sizes_than_those_of_calibration_run(name: str, size: int, tmp_path):
    float_model = TINY[name]()
    path, _ = converted(TINY[name](), tmp_path, [inputs(float_model, seed) for seed in range(2)])
    feeds = inputs(float_model, 9, open_dimension=size)
    expected = session(float_model, optimization="none", threads=1).run(None, feeds)
    found = session(path, threads=1).run(None, feeds)
    assert [a.shape for a in expected] == [b.shape for b in found]


@pytest.mark.parametrize(
    "name", ["If with captures in both branches", "Loop with a linear layer", "Scan with a linear layer"]
)
def test_bodies_are_skipped_with_a_reason_and_nothing_else_means_failure(name: str, tmp_path):
    model = TINY[name]()
    with pytest.raises(BoundBroken, match="control-flow"):
        converted(model, tmp_path, [inputs(model, 1)])
    assert not (tmp_path / "result.onnx").exists()


def test_what_stands_in_a_body_is_a_line_of_the_ledger(tmp_path):
    text = f"""{HEAD} g (float[B,4] x, bool flag, float[4,4] w1, float[4,4] w2) => (float[B,4] y) {{
        m = MatMul(x, w1)
        y = If (flag) <
            then_branch = yes () => (float[B,4] y1) {{ y1 = MatMul(m, w2) }},
            else_branch = no () => (float[B,4] y2) {{ y2 = Tanh(m) }}
        >
    }}"""
    model = build(text)
    made = convert(written(model, tmp_path), data=[inputs(model, 1)], quiet=True).model
    states = {(row.operator, row.state, row.reason) for row in ledger(made)}
    assert states == {("MatMul", "done", ""), ("MatMul", "skipped", "subgraph")}


def test_half_precision_keeps_its_type_everywhere(tmp_path):
    model = TINY["half precision"]()
    path, _ = converted(model, tmp_path, [inputs(model, seed) for seed in range(3)])
    result = load(path)
    for node in result.graph:
        if node.op_type == "QuantizeLinear":
            assert node.inputs[0].dtype == node.inputs[1].dtype == ir.DataType.FLOAT16
        if node.op_type == "DequantizeLinear":
            assert node.outputs[0].dtype == ir.DataType.FLOAT16


def test_operators_of_others_stay_as_they_are(tmp_path):
    model = TINY["operator of com.microsoft"]()
    path, _ = converted(model, tmp_path, [inputs(model, seed) for seed in range(3)])
    kinds = [(node.domain, node.op_type) for node in load(path).graph]
    assert ("com.microsoft", "QuickGelu") in kinds and ("", "Gelu") in kinds  # that one only where it is standard
    assert ("", "QuantizeLinear") in kinds


def test_an_operator_without_its_library_is_named(tmp_path):
    text = """<ir_version: 10, opset_import: ["": 21, "their.domain": 1]>
    g (float[B,4] x, float[4,4] w) => (float[B,4] y) {
        m = MatMul(x, w)
        y = their.domain.Magic(m)
    }"""
    model = build(text)
    with pytest.raises(QonnxError, match=r"Magic.*--custom-op-library"):
        converted(model, tmp_path, [inputs(model, 1)])


BFLOAT = """<ir_version: 10, opset_import: ["": 21]>
g (bfloat16[B,64] x, bfloat16[64,64] w1, bfloat16[64,64] w2) => (bfloat16[B,64] y) {
    m = MatMul(x, w1)
    r = Relu(m)
    y = MatMul(r, w2)
}"""


def test_a_type_that_the_runtime_has_no_kernels_for_is_named_with_what_can_be_done(tmp_path):
    model = build(BFLOAT)
    with pytest.raises(QonnxError, match=r"no kernel for MatMul.*bfloat16.*without data"):
        converted(model, tmp_path, [inputs(model, 1)])


def test_weights_of_a_bfloat16_model_are_quantized_without_running_it(tmp_path):
    made = convert(written(build(BFLOAT), tmp_path), quiet=True).model
    onnx.checker.check_model(ir.to_proto(made), full_check=True)
    weights = [node for node in made.graph if node.op_type == "DequantizeLinear"]
    assert len(weights) == 2
    assert all(node.outputs[0].dtype == node.inputs[1].dtype == ir.DataType.BFLOAT16 for node in weights)
