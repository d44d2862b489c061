"""Nodes of low-bit products from quantized tensors: what the codes meant they still mean."""

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from qonnx.custom_ops import ops
from qonnx.custom_ops.products import low_bit_weight, product
from qonnx.errors import QonnxError
from qonnx.formats import FORMATS, QuantizedTensor
from qonnx.runtime import session

K, N = 70, 24
GRANULARITIES = {"tensor": ((), 0, 0), "channel": ((N,), 1, 0), "block": ((5, N), 0, 16)}


def tensor_of(name, granularity):
    shape, axis, block = GRANULARITIES[granularity]
    grid = dataclasses.replace(FORMATS[name], granularity=granularity, block=block)
    rng = np.random.default_rng(0)
    codes = rng.integers(grid.minimum, grid.maximum + 1, (K, N)).astype(np.int32)
    zero_point = rng.integers(grid.minimum, grid.maximum + 1, shape)
    if grid.symmetric:
        zero_point = np.full(shape, grid.middle)
    return QuantizedTensor(grid, codes, (rng.random(shape) + 0.5).astype(np.float32), np.asarray(zero_point), axis)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", [name for name, grid in FORMATS.items() if grid.bits <= 8])
def test_a_low_bit_weight_means_what_the_quantized_tensor_meant(name, granularity):
    tensor = tensor_of(name, granularity)
    np.testing.assert_allclose(low_bit_weight(tensor).decode().T, tensor.decode(), rtol=2**-23)


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("activation_bits", [None, 8, 16])
def test_the_node_computes_the_product(activation_bits, rank):
    weight = low_bit_weight(tensor_of("u4", "block"))
    x = ir.Value(name="x", shape=ir.Shape(["batch", 3, K]), type=ir.TensorType(ir.DataType.FLOAT))
    bias = np.arange(N, dtype=np.float32)
    rng = np.random.default_rng(1)
    factors = [rng.standard_normal(shape).astype(np.float32) for shape in ((K, rank or 1), (rank or 1, N))]
    low_rank = tuple(factors) if rank else None
    node, values = product(x, weight, activation_bits=activation_bits, bias=bias, low_rank=low_rank, name="layer")
    node.outputs[0].name = "y"
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=values, opset_imports={"": 21}, name="g")
    model = ir.Model(graph, ir_version=10)
    ops.add_to_model(model, node.op_type, node.overload)
    data = rng.standard_normal((2, 3, K)).astype(np.float32)
    wanted = data.astype(np.float64) @ weight.decode().T + bias
    if low_rank is not None:
        wanted += data.astype(np.float64) @ low_rank[0] @ low_rank[1]
    y = session(model).run(None, {"x": data})[0]
    assert list(node.outputs[0].shape) == ["batch", 3, N]
    # 8 bits round each of K numbers by at most half a step of largest / 127, 16 bits of largest / (127 · 257)
    steps = {None: 0, 8: 127, 16: 127 * 257}[activation_bits]
    step = 2.0**-20 + (np.abs(data).max() / (2 * steps) if steps else 0)
    branch = 0 if low_rank is None else 2.0**-20 * (np.abs(data) @ np.abs(low_rank[0]) @ np.abs(low_rank[1])).max()
    assert np.abs(y - wanted).max() <= step * np.abs(weight.decode()).sum(1).max() + branch


def test_other_activation_bits_are_refused_with_a_sentence():
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT))
    with pytest.raises(QonnxError, match="'layer' with activation_bits=4 has no operator; use 8, 16, or None"):
        product(x, low_bit_weight(tensor_of("u4", "block")), activation_bits=4, name="layer")


def test_a_weight_of_sixteen_bits_is_refused_with_a_sentence():
    with pytest.raises(QonnxError, match="has 65536 levels; a low-bit product takes at most 256"):
        low_bit_weight(tensor_of("s16", "channel"))


def test_scales_along_the_wrong_axis_are_refused_with_a_sentence():
    tensor = dataclasses.replace(tensor_of("s4", "channel"), axis=0)
    with pytest.raises(QonnxError, match="by channel along axis 0 does not fit"):
        low_bit_weight(tensor)
