"""Low-bit matrix products: kernel = function body = onnx.reference, for every format, shape, type and tier."""

import concurrent.futures
import dataclasses

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from qonnx.custom_ops import library_path
from qonnx.custom_ops.lowbit import EXACT, INT8, layout_of, pack, unpack
from qonnx.runtime import session
from tests.low_bit_cases import INT16, expected, model_of, weight_of

OPERATORS = (EXACT, INT8, INT16)
TIERS = ("scalar", "avx2", "avx2vnni", "avx512", "avx512vnni")
KINDS = ("b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "b1/half", "b2/half", "b4/rows", "b3/rows", "b6/rows")
KINDS += ("b4/bytes", "b8/bytes", "ternary", "nf4", "fp4", "nf4/rows")
native = pytest.mark.skipif(library_path() is None, reason="no native library")


def run(model, x, **feeds):
    opened = session(model, threads=2)
    if x.dtype != ml_dtypes.bfloat16:
        return opened.run(None, {"x": x, **feeds})[0]
    # numpy has no bfloat16: ONNX Runtime reads and writes arrays of the same bits
    y = np.zeros((*x.shape[:-1], model.graph.outputs[0].shape[-1]), np.uint16)
    binding = opened.io_binding()
    of_bits = ort.OrtValue.ortvalue_from_numpy_with_onnx_type
    binding.bind_ortvalue_input("x", of_bits(x.view(np.uint16), ir.DataType.BFLOAT16.value))
    binding.bind_ortvalue_output("y", of_bits(y, ir.DataType.BFLOAT16.value))
    opened.run_with_iobinding(binding)
    return y.view(ml_dtypes.bfloat16)


def check(op, y, x, weight, bias=None):
    wanted, bound = expected(op, x, weight, bias)
    assert y.shape == wanted.shape and y.dtype == x.dtype
    worst = np.abs(y.astype(np.float64) - wanted) - bound
    assert (worst <= 0).all(), f"error {np.abs(y - wanted).max():.3g}, allowed {bound.max():.3g}"


def numbers(shape, dtype=np.float32, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("levels", [2, 3, 4, 8, 16, 32, 64, 128, 256])
def test_every_code_survives_packing(levels):
    layout = layout_of(levels)
    codes = np.arange(levels * 3).reshape(3, levels) % levels
    stored = pack(codes, layout)
    assert stored.shape == (3, layout.row_bytes(levels))
    np.testing.assert_array_equal(unpack(stored, levels, layout), codes)


def test_ternary_codes_take_less_than_1_7_bits():
    weight = weight_of("ternary", 64, 4000, 4000, scale_type=np.float16)
    assert weight.bits_per_weight(18) < 1.7


@pytest.mark.native
@native
@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_code_is_decoded_exactly(monkeypatch, op, kind):
    """Row n holds code n mod levels everywhere; unit vectors read single weights, so sums cannot hide an error."""
    for tier in TIERS:
        monkeypatch.setenv("QONNX_CPU", tier)
        weight = weight_of(kind, 259, 37, 16)
        weight.codes[:] = (np.arange(259) % weight.levels)[:, None]
        x = np.concatenate([np.eye(37, dtype=np.float32)[None, 33:], -np.eye(37, dtype=np.float32)[None, :2]], 1)
        check(op, run(model_of(op, weight), x), x, weight)


@pytest.mark.native
@native
@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_compute_the_specification(monkeypatch, op, tier, kind):
    monkeypatch.setenv("QONNX_CPU", tier)
    # one panel, several, a short one; one group, several, a short one; blocks of 16 to more than 512
    sizes = [(32, 64, 32, 1), (100, 200, 64, 13), (1, 7, 16, 3), (33, 1100, 1100, 2), (40, 96, 100, 9)]
    for rows, columns, block, tokens in sizes:
        weight = weight_of(kind, rows, columns, block, scale_type=np.float16 if rows == 100 else np.float32)
        x, bias = numbers((1, tokens, columns)), numbers(rows)
        check(op, run(model_of(op, weight, bias=bias), x), x, weight, bias)


@pytest.mark.native
@native
@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("tier", TIERS)
def test_ternary_groups_of_every_remainder(monkeypatch, op, tier):
    """Three codes to five bits: groups of whole threes of units, with 1 and 2 units left over, several in a block."""
    monkeypatch.setenv("QONNX_CPU", tier)
    for block, tokens in [(96, 1), (128, 9), (160, 2), (224, 8), (2048, 3)]:
        weight = weight_of("ternary", 40, max(block, 320), block)
        x = numbers((1, tokens, weight.codes.shape[1]))
        check(op, run(model_of(op, weight), x), x, weight)


@pytest.mark.native
@native
@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("element", ["FLOAT", "FLOAT16", "BFLOAT16"])
@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 4, 5, 7, 8, 9, 11, 64, 257, 265, 1031])
def test_any_number_of_tokens_and_type(op, element, tokens):
    dtype = ir.DataType[element].numpy()
    weight = weight_of("b4", 70, 130, 32)
    x, bias = numbers((1, tokens, 130), dtype), numbers(70, dtype)
    check(op, run(model_of(op, weight, element=element, bias=bias), x), x, weight, bias)


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("kind", ["b1", "b3", "b4/rows", "b5", "b6", "b7", "b8/bytes", "ternary", "nf4", "b2/half"])
@pytest.mark.parametrize("element", ["FLOAT", "FLOAT16"])
def test_the_function_body_computes_the_specification(op, kind, element):
    """In ONNX Runtime without our library and in onnx.reference."""
    weight = weight_of(kind, 9, 50, 16)
    dtype = ir.DataType[element].numpy()
    x, bias = numbers((2, 3, 50), dtype), numbers(9, dtype)
    proto = ir.to_proto(model_of(op, weight, element=element, bias=bias))
    onnx.checker.check_model(proto, full_check=True)
    plain = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    check(op, plain.run(None, {"x": x})[0], x, weight, bias)
    check(op, ReferenceEvaluator(proto).run(None, {"x": x})[0], x, weight, bias)


