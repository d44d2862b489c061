"""Static products, logarithmic attention and quantizers and decoded code books of the CUDA provider, emulated."""

import ml_dtypes
import numpy as np
import pytest

from qonnx.custom_ops.static_product import QLINEAR, QUANTIZED, STATIC
from tests import test_kernels_gather_codebook as gather
from tests import test_kernels_log_attention as attention
from tests import test_kernels_log_quantize as quantizers
from tests import test_kernels_static_product as products
from tests.cuda_build import build, needs_compiler
from tests.cuda_emulation import SCHEDULES
from tests.cuda_operator_cases import (
    ATTENTION_SHAPES,
    GATHERED,
    STATIC_SHAPES,
    Plugin,
    check_attention,
    check_gather,
    check_log_quantizers,
    check_lookup,
    check_static,
)

pytestmark = needs_compiler
OPERATORS = (QUANTIZED, QLINEAR, STATIC)
STATIC_KINDS = ("b1", "b4", "b8", "b3/rows", "b8/bytes", "ternary", "nf4")


@pytest.fixture(autouse=True)
def plugin(monkeypatch):
    """The library of emulated operators in the place of the native one."""
    path = build(plugin=True)
    monkeypatch.setenv("QONNX_OPS_LIBRARY", path)
    device = Plugin(path)
    yield device
    device.seed(0)


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("kind", STATIC_KINDS)
def test_static_products(op, kind):
    for shape in STATIC_SHAPES:
        check_static(op, kind, products.U8, shape)


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("grid", list(products.GRIDS))
def test_static_grids(plugin, op, grid):
    plugin.seed(3)
    for element in ("FLOAT", "FLOAT16", "BFLOAT16"):
        if element == "FLOAT" or (op != QLINEAR and grid not in ("u4", "s4")):  # these models make codes of float32
            check_static(op, "b4", products.GRIDS[grid], (70, 131, 48, 5), element)


def test_numbers_become_the_codes_of_quantize_linear(monkeypatch):
    monkeypatch.delenv("QONNX_CPU", raising=False)
    products.test_numbers_become_the_codes_of_quantize_linear(monkeypatch, "scalar")


@pytest.mark.parametrize("op", OPERATORS)
def test_every_input_of_a_static_product_may_be_a_graph_input(op):
    products.test_everything_may_be_a_graph_input(op)


def test_a_nan_spoils_its_row_only():
    products.test_a_nan_spoils_its_row_only()


@pytest.mark.parametrize("tokens", [0, 1, 257])
@pytest.mark.parametrize("op", OPERATORS)
def test_any_number_of_tokens(op, tokens):
    products.test_any_number_of_tokens_and_type(op, "FLOAT", tokens)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize(("levels", "per_octave"), attention.TABLES)
def test_attention(int8, levels, per_octave):
    for shape, d in ATTENTION_SHAPES:
        check_attention(shape, d, levels, per_octave, int8=int8)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("int8", [False, True])
def test_attention_in_half_types(dtype, int8):
    for levels, per_octave in attention.TABLES:
        check_attention((2, 7, 30), 16, levels, per_octave, dtype, int8)


@pytest.mark.parametrize("int8", [False, True])
def test_leading_dimensions_of_attention_broadcast(int8):
    attention.test_leading_dimensions_broadcast(int8)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_spoiled_and_masked_rows_of_attention(dtype):
    attention.test_function_body_reference_and_kernel_agree("kernel", False, dtype)


def test_every_schedule_of_attention_gives_the_same_bits(plugin):
    results = set()
    for seed in SCHEDULES:
        plugin.seed(seed)
        results.add(check_attention((2, 70, 150), 70).tobytes())
    assert len(results) == 1


def test_far_scores_and_huge_ones_are_safe():
    attention.test_far_scores_and_huge_ones_are_safe()


@pytest.mark.parametrize(("levels", "per_octave"), quantizers.GRIDS)
def test_log_quantizers(levels, per_octave):
    for scale in (1.0, 0.37):
        check_log_quantizers(levels, per_octave, scale)


@pytest.mark.parametrize("element", ["FLOAT16", "FLOAT"])
@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (9, 1000)])
def test_any_shape_of_log_quantizers(element, shape):
    quantizers.test_any_shape_and_type(element, shape)


@pytest.mark.parametrize("element", ["FLOAT16", "FLOAT"])
def test_lookup_quantizers(element):
    check_lookup(element)


@pytest.mark.parametrize("bits", [1, 3, 4, 5, 8, 9, 12, 13, 16])
@pytest.mark.parametrize("books", [1, 2])
def test_decoded_code_books_have_the_same_bits(bits, books):
    for form in GATHERED:
        check_gather(bits, books, form)
    check_gather(bits, books, GATHERED[0], np.float16)


def test_rows_are_those_asked_for_and_others_are_nan():
    weight = gather.weight_of(11, 24)
    rows = np.array([[3, 3, -1], [0, -11, 10]])
    np.testing.assert_array_equal(gather.gather(weight, rows), gather.decoded(weight)[rows])
    outside = gather.gather(weight, np.array([11, 2, -12]))
    assert np.isnan(outside[[0, 2]]).all() and np.isfinite(outside[1]).all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({4: 0.0}, "attribute codes_per_octave=0.000000 is missing or not a positive number"),
        ({3: np.ones(1, np.float32)}, r"table has shape \[1\], but float32 of 2 to 256 weights"),
        ({2: np.ones(3, np.float32)}, r"value_scale has shape \[3\], but one number or D=6"),
        ({1: np.ones((2, 7, 6), np.float32)}, r"scores \[2, 4, 5\] and value \[2, 7, 6\] do not fit"),
        ({1: np.ones((2, 5, 6), np.float16)}, "value is float16, but scores are float32"),
    ],
)
def test_bad_inputs_of_attention_are_refused_with_a_sentence(change, sentence):
    attention.test_bad_inputs_are_refused_with_a_sentence(change, sentence)
