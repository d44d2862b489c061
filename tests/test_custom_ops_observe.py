"""ObserveSink: what the native observer gathers equals numpy, on every tier, type and shape."""

import concurrent.futures

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from qonnx.custom_ops import observe
from qonnx.histogram import histogram, merge_histograms
from qonnx.runtime import session

pytestmark = [pytest.mark.native, pytest.mark.skipif(not observe.available(), reason="no native library")]

TIERS = ("scalar", "avx2", "avx512", "avx512vnni")
TYPES = {"FLOAT": np.float32, "FLOAT16": np.float16, "BFLOAT16": ml_dtypes.bfloat16}


def sink_session(key, rank, element="FLOAT", **options):
    """A session whose only node observes the graph's input."""
    x = ir.Value(name="x", shape=ir.Shape([f"d{i}" for i in range(rank)]), type=ir.TensorType(ir.DataType[element]))
    y = ir.Value(name="y")
    nodes = [ir.Node("", "Identity", [x], outputs=[y]), observe.sink(x, key, **options)]
    y.type, y.shape = x.type, x.shape
    graph = ir.Graph([x], [y], nodes=nodes, opset_imports={"": 21, "ai.qonnx": 1}, name="sink")
    return session(ir.Model(graph, ir_version=10), threads=2)


def run(opened, x):
    if x.dtype == ml_dtypes.bfloat16:
        value = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(x.view(np.uint16), ir.DataType.BFLOAT16.value)
        opened.run_with_ort_values(None, {"x": value})
    else:
        opened.run(None, {"x": x})


def expected_channels(x, axis):
    """Rows of channels, float64."""
    return np.moveaxis(x.astype(np.float64), axis, -1).reshape(-1, x.shape[axis])


@pytest.fixture(autouse=True)
def clean():
    observe.free("test/")
    yield
    observe.free("test/")


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((3, 5, 64), -1), ((2, 7, 9, 11), 1), ((1, 1), -1), ((700, 67), 1), ((1, 3, 20011), 1), ((2, 130, 1), 1)],
)
def test_equals_numpy(monkeypatch, tier, element, shape, axis):
    monkeypatch.setenv("QONNX_CPU", tier)
    rng = np.random.default_rng(0)
    batches = [(rng.standard_normal(shape) * s + 0.3).astype(TYPES[element]) for s in (0.1, 3.0, 1.0)]
    opened = sink_session("test/x", len(shape), element, axis=axis, gram=True)
    for x in batches:
        run(opened, x)
    seen = observe.read("test/x")
    rows = np.concatenate([expected_channels(x, axis) for x in batches])
    assert (seen.calls, seen.rows, seen.count, seen.non_finite) == (3, len(rows), rows.size, 0)
    assert (seen.minimum, seen.maximum) == (rows.min(), rows.max())
    np.testing.assert_array_equal(seen.channel_minimum, rows.min(0))
    np.testing.assert_array_equal(seen.channel_maximum, rows.max(0))
    np.testing.assert_array_equal(seen.channel_count, len(rows))
    # float64 sums in another order
    np.testing.assert_allclose(seen.channel_total, rows.sum(0), atol=len(rows) * 2**-52 * np.abs(rows).sum(0).max())
    np.testing.assert_allclose(seen.total, rows.sum(), atol=rows.size * 2**-52 * np.abs(rows).sum())
    wanted = None
    for x in batches:
        one = histogram(x.astype(np.float32), float(x.min()), float(x.max()))
        wanted = one if wanted is None else merge_histograms(wanted, one)
    assert (seen.histogram.exponent, seen.histogram.first) == (wanted.exponent, wanted.first)
    np.testing.assert_array_equal(seen.histogram.counts, wanted.counts)
    # at most 256 products are added in float32 before float64 takes over
    bound = 257 * 2**-24 * (np.abs(rows).T @ np.abs(rows))
    assert (np.abs(seen.gram - rows.T @ rows) <= bound).all()
    np.testing.assert_array_equal(seen.gram, seen.gram.T)


