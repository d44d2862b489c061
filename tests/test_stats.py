"""Stats: merging is what observing everything at once would have given; files keep them and refuse strangers."""

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qonnx.errors import QonnxError
from qonnx.histogram import BINS, LOWEST_EXPONENT, exponent_for, histogram, merge_histograms
from qonnx.stats import Gram, Stats, Window, affine_channels, merge, merge_stats
from qonnx.stats_file import fingerprint, load_stats, save_stats

# Sizes from 2⁻⁶⁰ to 2⁶⁰: very small numbers beside large ones become 0 when float32 divides them by the width of a bin.
SIZES = st.floats(2.0**-60, 2.0**60, width=32)
FLOATS = st.one_of(st.just(0.0), SIZES, SIZES.map(lambda x: -x))
ARRAYS = st.lists(FLOATS, min_size=1, max_size=60).map(lambda x: np.array(x, np.float32))


def counted(x: np.ndarray):
    return histogram(x, float(x.min()), float(x.max()))


def same(a, b) -> bool:
    return a.exponent == b.exponent and a.first == b.first and np.array_equal(a.counts, b.counts)


def stats_of(x: np.ndarray) -> Stats:
    """All statistics of rows [n, C], written down directly."""
    rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
    gram = Gram((rows.T @ rows).astype(np.float32)[None], rows.mean(0)[None], len(rows))
    return Stats(
        1,
        x.size,
        float(x.min()),
        float(x.max()),
        0,
        x.shape,
        -1,
        rows.min(0),
        rows.max(0),
        rows.sum(0),
        counted(x),
        gram,
    )


@given(ARRAYS)
def test_histogram_counts_every_value_in_its_bin(x):
    h = counted(x)
    assert h.total == x.size and h.counts.size <= BINS
    edges = h.edges
    assert edges[0] <= min(x.min(), 0) and edges[-1] > max(x.max(), 0)
    wanted = np.zeros(h.counts.size, np.int64)
    for value in x.astype(np.float64):
        wanted[np.searchsorted(edges, value, side="right") - 1] += 1
    np.testing.assert_array_equal(h.counts, wanted)


@given(ARRAYS)
def test_histogram_is_as_fine_as_its_bins_allow(x):
    h = counted(x)
    if h.exponent > LOWEST_EXPONENT:
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        finer = 2.0 ** (h.exponent - 1)
        assert np.floor(high / finer) - np.floor(low / finer) >= BINS


@given(ARRAYS, ARRAYS)
def test_merged_histograms_are_the_histogram_of_all(a, b):
    merged = merge_histograms(counted(a), counted(b))
    assert same(merged, counted(np.concatenate([a, b])))
    assert same(merged, merge_histograms(counted(b), counted(a)))


@given(ARRAYS, ARRAYS, ARRAYS)
@settings(max_examples=30)
def test_merging_histograms_is_associative(a, b, c):
    left = merge_histograms(merge_histograms(counted(a), counted(b)), counted(c))
    right = merge_histograms(counted(a), merge_histograms(counted(b), counted(c)))
    assert same(left, right)


def test_zeros_and_constants_have_a_histogram():
    assert counted(np.zeros(5, np.float32)).counts.tolist() == [5]
    five = counted(np.full(7, 5.0, np.float32))
    assert five.counts[-1] == 7 and five.edges[-2] <= 5 < five.edges[-1]
    assert exponent_for(0.0, 0.0) == LOWEST_EXPONENT


def test_merged_stats_are_the_stats_of_all():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(40, 6)).astype(np.float32), 9 * generator.normal(size=(70, 6)).astype(np.float32)
    got, want = merge(stats_of(a), stats_of(b)), stats_of(np.concatenate([a, b]))
    assert (got.samples, got.elements) == (2, want.elements)
    assert (got.minimum, got.maximum) == (want.minimum, want.maximum)
    np.testing.assert_array_equal(got.channel_minimum, want.channel_minimum)
    np.testing.assert_array_equal(got.channel_maximum, want.channel_maximum)
    np.testing.assert_allclose(got.channel_sum, want.channel_sum, atol=1e-12)
    np.testing.assert_allclose(got.channel_mean, want.channel_mean)
    assert same(got.histogram, want.histogram)
    np.testing.assert_allclose(got.gram.matrix, want.gram.matrix, atol=2e-7 * np.abs(want.gram.matrix).max())
    np.testing.assert_allclose(got.gram.mean, want.gram.mean)
    assert got.gram.rows == 110


@pytest.mark.parametrize(
    "change",
    [
        {"histogram": None},
        {"gram": None},
        {"channel_axis": None, "channel_minimum": None, "channel_maximum": None, "channel_sum": None},
    ],
)
def test_what_one_side_does_not_keep_is_dropped(change):
    full = stats_of(np.ones((3, 2), np.float32))
    for a, b in ((full, dataclasses.replace(full, **change)), (dataclasses.replace(full, **change), full)):
        merged = merge(a, b)
        assert all(getattr(merged, name) is None for name in change)


