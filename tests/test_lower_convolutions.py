"""Convolutions with packed weights: where ConvLowBit has a kernel and the target wants them, and equal to DQ."""

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.tiny import build
from qonnx import runtime
from qonnx.custom_ops import library_path
from qonnx.passes.assign_weights import AssignWeights
from qonnx.passes.lower import Lower
from qonnx.passes.place_qdq import PlaceQDQ
from qonnx.passes.solve_weights import SolveWeights
from qonnx.targets import TARGETS

TARGET = TARGETS["ort-cpu"]
HEAD = '<ir_version: 13, opset_import: ["": 25]> g '
LEFT, TAKEN = ["DequantizeLinear", "Conv"], ["ConvLowBit"]

CASES = {
    "1×1": "(float[2,96,7,5] x, float[40,96,1,1] w) => (float[2,40,7,5] y) { y = Conv(x, w) }",
    "bias": "(float[2,96,7,5] x, float[40,96,1,1] w, float[40] b) => (float[2,40,7,5] y) { y = Conv(x, w, b) }",
    "window": "(float[1,64,9,8] x, float[40,64,3,2] w) => (float[1,40,5,8] y) "
    "{ y = Conv<strides = [2, 1], pads = [1, 0, 2, 2], dilations = [1, 2], kernel_shape = [3, 2]>(x, w) }",
    "valid": '(float[1,64,9,8] x, float[40,64,3,3] w) => (float[1,40,7,6] y) { y = Conv<auto_pad = "VALID">(x, w) }',
}
NEAR_MISSES = {
    "groups": "(float[1,128,9,8] x, float[40,64,3,3] w) => (float[1,40,7,6] y) { y = Conv<group = 2>(x, w) }",
    "same": "(float[1,64,9,8] x, float[40,64,3,3] w) => (float[1,40,9,8] y) "
    '{ y = Conv<auto_pad = "SAME_UPPER">(x, w) }',
    "one dimension": "(float[1,64,9] x, float[40,64,3] w) => (float[1,40,7] y) { y = Conv(x, w) }",
}


def quantized(text: str, **options) -> ir.Model:
    model = build(HEAD + text)
    for one in (AssignWeights(TARGET, **options), SolveWeights(), PlaceQDQ()):
        one(model)
    return model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def outputs(model: ir.Model, native: bool = True) -> np.ndarray:
    shape = model.graph.inputs[0].shape.numpy()
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    return runtime.session(model, native=native, threads=1).run(None, {"x": x})[0]


@pytest.mark.parametrize("granularity", ["block", "channel"])
@pytest.mark.parametrize("name", CASES)
def test_packed_convolutions_equal_dequantized_ones(name, granularity):
    model = quantized(CASES[name], bits=3, granularity=granularity)
    assert operators(model) == LEFT
    wanted = outputs(model)
    Lower(TARGET)(model)
    assert operators(model) == TAKEN
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    terms = model.graph[0].attributes["K"].as_int()
    for native in {False, library_path() is not None}:
        np.testing.assert_allclose(outputs(model, native), wanted, atol=terms * 2**-22 * np.abs(wanted).max())


def test_codes_are_packed_to_the_bit():
    model = quantized(CASES["window"], bits=3)
    Lower(TARGET)(model)
    (codes,) = (value for name, value in model.graph.initializers.items() if name.endswith("/codes"))
    assert codes.const_value.size == 40 * 64 * 3 * 2 * 3 / 8


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_what_has_no_kernel_stays(name):
    model = quantized(NEAR_MISSES[name], bits=3)
    Lower(TARGET)(model)
    assert operators(model) == LEFT


def test_the_target_decides():
    """4 bits are a type of ONNX; the same weight is packed where the target says so."""
    model = quantized(CASES["1×1"], bits=4)
    Lower(TARGET)(model)
    assert operators(model) == LEFT
    Lower(dataclasses.replace(TARGET, weight_only={"4": "lowbit"}))(model)
    assert operators(model) == TAKEN