def test_non_finite_numbers_are_counted_and_left_out():
    x = np.linspace(-2, 2, 60, dtype=np.float32).reshape(10, 6)
    x[3, 2], x[4, 2], x[9, 5] = np.nan, np.inf, -np.inf
    run(sink_session("test/x", 2, axis=1, gram=True), x)
    seen = observe.read("test/x")
    clean = np.where(np.isfinite(x), x, np.nan)
    assert (seen.count, seen.non_finite) == (57, 3)
    np.testing.assert_array_equal(seen.channel_minimum, np.nanmin(clean, 0))
    np.testing.assert_array_equal(seen.channel_maximum, np.nanmax(clean, 0))
    np.testing.assert_array_equal(seen.channel_count, np.isfinite(x).sum(0))
    assert seen.histogram.total == 57
    zeroed = np.nan_to_num(x, nan=0, posinf=0, neginf=0).astype(np.float64)
    np.testing.assert_allclose(seen.gram, zeroed.T @ zeroed, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1e-38, -1e-45, 3e38, -1.0, 0.5])
def test_one_value_falls_in_the_right_bin(value):
    x = np.full((1, 9), value, np.float32)
    run(sink_session("test/x", 2), x)
    seen = observe.read("test/x").histogram
    wanted = histogram(x, float(x[0, 0]), float(x[0, 0]))
    assert (seen.exponent, seen.first, seen.counts.tolist()) == (wanted.exponent, wanted.first, wanted.counts.tolist())


def test_without_axis_there_are_no_channels_and_any_rank_is_fine():
    opened = sink_session("test/x", 3)
    for shape in ((1, 2, 3), (4, 5, 6), (0, 5, 6)):
        run(opened, np.ones(shape, np.float32))
    seen = observe.read("test/x")
    assert seen.channel_minimum is None and seen.gram is None
    assert (seen.calls, seen.count, seen.total) == (3, 126, 126.0)


def test_a_varying_number_of_channels_keeps_only_the_numbers_per_tensor():
    opened = sink_session("test/x", 2, axis=1, gram=True)
    run(opened, np.ones((2, 3), np.float32))
    run(opened, np.ones((2, 4), np.float32))
    seen = observe.read("test/x")
    assert seen.channel_minimum is None and seen.gram is None and seen.count == 14


def test_sessions_in_threads_share_a_key():
    opened = [sink_session("test/x", 2, axis=1, gram=True) for _ in range(2)]
    x = np.random.default_rng(1).standard_normal((40, 70)).astype(np.float32)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: run(opened[i % 2], x), range(24)))
    seen = observe.read("test/x")
    assert (seen.calls, seen.count, seen.histogram.total) == (24, 24 * x.size, 24 * x.size)
    exact = 24 * (x.astype(np.float64).T @ x)
    np.testing.assert_allclose(seen.gram, exact, atol=24 * 257 * 2**-24 * np.abs(exact).max())


def test_keys_and_free_go_by_prefix_and_a_live_session_starts_afresh():
    opened = {key: sink_session(key, 2) for key in ("test/a/1", "test/a/2", "test/b")}
    for one in opened.values():
        run(one, np.ones((1, 4), np.float32))
    assert observe.keys("test/") == ["test/a/1", "test/a/2", "test/b"]
    assert observe.free("test/a/") == 2
    assert observe.keys("test/") == ["test/b"] and observe.read("test/a/1") is None
    run(opened["test/a/1"], np.ones((1, 4), np.float32))
    assert observe.read("test/a/1").calls == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"bins": 1000}, "bins=1000 is not 0 or a power of two"),
        ({"bins": -8}, "bins=-8 is not 0 or a power of two"),
        ({"gram": True}, "gram=1 needs the attribute axis"),
    ],
)
def test_bad_attributes_are_refused_with_a_sentence(options, sentence):
    with pytest.raises(Exception, match=sentence):
        sink_session("test/x", 2, **options)


def test_an_axis_outside_of_the_shape_is_refused_with_a_sentence():
    with pytest.raises(Exception, match=r"axis=4 is outside of the shape \[2, 3\]"):
        run(sink_session("test/x", 2, axis=4), np.ones((2, 3), np.float32))


def test_an_unknown_tier_is_refused_with_a_sentence(monkeypatch):
    monkeypatch.setenv("QONNX_CPU", "sse9")
    with pytest.raises(Exception, match="QONNX_CPU='sse9' is no tier"):
        sink_session("test/x", 2)