def test_channels_of_other_numbers_and_other_windows_do_not_mix():
    two, three = stats_of(np.ones((4, 2), np.float32)), stats_of(np.ones((4, 3), np.float32))
    merged = merge(two, three)
    assert merged.channel_minimum is None and merged.gram is None and merged.histogram.total == 20
    window = dataclasses.replace(two.gram, window=Window((1,), (1,), (0, 0), (1,)))
    assert merge(two, dataclasses.replace(two, gram=window)).gram is None


def test_affine_channels_are_those_of_the_moved_tensor():
    generator = np.random.default_rng(1)
    x = generator.normal(size=(50, 4)).astype(np.float32)
    factor, shift = np.array([0.5, 2.0, 4.0, 1.0]), np.array([1.0, 0.0, -3.0, 0.25])
    got, want = affine_channels(stats_of(x), factor, shift), stats_of(((x + shift) * factor).astype(np.float32))
    np.testing.assert_allclose([got.minimum, got.maximum], [want.minimum, want.maximum], rtol=1e-6)
    np.testing.assert_allclose(got.channel_sum, want.channel_sum, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got.gram.matrix, want.gram.matrix, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(got.gram.mean, want.gram.mean, rtol=1e-5, atol=1e-6)
    assert got.histogram is None


MODEL = ir.from_onnx_text('<ir_version: 8, opset_import: ["":17]> g (float[N] x) => (float[N] y) { y = Relu(x) }')


def test_file_gives_back_what_was_saved(tmp_path):
    x = np.random.default_rng(2).normal(size=(9, 3)).astype(np.float32)
    window = Window((3, 3), (1, 2), (0, 1, 0, 1), (1, 1), 4)
    full = stats_of(x)
    saved = {
        "full": full,
        "plain": Stats(2, 7, -1.0, 3.5),
        "never finite": Stats(1, 3, np.inf, -np.inf, 3, (3,)),
        "patches": dataclasses.replace(full, gram=dataclasses.replace(full.gram, window=window)),
    }
    save_stats(tmp_path / "s.npz", saved, "mark")
    loaded = load_stats(tmp_path / "s.npz", "mark")
    assert list(loaded) == list(saved)
    for name, want in saved.items():
        for field in dataclasses.fields(Stats):
            a, b = getattr(loaded[name], field.name), getattr(want, field.name)
            if field.name == "histogram":
                assert (a is b is None) or same(a, b)
            elif field.name == "gram":
                assert (a is b is None) or (
                    a.rows == b.rows and a.window == b.window and np.array_equal(a.matrix, b.matrix)
                )
            else:
                np.testing.assert_array_equal(a, b)
    assert [path.name for path in tmp_path.iterdir()] == ["s.npz"], "no temporary file is left"


def test_file_of_another_model_is_refused(tmp_path):
    save_stats(tmp_path / "s.npz", {"x": Stats(1, 1, 0.0, 0.0)}, fingerprint(MODEL))
    other = MODEL.clone()
    next(iter(other.graph)).op_type = "Sigmoid"
    assert load_stats(tmp_path / "s.npz", fingerprint(MODEL.clone()))
    with pytest.raises(QonnxError, match="another model"):
        load_stats(tmp_path / "s.npz", fingerprint(other))


def test_fingerprint_sees_weights_attributes_and_bodies():
    text = """<ir_version: 8, opset_import: ["":17]> g (float[2] x, bool c) => (float[2] y)
        <float[2] w = {1.0, 2.0}> {
          a = Mul(x, w)
          b = LeakyRelu<alpha = 0.5>(a)
          y = If(c) <
            then_branch = t () => (float[2] t) { t = Neg(b) }, else_branch = e () => (float[2] e) { e = Abs(b) }>
        }"""
    marks = {fingerprint(ir.from_onnx_text(text))}
    for old, new in (("2.0}", "3.0}"), ("alpha = 0.5", "alpha = 0.25"), ("Abs(b)", "Exp(b)"), ("bool c", "bool c2")):
        marks.add(
            fingerprint(
                ir.from_onnx_text(text.replace(old, new).replace("If(c)", "If(c2)" if "c2" in new else "If(c)"))
            )
        )
    assert len(marks) == 5


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"not a zip"])
def test_a_file_that_holds_no_stats_is_refused(tmp_path, content):
    (tmp_path / "s.npz").write_bytes(content)
    with pytest.raises(QonnxError, match="not a statistics file"):
        load_stats(tmp_path / "s.npz")


def test_an_array_file_is_no_stats_file(tmp_path):
    np.savez(tmp_path / "s.npz", x=np.zeros(3))
    with pytest.raises(QonnxError, match="not a statistics file"):
        load_stats(tmp_path / "s.npz")


def test_tensors_that_one_side_knows_are_kept():
    a, b = Stats(1, 2, -1.0, 0.0), Stats(1, 2, 0.0, 1.0)
    merged = merge_stats({"x": a, "y": a}, {"x": b, "z": b})
    assert merged["y"] == a and merged["z"] == b and (merged["x"].minimum, merged["x"].maximum) == (-1.0, 1.0)
