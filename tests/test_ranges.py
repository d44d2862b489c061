"""Ranges: each method against an independent computation on the data itself."""

import dataclasses
import time

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qonnx.activations import ACTIVATIONS, activation, activation_name
from qonnx.errors import QonnxError
from qonnx.formats import FORMATS
from qonnx.histogram import histogram
from qonnx.ranges import METHODS, choose_range, zero_on_code
from qonnx.stats import Stats

U8, S8, U4 = FORMATS["u8"], FORMATS["s8"], FORMATS["u4"]


def stats_of(x: np.ndarray) -> Stats:
    x = x.astype(np.float32)
    low, high = float(x.min()), float(x.max())
    return Stats(1, x.size, low, high, histogram=histogram(x, low, high))


def error(x: np.ndarray, format, low: float, high: float, after: str | None = None) -> float:
    """Mean squared error of the tensor, or behind an activation, on the data itself."""
    f = activation(after)[0] if after else lambda values: values
    scale, zero_point = format.scale_and_zero_point(np.float64(low), np.float64(high))
    decoded = format.decode(format.encode(x.astype(np.float32), scale, zero_point), scale, zero_point)
    return float(np.mean((f(decoded.astype(np.float64)) - f(x.astype(np.float64))) ** 2))


def best_error(x: np.ndarray, format, after: str | None = None) -> float:
    """Brute force over a grid of both ends."""
    low, high = min(x.min(), 0), max(x.max(), 0)
    shares = np.linspace(0, 1, 41)[1:]
    if format.symmetric:
        reach = max(-low, high)
        return min(error(x, format, -reach * s, reach * s, after) for s in shares)
    lows = [0.0] if low == 0 else [low * s for s in np.linspace(0, 1, 41)]
    highs = [0.0] if high == 0 else [high * s for s in shares]
    return min(error(x, format, a, b, after) for a in lows for b in highs)


def tensors() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "normal": generator.normal(size=20000),
        "heavy tails": generator.standard_t(2.5, size=20000),
        "relu": np.maximum(generator.normal(size=20000), 0),
        "negative": -generator.gamma(1.0, size=20000),
        "shifted": generator.normal(3, 1, size=20000),
        "outlier": np.append(generator.normal(size=20000), 60.0),
    }


