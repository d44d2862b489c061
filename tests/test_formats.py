"""Laws of every number format: codes, ranges, rounding; ONNX Runtime and onnx.reference agree bit for bit."""

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from qonnx import runtime
from qonnx.formats import FORMATS, IntFormat, QuantizedTensor

NAMED = list(FORMATS.items())
VARIANTS = [
    *NAMED,
    ("s8 narrow", dataclasses.replace(FORMATS["s8"], narrow=True)),
    ("s8/128", dataclasses.replace(FORMATS["s8"], levels=128)),
    ("u8/64", dataclasses.replace(FORMATS["u8"], levels=64)),
    ("u8 symmetric", dataclasses.replace(FORMATS["u8"], symmetric=True)),
    ("s4 narrow", dataclasses.replace(FORMATS["s4"], narrow=True)),
    ("u4 16-bit scales", dataclasses.replace(FORMATS["u4"], scale_fraction=10)),
    ("u4 8-bit scales", dataclasses.replace(FORMATS["u4"], scale_fraction=5)),
    ("s8 asymmetric", dataclasses.replace(FORMATS["s8"], symmetric=False)),
]
each = pytest.mark.parametrize("format", [f for _, f in VARIANTS], ids=[name for name, _ in VARIANTS])


def all_codes(format: IntFormat) -> np.ndarray:
    """Every code, or the ends and a sample between them where there are too many."""
    if format.bits <= 16:
        return np.arange(format.minimum, format.maximum + 1)
    drawn = np.random.default_rng(0).integers(-(2**21), 2**21, 5000)  # two roundings of float32 stay below 1/2
    return np.sort(drawn)


@each
def test_every_code_survives_decode_and_encode(format):
    codes = all_codes(format)
    for scale in (np.float32(1.0), np.float32(0.037), np.float32(2.5e-5)):
        zero_point = np.int64(format.middle if format.symmetric else (format.minimum + format.maximum) // 3)
        again = format.encode(format.decode(codes, scale, zero_point), scale, zero_point)
        np.testing.assert_array_equal(again, codes)


@each
def test_values_beyond_the_range_saturate(format):
    zero_point = np.int64(format.middle)
    codes = format.encode(np.array([-1e30, -np.inf, 1e30, np.inf], np.float32), np.float32(0.1), zero_point)
    lowest, highest = format.minimum, format.maximum
    assert codes.tolist() == [lowest, lowest, highest, highest]


@each
def test_a_range_always_holds_zero_exactly(format):
    generator = np.random.default_rng(1)
    ends = generator.normal(0, 3, (2, 500)) + generator.normal(0, 5, 500)
    scale, zero_point = format.scale_and_zero_point(ends.min(0), ends.max(0))
    assert scale.dtype == np.float32 and (scale > 0).all()
    assert (zero_point >= format.minimum).all() and (zero_point <= format.maximum).all()
    codes = format.encode(np.zeros(500, np.float32), scale, zero_point)
    assert (format.decode(codes, scale, zero_point) == 0).all()


@each
def test_the_error_inside_a_range_is_at_most_half_a_step(format):
    if format.bits > 16:
        pytest.skip("float32 has fewer digits than the codes")
    low, high = np.float64(-1.7), np.float64(2.9)
    scale, zero_point = format.scale_and_zero_point(low, high)
    x = np.linspace(low, high, 4001).astype(np.float32)
    error = np.abs(format.decode(format.encode(x, scale, zero_point), scale, zero_point) - x)
    # The zero point is rounded: an asymmetric range moves by up to half a step, so its ends may be clipped by as much.
    allowed = (0.5 if format.symmetric else 1.0) * float(scale) + 4 * np.finfo(np.float32).eps * 2.9
    if format.scale_fraction is not None:  # a scale that is rounded down clips the ends
        allowed += (high - low) * 2.0 ** -(format.scale_fraction + 1)
    assert error.max() <= allowed


@each
def test_a_range_of_nothing_gives_a_scale_that_divides(format):
    scale, zero_point = format.scale_and_zero_point(np.zeros(3), np.zeros(3))
    assert np.isfinite(scale).all() and (scale > 0).all()
    assert (format.decode(format.encode(np.zeros(3, np.float32), scale, zero_point), scale, zero_point) == 0).all()


def test_narrow_and_levels_leave_codes_out():
    assert (FORMATS["s8"].minimum, FORMATS["s8"].maximum) == (-128, 127)
    assert dataclasses.replace(FORMATS["s8"], narrow=True).minimum == -127
    seven = dataclasses.replace(FORMATS["s8"], levels=128)
    assert (seven.minimum, seven.maximum, seven.bits) == (-64, 63, 8)
    six = dataclasses.replace(FORMATS["u8"], levels=64)
    assert (six.minimum, six.maximum) == (0, 63)


@pytest.mark.parametrize(
    "wrong",
    [{"bits": 3}, {"granularity": "row"}, {"granularity": "block"}, {"block": 32}, {"bits": 32, "signed": False}],
    ids=str,
)
def test_a_format_that_onnx_cannot_store_is_refused(wrong):
    with pytest.raises(ValueError):
        dataclasses.replace(FORMATS["s8"], **wrong)


def quantize_model(format: IntFormat, scale: np.float32, zero_point: int) -> onnx.ModelProto:
    """QuantizeLinear of a vector to the format's type, then Cast to int32, so that every runtime returns the codes."""
    model = ir.from_onnx_text(
        """<ir_version: 13, opset_import: ["": 25]>
        g (float[N] x) => (int32[N] y) { codes = QuantizeLinear(x, scale, zero_point)  y = Cast<to = 6>(codes) }"""
    )
    stored = {"scale": np.array(scale, np.float32), "zero_point": np.array(zero_point).astype(format.numpy_dtype)}
    for value in model.graph[0].inputs[1:]:
        value.const_value = ir.tensor(stored[value.name], name=value.name)
        value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape([])
        model.graph.register_initializer(value)
    return ir.to_proto(model)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "s32"])  # int32 is no type of QuantizeLinear
