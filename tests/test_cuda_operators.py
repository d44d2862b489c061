"""GPU operators through ONNX Runtime: the same adaptors and kernels on the emulated device and the CPU provider."""

import ctypes

import ml_dtypes
import numpy as np
import pytest

from qonnx.custom_ops.hadamard import HADAMARD, QUANTIZE_ROWS, ROTATE_AND_QUANTIZE
from qonnx.custom_ops.lowbit import EXACT, INT8
from tests import test_kernels_hadamard as rotations
from tests import test_kernels_lowbit as products
from tests.cuda_build import build, needs_compiler
from tests.low_bit_cases import model_of, weight_of

pytestmark = needs_compiler
OPERATORS = (EXACT, INT8)


@pytest.fixture(autouse=True)
def plugin(monkeypatch):
    """The library of emulated operators in the place of the native one."""
    path = build(plugin=True)
    monkeypatch.setenv("QONNX_OPS_LIBRARY", path)
    return ctypes.CDLL(path)


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("element", ["FLOAT", "FLOAT16", "BFLOAT16"])
@pytest.mark.parametrize("tokens", [0, 1, 8, 70])
def test_products(plugin, op, element, tokens):
    dtype = {"FLOAT": np.float32, "FLOAT16": np.float16, "BFLOAT16": ml_dtypes.bfloat16}[element]
    weight = weight_of("b4/bytes", 70, 130, 32)
    x, bias = products.numbers((1, tokens, 130), dtype), products.numbers(70, dtype)
    model = model_of(op, weight, element=element, bias=bias)
    plugin.emulated_seed(ctypes.c_uint64(tokens))
    products.check(op, products.run(model, x), x, weight, bias)


@pytest.mark.parametrize("op", OPERATORS)
def test_weights_may_be_graph_inputs(op):
    products.test_weights_may_be_graph_inputs(op)


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"K": 0}, "attribute K=0 is missing or not a positive number"),
        ({"levels": 17}, "levels=17 codes, 2 of them in a word of 1 bytes, do not fit"),
        ({"N": 8}, r"input codes has shape \[9, 16\], but the attributes ask for \[8, 16\]"),
        ({"block_size": 8}, r"input scale has shape \[9, 2\], but the attributes ask for \[9, 4\]"),
        ({"levels": 15}, r"input table has shape \[16\], but the attributes ask for float32 \[15\]"),
    ],
)
def test_bad_attributes_are_refused_with_a_sentence(op, wrong, sentence):
    products.test_bad_attributes_are_refused_with_a_sentence(op, wrong, sentence)


@pytest.mark.slow
def test_long_inputs_are_taken_in_parts():
    """The sums of 3 planes of 20000 rows need more workspace than a call may take."""
    weight = weight_of("b1", 300, 16, 16)
    x = products.numbers((1, 20_000, 16))
    products.check(EXACT, products.run(model_of(EXACT, weight), x), x, weight)


def test_rotations_and_rows():
    x = rotations.rows((2, 5, 192), np.float16)
    rotations.check_rotated(rotations.run(rotations.model_of(HADAMARD, 3, np.float16, 96), x)[0], x, 96)
    rotated = rotations.rotated(x.astype(np.float32), 96)
    both = rotations.run(rotations.model_of(ROTATE_AND_QUANTIZE, 3, np.float16, 96, 64), x)
    rotations.check_codes(both, rotated[0], 64, rotated[1])
    codes = rotations.run(rotations.model_of(QUANTIZE_ROWS, 3, np.float16, block=50), x)
    rotations.check_codes(codes, x.astype(np.float64), 50)


def test_a_row_that_no_block_can_hold_is_refused_with_a_sentence():
    x = np.zeros((1, 32768), np.float32)
    with pytest.raises(Exception, match=r"a row of 32768 numbers takes \d+ bytes of shared memory and this GPU has"):
        rotations.run(rotations.model_of(HADAMARD, 2, np.float32, 32768), x)