@pytest.mark.native
@native
@pytest.mark.parametrize("op", OPERATORS)
def test_weights_may_be_graph_inputs(op):
    weight = weight_of("b3", 20, 70, 32)
    x = numbers((1, 4, 70))
    feeds = {**weight.arrays(), "bias": np.zeros(1, np.float32)}
    check(op, run(model_of(op, weight, constant=False), x, **feeds), x, weight)


@pytest.mark.native
@native
def test_numbers_that_are_not_finite_spoil_their_row_only():
    weight = weight_of("b4", 40, 64, 32)
    x = numbers((1, 3, 64))
    x[0, 1, 5], clean = np.nan, x.copy()
    for op in OPERATORS:
        y = run(model_of(op, weight), x)
        assert np.isnan(y[0, 1]).all()
        clean[0, 1] = 0
        check(op, y[:, ::2], clean[:, ::2], weight)


@pytest.mark.native
@native
def test_one_zero_point_that_is_no_number_spoils_every_output():
    weight = dataclasses.replace(weight_of("b4", 40, 64, 32), zero_point=np.array(np.nan, np.float32))
    for op in OPERATORS:
        assert np.isnan(run(model_of(op, weight), numbers((1, 3, 64)))).all()


@pytest.mark.native
@native
def test_tiny_and_huge_rows_stay_exact_to_rounding():
    weight = weight_of("b4", 33, 64, 32)
    for size in (1e-30, 1e-10, 1e10, 1e34):
        x = numbers((1, 6, 64)) * np.float32(size)
        for op in OPERATORS:
            check(op, run(model_of(op, weight), x), x, weight)


@pytest.mark.native
@native
def test_sessions_in_threads_agree():
    weight = weight_of("b4", 96, 256, 32)
    opened = session(model_of(INT8, weight), threads=2)
    inputs = [numbers((1, m, 256), seed=m) for m in range(1, 17)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda x: opened.run(None, {"x": x})[0], inputs * 3))
    for x, y in zip(inputs * 3, outputs, strict=True):
        check(INT8, y, x, weight)


@pytest.mark.native
@native
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"K": 0}, "attribute K=0 is missing or not a positive number"),
        ({"N": -3}, "attribute N=-3 is missing or not a positive number"),
        ({"block_size": 0}, "attribute block_size=0 is missing"),
        ({"levels": 17}, "levels=17 codes, 2 of them in a word of 1 bytes, do not fit"),
        ({"bytes_per_word": 9}, "do not fit"),
        ({"N": 8}, r"input codes has shape \[9, 16\], but the attributes ask for \[8, 16\]"),
        ({"K": 40}, r"input codes has shape \[9, 16\], but the attributes ask for \[9, 20\]"),
        ({"block_size": 8}, r"input scale has shape \[9, 2\], but the attributes ask for \[9, 4\]"),
        ({"levels": 15}, r"input table has shape \[16\], but the attributes ask for float32 \[15\]"),
    ],
)
@pytest.mark.parametrize("op", OPERATORS)
def test_bad_attributes_are_refused_with_a_sentence(op, wrong, sentence):
    with pytest.raises(Exception, match=sentence):
        session(model_of(op, weight_of("b4", 9, 32, 16), **wrong))


@pytest.mark.native
@native
def test_activations_of_other_bits_are_refused_with_a_sentence():
    with pytest.raises(Exception, match="activation_bits=12 has no kernel; use 8 or 16"):
        session(model_of(INT8, weight_of("b4", 9, 32, 16), activation_bits=12))


@pytest.mark.native
@native
@pytest.mark.parametrize("tier", TIERS)
def test_sums_of_16_bit_activations_stay_inside_int32(monkeypatch, tier):
    """Every code and activation the largest there is, of either sign, in the largest groups."""
    monkeypatch.setenv("QONNX_CPU", tier)
    for kind in ("b8", "b8/rows", "b7", "nf4"):
        weight = weight_of(kind, 40, 1024, 1024)
        weight.codes[:] = weight.levels - 1
        x = np.ones((1, 9, 1024), np.float32)
        x[0, ::2] = -1
        check(INT16, run(model_of(INT16, weight), x), x, weight)


@pytest.mark.native
@native
def test_a_large_table_is_refused_with_a_sentence():
    weight = weight_of("b5", 9, 32, 16)
    arrays = weight.arrays()
    model = model_of(EXACT, weight, constant=False)
    arrays["table"] = arrays["table"] ** 2
    with pytest.raises(Exception, match=r"a table of 32 entries .* has no kernel"):
        session(model).run(None, {"x": numbers((1, 1, 32)), **arrays, "bias": np.zeros(1, np.float32)})


def test_a_swapped_nibble_is_noticed():
    """The check of this file sees the fault that it is there for."""
    weight = weight_of("b4", 8, 32, 16)
    x = numbers((1, 2, 32))
    model = model_of(EXACT, weight)
    codes = model.graph.initializers["codes"]
    swapped = codes.const_value.numpy()
    codes.const_value = ir.tensor((swapped >> 4) | (swapped << 4), name="codes")
    with pytest.raises(AssertionError, match="error"):
        check(EXACT, run(model, x), x, weight)
