"""Convolutions with a low-bit weight: kernel = function body = onnx.reference, by format, window, type and tier."""

import dataclasses

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from qonnx.custom_ops import library_path, ops
from qonnx.runtime import session
from tests.operator_cases import EXAMPLES, KINDS, WINDOWS, Case, Size, disagreement, model_of
from tests.operator_worker import outcome

OP = "ConvLowBit"
TIERS = ("scalar", "avx2", "avx512", "avx512vnni")
native = pytest.mark.skipif(library_path() is None, reason="no native library")


def case_of(window: int, **size) -> Case:
    """Of the window with that index; `lead` is batch, height − 10 and width − 10 of the images."""
    return EXAMPLES[OP](OP, Size(seed=window, **size))


def check(case: Case) -> None:
    found, right = outcome(case, native=True), outcome(case, native=False)
    assert not isinstance(found, str) and not isinstance(right, str), f"{case}: {found}, {right}"
    assert disagreement(case, found, right) is None


@pytest.mark.native
@native
@pytest.mark.parametrize("window", range(len(WINDOWS)))
@pytest.mark.parametrize("tier", TIERS)
def test_every_window_on_every_tier(monkeypatch, tier, window):
    monkeypatch.setenv("QONNX_CPU", tier)
    check(case_of(window, rows=45, columns=200, block=48, lead=(2, 3, 9)))
    check(case_of(window, rows=32, columns=64, block=64, lead=(1, 20, 17)))  # several runs of pixels


@pytest.mark.native
@native
@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_every_format(kind):
    check(case_of(1, rows=33, columns=144, block=36, kind=kind, lead=(1, 1, 2)))


@pytest.mark.native
@native
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("window", [0, 2])
def test_other_types(dtype, window):
    check(case_of(window, columns=96, dtype=dtype, wide_bias=False))


@pytest.mark.native
@native
@pytest.mark.parametrize("pixels", [1, 2, 3, 5, 8, 9, 264, 265])
def test_any_number_of_pixels(pixels):
    case = case_of(0, rows=40, columns=70)
    x = np.random.default_rng(pixels).standard_normal((1, 70, pixels, 1)).astype(np.float32)
    check(dataclasses.replace(case, arrays={**case.arrays, "x": x}))


@pytest.mark.native
@native
def test_images_beyond_what_is_placed_at_once_and_none():
    case = case_of(1, rows=8, columns=9 * 24, block=72)
    for shape in ((1, 24, 90, 91), (0, 24, 5, 5)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        check(dataclasses.replace(case, arrays={**case.arrays, "x": x}))


@pytest.mark.parametrize("window", range(len(WINDOWS)))
def test_the_function_is_conv_of_the_decoded_weight(window):
    case = case_of(window, rows=6, columns=40, block=16, lead=(1, 1, 2))
    model, feeds = model_of(case)
    (right,) = outcome(case, native=False)
    y = model.graph.outputs[0]
    y.type, y.shape = model.graph.inputs[0].type, ir.Shape(right.shape)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    assert disagreement(case, ReferenceEvaluator(proto).run(None, feeds), [right]) is None


@pytest.mark.native
@native
def test_shapes_keep_their_symbols():
    for window, wanted in ((0, ["batch", 33, "height", "width"]), (1, ["batch", 33, 12])):
        case = case_of(window)
        model, _ = model_of(case)
        channels = case.arrays["x"].shape[1]
        model.graph.inputs[0].shape = ir.Shape(["batch", channels, "height" if window == 0 else 12, "width"])
        assert session(model).get_outputs()[0].shape[: len(wanted)] == wanted


@pytest.mark.native
@native
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"kernel_shape": (2, 2)}, "K=63 is no multiple of the 4 places of its kernel_shape"),
        ({"kernel_shape": (3,)}, "attribute kernel_shape is not 2 numbers of at least 1"),
        ({"strides": (0, 1)}, "attribute strides is not 2 numbers of at least 1"),
        ({"pads": (0, 0, -1, 0)}, "attribute pads is not 4 numbers of at least 0"),
        ({"dilations": (9, 9)}, "an image of 15 by 19 is smaller than the kernel"),
        ({"kernel_shape": (1, 1)}, r"X has shape \[5, 7, 19, 21\], but \[batch, 63, height, width\] is wanted"),
    ],
)
def test_bad_attributes_are_refused_with_a_sentence(wrong, sentence):
    case = case_of(1, columns=63)
    if "dilations" in wrong:
        case = dataclasses.replace(case, arrays={**case.arrays, "x": case.arrays["x"][:, :, :15, :19]})
    model, feeds = model_of(dataclasses.replace(case, attributes={**case.attributes, **wrong}))
    with pytest.raises(Exception, match=sentence):
        session(model).run(None, feeds)


def test_a_transposed_kernel_is_noticed():
    """The check of this file sees the fault that it is there for."""
    case = case_of(1, rows=4, columns=9, block=9)
    turned = {**case.arrays, "x": case.arrays["x"].swapaxes(2, 3)}
    (right,), (other,) = outcome(case, native=False), outcome(dataclasses.replace(case, arrays=turned), native=False)
    assert disagreement(case, [other.swapaxes(2, 3)], [right]) is not None


def test_the_operator_takes_what_a_product_takes():
    assert ops.OPS[OP].inputs == ops.OPS["MatMulLowBit"].inputs
