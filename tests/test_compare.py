"""compare on models of another tool: exact on equal models, seeded faults found and blamed on the right layer."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from qonnx.compare import compare
from qonnx.comparison import Bounds
from qonnx.differences import Difference
from qonnx.errors import QonnxError
from qonnx.scores import score_axis

MLP = """<ir_version: 8, opset_import: ["": 17]>
mlp (float[N, 16] x) => (float[N, 10] logits) {
  [first] h = MatMul(x, w1)
  [first_bias] hb = Add(h, b1)
  [first_relu] a = Relu(hb)
  [second] g = MatMul(a, w2)
  [second_relu] b = Relu(g)
  [third] logits = MatMul(b, w3)
}"""
SIZES = {"w1": (16, 24), "b1": (24,), "w2": (24, 24), "w3": (24, 10)}


@pytest.fixture(scope="module")
def data() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(5)
    return [{"x": rng.normal(size=(4, 16)).astype(np.float32)} for _ in range(6)]


@pytest.fixture(scope="module")
def float_path(tmp_path_factory) -> str:
    rng = np.random.default_rng(3)
    model = onnx.parser.parse_model(MLP)
    for name, shape in SIZES.items():
        model.graph.initializer.append(numpy_helper.from_array((rng.normal(size=shape) / 4).astype(np.float32), name))
    path = tmp_path_factory.mktemp("compare") / "mlp.onnx"
    onnx.save(model, path)
    return str(path)


class Reader(CalibrationDataReader):
    def __init__(self, samples):
        self.samples = iter(samples)

    def get_next(self):
        return next(self.samples, None)


@pytest.fixture(scope="module", params=["QDQ", "QOperator"])
def quantized_path(request, float_path, data, tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp(request.param) / "mlp.quant.onnx")
    options = {"quant_format": QuantFormat[request.param], "activation_type": QuantType.QUInt8}
    quantize_static(float_path, path, Reader(data), weight_type=QuantType.QInt8, **options)
    return path


def spoiled(path: str, name: str, change, tmp_path) -> str:
    """A copy of the model whose initializer `name` went through `change`."""
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))
    found = tmp_path / "spoiled.onnx"
    onnx.save(model, found)
    return str(found)


def quick(reference, result, data, **options):
    return compare(reference, result, data, latency=False, threads=1, **{"oracles": ("runtime",), **options})


def own_error(comparison) -> dict[str, float]:
    """Isolated SQNR in dB by node."""
    return {layer.node: layer.isolated.sqnr_db for layer in comparison.layers if layer.isolated}


def test_a_model_equals_itself(float_path, data):
    found = quick(float_path, float_path, data, oracles=("runtime", "unoptimized", "reference"))
    assert found.outputs[0].figures.sqnr_db == math.inf
    assert found.outputs[0].figures.max_abs == 0
    assert found.outputs[0].top1 == 1
    assert {layer.isolated.sqnr_db for layer in found.layers} == {math.inf}
    assert {layer.accumulated.sqnr_db for layer in found.layers} == {math.inf}
    assert not found.blamed and not found.broken


def test_every_layer_of_another_tool_finds_its_counterpart(float_path, quantized_path, data):
    found = quick(float_path, quantized_path, data)
    compute = {layer.node: layer for layer in found.layers if layer.operator == "MatMul"}
    assert set(compute) == {"first", "second", "third"}
    assert all(layer.matched for layer in compute.values())
    assert all(20 < layer.isolated.sqnr_db < 70 for layer in compute.values())
    # errors add up along the network, so a later layer's accumulated error is not smaller than its own by much
    assert compute["third"].accumulated.sqnr_db < compute["third"].isolated.sqnr_db + 1


def test_an_off_by_one_zero_point_is_blamed_on_its_layer(float_path, quantized_path, data, tmp_path):
    sound = own_error(quick(float_path, quantized_path, data))
    fault = spoiled(quantized_path, "w2_zero_point", lambda z: (z + 1).astype(z.dtype), tmp_path)
    found = own_error(quick(float_path, fault, data))
    assert min(found, key=found.get) == "second"
    assert found["second"] < sound["second"] - 3
    assert found["first"] == sound["first"] and found["third"] == sound["third"]


def test_a_scale_along_the_wrong_axis_is_blamed_on_its_layer(float_path, data, tmp_path):
    path = str(tmp_path / "channels.onnx")
    quantize_static(float_path, path, Reader(data), per_channel=True, weight_type=QuantType.QInt8)
    sound = quick(float_path, path, data)
    model = onnx.load(path)
    node = next(n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] == "w2_quantized")
    axis = next(a for a in node.attribute if a.name == "axis")
    axis.i = 1 - axis.i  # w2 is square: nothing but the numbers can tell
    onnx.save(model, path)
    found = quick(float_path, path, data)
    assert found.blamed[0].node.startswith("second")
    assert own_error(found)["second"] < own_error(sound)["second"] - 10


def test_a_swapped_nibble_is_blamed_on_its_layer(float_path, quantized_path, data, tmp_path):
    def swap(codes):
        found = codes.view(np.uint8).copy()
        found[0] = (found[0] >> 4) | (found[0] << 4)
        return found.view(codes.dtype)

    fault = spoiled(quantized_path, "w3_quantized", swap, tmp_path)
    assert quick(float_path, fault, data).blamed[0].node == "third"


def test_the_runtime_fuses_other_tools_models(float_path, quantized_path, data):
    found = quick(float_path, quantized_path, data, layers=False)
    assert found.fusion.count("integer") == 3
    assert {node.origin.removesuffix("_quant") for node in found.fusion.nodes} == {"first", "second", "third"}
    assert found.fusion.shares["integer"] == 1
    assert 8 < found.result_footprint.bits_per_weight < 9.5
    assert found.reference_footprint.bits_per_weight == 32


NBITS = """<ir_version: 10, opset_import: ["": 21]>
four (float[M, 64] x) => (float[M, 32] y) { w = DequantizeLinear<axis: int = 0, block_size: int = 16>(codes, scale)
  [product] y = MatMul(x, w) }"""


def test_the_runtime_departs_from_the_file_where_it_turns_weights_into_nbits(tmp_path):
    """DQ + MatMul becomes MatMulNBits with int8 activations: only the runtime oracle departs, and the gap says so."""
    rng = np.random.default_rng(1)
    model = ir.from_onnx_text(NBITS)
    codes = ir.tensor(rng.integers(-8, 8, (64, 32)).astype(np.int8)).numpy()
    arrays = {"codes": codes, "scale": rng.uniform(0.01, 0.1, (4, 32)).astype(np.float32)}
    types = {"codes": ir.DataType.INT4, "scale": ir.DataType.FLOAT}
    values = {v.name: v for node in model.graph for v in node.inputs if v is not None}
    for name, array in arrays.items():
        kind = types[name]
        tensor = ir.tensor(array.astype(kind.numpy()), dtype=kind, name=name)
        values[name].const_value = tensor
        values[name].type, values[name].shape = ir.TensorType(kind), ir.Shape(array.shape)
        model.graph.register_initializer(values[name])
    path = tmp_path / "four.onnx"
    ir.save(model, path)
    data = [{"x": rng.normal(size=(3, 64)).astype(np.float32)}]
    found = quick(path, path, data, layers=False, oracles=("runtime", "unoptimized", "reference"))
    gaps = {gap.pair: gap.figures.sqnr_db for gap in found.oracles}
    assert [node.operator for node in found.fusion.nodes] == ["MatMulNBits"]
    assert gaps["runtime − unoptimized"] < 60
    assert gaps["unoptimized − reference"] > 120
    assert found.result_footprint.bits_per_weight == 4 + 32 / 16


def test_bounds_that_do_not_hold_are_named(float_path, quantized_path, data):
    bounds = Bounds(min_sqnr=200, min_cosine=0.5, max_size=1e-3, max_latency=1)
    broken = quick(float_path, quantized_path, data, layers=False, bounds=bounds).broken
    assert len(broken) == 3
    assert "'logits': SQNR is" in broken[0] and "200 dB" in broken[0]
    assert "latency of the result is not measured" in broken[1] and "size" in broken[2]


def test_top1_metric_needs_labels(float_path, quantized_path, data):
    with pytest.raises(QonnxError, match="label"):
        quick(float_path, quantized_path, data, layers=False, metric="top1")
    labelled = [{**sample, "label": np.zeros(4, np.int64)} for sample in data]
    metric = quick(float_path, quantized_path, labelled, layers=False, metric="top1").metric
    assert 0 <= metric.reference <= 1 and metric.samples == len(data)


def test_latency_is_measured_in_turns(float_path, quantized_path, data):
    found = compare(float_path, quantized_path, data[:1], oracles=("runtime",), layers=False, threads=1).latency
    assert found.reference.p10 <= found.reference.median <= found.reference.p90
    assert found.ratio_p10 <= found.ratio <= found.ratio_p90 and found.rounds >= 9


def test_data_that_does_not_fit_is_an_error(float_path, data):
    with pytest.raises(QonnxError, match="lacks input 'x'"):
        quick(float_path, float_path, [{"y": data[0]["x"]}])
    with pytest.raises(QonnxError, match="no samples"):
        quick(float_path, float_path, [])
    with pytest.raises(QonnxError, match=r"sample 0 .* does not run"):
        quick(float_path, float_path, [{"x": data[0]["x"][:, :7]}])


@pytest.mark.parametrize("count", [1, 8191, 8192, 20000])
def test_streamed_sums_equal_the_whole(count):
    rng = np.random.default_rng(count)
    a, b = rng.normal(size=(2, 3, count))
    difference = Difference()
    for x, y in zip(a, b, strict=True):
        difference.add(x.astype(np.float32), y.astype(np.float32))
    a, b = a.astype(np.float32).astype(float), b.astype(np.float32).astype(float)
    found = difference.figures
    error = 4 * np.finfo(float).eps * count  # a sum of n terms errs by at most n ε relative
    assert found.sqnr_db == pytest.approx(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()), rel=error + 1e-12)
    assert found.max_abs == np.abs(a - b).max() and found.count == a.size
    assert found.cosine == pytest.approx((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()), rel=1e-9, abs=1e-12)


def test_infinities_count_only_where_the_models_differ():
    difference = Difference()
    difference.add(np.float32([1, np.inf, np.nan, 2]), np.float32([1, np.inf, 0, 2]))
    assert difference.figures.not_finite == 1 and difference.figures.count == 2 and difference.figures.max_abs == 0


@pytest.mark.parametrize(
    ("name", "shape", "scores"),
    [("y", (4, 10), True), ("y", (1, 3, 32, 32), False), ("logits", (2, 7, 50), True), ("hidden", (2, 7, 50), False)],
)
def test_what_looks_like_scores(name, shape, scores):
    assert bool(score_axis(name, np.random.default_rng(0).normal(size=shape).astype(np.float32))) == scores