TENSORS = {name: x.astype(np.float32) for name, x in tensors().items()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("format", [U8, S8, U4, FORMATS["u16"], FORMATS["s4"]], ids=lambda f: f.name)
@pytest.mark.parametrize("name", TENSORS)
def test_ranges_hold_zero_and_lie_inside_the_data(name, method, format):
    x = TENSORS[name]
    low, high = choose_range(stats_of(x), format, method)
    reach = max(abs(x.min()), abs(x.max()))
    assert low <= 0 <= high and low < high
    if format.symmetric:
        assert -reach <= low and high <= reach
    else:
        assert min(x.min(), 0) <= low and high <= max(x.max(), 0)


@pytest.mark.parametrize("symmetric", [False, True])
def test_min_max_gives_the_scales_of_onnxruntime(symmetric):
    quant_utils = pytest.importorskip("onnxruntime.quantization.quant_utils")
    kind = onnx.TensorProto.INT8 if symmetric else onnx.TensorProto.UINT8
    for x in TENSORS.values():
        low, high = np.float32(x.min()), np.float32(x.max())
        least, most = quant_utils.get_qmin_qmax_for_qType(kind, symmetric=symmetric)
        zero_point, scale = quant_utils.compute_scale_zp(low, high, least, most, symmetric)
        ours = S8 if symmetric else U8
        got_scale, got_zero_point = ours.scale_and_zero_point(*map(np.float64, choose_range(stats_of(x), ours)))
        np.testing.assert_allclose(got_scale, scale, rtol=3e-7)
        assert int(got_zero_point) == int(zero_point)


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("percentile", [99.0, 99.9, 100.0])
def test_percentile_is_that_of_the_data_within_a_bin(name, percentile):
    x, stats = TENSORS[name], stats_of(TENSORS[name])
    width = stats.histogram.width
    cut = (100 - percentile) / 2
    low, high = choose_range(stats, U8, "percentile", percentile=percentile)
    assert abs(low - min(np.percentile(x, cut, method="inverted_cdf"), 0)) <= width
    assert abs(high - max(np.percentile(x, 100 - cut, method="inverted_cdf"), 0)) <= width
    low, high = choose_range(stats, S8, "percentile", percentile=percentile)
    reach = max(-low, high)
    assert abs(reach - np.percentile(np.abs(x), percentile, method="inverted_cdf")) <= width


@pytest.mark.parametrize("format", [U8, S8, U4, FORMATS["s4"]], ids=lambda f: f.name)
@pytest.mark.parametrize("name", TENSORS)
def test_mse_is_close_to_brute_force(name, format):
    """Steps of 2.5 % on the one side, bins of 1/1000 of the range on the other: 5 % of the error is what is left."""
    x = TENSORS[name]
    got = error(x, format, *choose_range(stats_of(x), format, "mse"))
    assert got <= 1.05 * best_error(x, format)


@pytest.mark.parametrize("format", [U8, S8, U4], ids=lambda f: f.name)
@pytest.mark.parametrize("name", ["heavy tails", "outlier"])
def test_mse_beats_min_max_on_heavy_tails(name, format):
    x, stats = TENSORS[name], stats_of(TENSORS[name])
    gain = 0.5 if format.bits == 4 else 0.98
    assert error(x, format, *choose_range(stats, format, "mse")) < gain * error(x, format, *choose_range(stats, format))


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("format", [U8, S8], ids=lambda f: f.name)
def test_entropy_keeps_the_bulk_and_cuts_a_lone_outlier(name, format):
    x = TENSORS[name]
    low, high = choose_range(stats_of(x), format, "entropy")
    assert np.mean((x >= low) & (x <= high)) > 0.98
    if name == "outlier":
        assert high < 30


WIDE = (np.random.default_rng(3).normal(size=30000) * 12).astype(np.float32)


@pytest.mark.parametrize(
    "after", ["HardSwish", "HardSigmoid", "Relu", "Sigmoid", "Gelu", "Silu", "Clip(0,6)", "Tanh", "Mish"]
)
@pytest.mark.parametrize("format", [U8, U4], ids=lambda f: f.name)
def test_knowing_the_activation_lowers_the_error_behind_it(after, format):
    stats = stats_of(WIDE)
    blind = error(WIDE, format, *choose_range(stats, format, "mse"), after)
    aware = error(WIDE, format, *choose_range(stats, format, "mse", after=after), after)
    assert aware < 0.75 * blind
    assert aware <= 1.1 * best_error(WIDE[:6000], format, after)


def test_hard_swish_gains_more_the_wider_its_dead_half():
    """[−39, 35] before a hard-swish: everything below −3 is 0 behind it, so the step halves, at the least."""
    low, high = choose_range(stats_of(WIDE), U8, "min-max", after="HardSwish")
    step = (WIDE.max() + 3) / 255
    assert -3 - step <= low < -3 and high == WIDE.max()
    scale, zero_point = U8.scale_and_zero_point(np.float64(low), np.float64(high))
    assert -zero_point * scale <= -3, "the lowest code must lie in the dead half"


@pytest.mark.parametrize("name", ["Relu", "HardSwish", "HardSigmoid", "HardSigmoid(0.25,0.5)", "Clip(-2,5)"])
def test_flat_ends_are_flat_and_nothing_more(name):
    function, (low, high) = activation(name)
    for end, sign in ((low, -1), (high, 1)):
        if np.isfinite(end):
            beyond = function(end + sign * np.array([0.0, 0.1, 5.0, 1e6]))
            assert np.ptp(beyond) < 1e-9
            assert abs(function(np.float64(end - sign * 0.01)) - beyond[0]) > 1e-5


def _onnx_values(name: str, x: np.ndarray) -> np.ndarray:
    """What ONNX's reference makes of x; Gelu, HardSwish and Mish need newer opsets."""
    kind = "Gelu" if name == "Gelu" else name
    body = {"Clip": "y = Clip(x, low, high)", "Silu": "s = Sigmoid(x) y = Mul(x, s)"}.get(kind, f"y = {kind}(x)")
    constants = "<float low = {-1.5}, float high = {2.0}>" if kind == "Clip" else ""
    text = f'<ir_version: 9, opset_import: ["":20]> g (float[N] x) => (float[N] y) {constants} {{ {body} }}'
    return onnx.reference.ReferenceEvaluator(onnx.parser.parse_model(text)).run(None, {"x": x})[0]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_onnx(name):
    x = np.linspace(-8, 8, 161).astype(np.float32)
    function, _ = activation("Clip(-1.5,2)" if name == "Clip" else name)
    np.testing.assert_allclose(function(x.astype(np.float64)), _onnx_values(name, x), atol=2e-6)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("y = Relu(x)", "Relu"),
        ("y = HardSigmoid<alpha = 0.25>(x)", "HardSigmoid(0.25,0.5)"),
        (
            "low = Constant<value_float = 0.0>() high = Constant<value_float = 6.0>() y = Clip(x, low, high)",
            "Clip(0.0,6.0)",
        ),
        ("high = Constant<value_float = 6.0>() y = Clip(x, , high)", "Clip(-inf,6.0)"),
        ("low = ReduceMin(x) y = Clip(x, low)", None),
        ("y = Exp(x)", None),
    ],
)
def test_name_of_a_node_carries_its_numbers(text, name):
    model = ir.from_onnx_text(f'<ir_version: 9, opset_import: ["":17]> g (float[N] x) => (float[N] y) {{ {text} }}')
    node = list(model.graph)[-1]
    assert activation_name(node) == name
    if name:
        activation(name)