def test_rounding_is_that_of_quantize_linear(name):
    format, generator = FORMATS[name], np.random.default_rng(2)
    scale, zero_point = np.float32(0.25), format.middle  # a power of two: ties are exact
    span = min(format.maximum - format.minimum, 2000)
    ties = (np.arange(-span, span) + 0.5) * scale
    x = np.concatenate([ties, generator.normal(0, span * scale / 3, 4000), [0, -0.0, 1e6, -1e6]]).astype(np.float32)
    ours = format.encode(x, scale, np.int64(zero_point))
    model = quantize_model(format, scale, zero_point)
    theirs = runtime.session(model.SerializeToString(), optimization="none", threads=1).run(None, {"x": x})[0]
    np.testing.assert_array_equal(ours, theirs)
    if format.bits >= 4:  # the reference's QuantizeLinear has no 2-bit case
        np.testing.assert_array_equal(ours, ReferenceEvaluator(model).run(None, {"x": x})[0])


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "s32"])
def test_rounding_half_up_would_be_noticed(name):
    """A seeded fault: the ties of the test above tell half-to-even from half-up."""
    format = FORMATS[name]
    x = ((np.arange(format.minimum, format.maximum) - format.middle) + 0.5)[:2000].astype(np.float32)
    ours = format.encode(x, np.float32(1), np.int64(format.middle))
    half_up = np.clip(np.floor(x + np.float32(0.5)) + format.middle, format.minimum, format.maximum)
    assert (ours != half_up).any()


def test_scales_of_a_tensor_spread_along_their_axis():
    codes = np.array([[1, 2, 3], [4, 5, 6]], np.int32)
    zero = np.zeros(2, np.int64)
    channel = dataclasses.replace(FORMATS["s8"], granularity="channel")
    rows = QuantizedTensor(channel, codes, np.array([1.0, 10.0], np.float32), zero, 0).decode()
    np.testing.assert_array_equal(rows, [[1, 2, 3], [40, 50, 60]])
    block = dataclasses.replace(FORMATS["s8"], granularity="block", block=2)
    scale = np.array([[1.0, 10.0], [100.0, 1000.0]], np.float32)
    blocks = QuantizedTensor(block, codes, scale, np.zeros((2, 2), np.int64), 1).decode()
    np.testing.assert_array_equal(blocks, [[1, 2, 30], [400, 500, 6000]])


@pytest.mark.parametrize(("name", "count", "want"), [("s4", 7, 4 + 4), ("u4", 7, 4 + 1 + 4), ("u8", 5, 5 + 1 + 4)])
def test_bytes_count_packed_codes_scales_and_zero_points(name, count, want):
    tensor = QuantizedTensor(FORMATS[name], np.zeros(count, np.int32), np.ones(1, np.float32), np.zeros(1, np.int64), 0)
    assert tensor.nbytes == want