def test_headroom_widens_both_ends_but_not_past_a_flat_end():
    stats = stats_of(WIDE)
    low, high = choose_range(stats, U8)
    assert choose_range(stats, U8, headroom=1.25) == (low * 1.25, high * 1.25)
    behind = choose_range(stats, U8, after="HardSwish")
    assert choose_range(stats, U8, headroom=1.25, after="HardSwish") == (behind[0], high * 1.25)


@pytest.mark.parametrize("method", METHODS)
def test_constant_tensors_have_a_range(method):
    assert choose_range(stats_of(np.zeros(5)), U8, method) == (0.0, 0.0)
    low, high = choose_range(stats_of(np.full(5, 3.0)), U8, method)
    assert low == 0 and abs(high - 3) < 3 / 1000


@pytest.mark.parametrize("format", [U8, dataclasses.replace(U8, bits=16), dataclasses.replace(U8, signed=True)])
def test_pixels_normalised_around_zero_do_not_fall_between_codes(format):
    """All 256 pixels of [−1, 1]: half-way between codes by the plain range, spread evenly over steps by the wider."""
    pixels = np.arange(256) / 127.5 - 1
    for pick, tied in ((lambda *ends: ends[:2], True), (zero_on_code, False)):
        low, high = pick(-1.0, 1.0, format)
        scale, zero = (float(x) for x in format.scale_and_zero_point(np.float64(low), np.float64(high)))
        from_border = np.abs(pixels / scale - np.floor(pixels / scale) - 0.5)
        assert (from_border.max() < 1e-4) == tied
        codes = format.encode(pixels, np.float32(scale), zero)
        error = format.decode(codes, np.float32(scale), zero) - pixels
        assert np.abs(error).max() <= scale * 0.51, "nothing is clipped"
        assert (np.mean(error**2) / scale**2 > 0.2) == tied, "1/4 at the borders, 1/12 spread evenly"


def test_other_ranges_stay():
    for low, high in ((0.0, 1.0), (-1.0, 0.0), (-1.0, 3.1), (0.0, 0.0)):
        assert zero_on_code(low, high, U8) == (low, high)
    assert zero_on_code(-1.0, 1.0, dataclasses.replace(U8, signed=True, symmetric=True)) == (-1.0, 1.0)


def test_what_cannot_be_is_said():
    with pytest.raises(QonnxError, match="histogram = true"):
        choose_range(Stats(1, 1, 0.0, 1.0), U8, "mse")
    with pytest.raises(QonnxError, match="known are min-max"):
        choose_range(Stats(1, 1, 0.0, 1.0), U8, "minmaks")
    with pytest.raises(QonnxError, match="no activation"):
        choose_range(Stats(1, 1, 0.0, 1.0), U8, after="Exp")
    with pytest.raises(QonnxError, match="finite"):
        choose_range(Stats(1, 1, np.inf, -np.inf, 1), U8)
    with pytest.raises(QonnxError, match="percentile 0"):
        choose_range(stats_of(WIDE), U8, "percentile", percentile=0)


@pytest.mark.slow
@pytest.mark.parametrize("after", [None, "HardSwish", "Gelu"])
def test_mse_is_quick(after):
    """A model has hundreds of tensors: 5 ms of processor time each at most, best of several."""
    stats, times = stats_of(WIDE), []
    for _ in range(20):
        start = time.process_time()
        choose_range(stats, U8, "mse", after=after)
        times.append(time.process_time() - start)
    assert min(times) < 5e-3
