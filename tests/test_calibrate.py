"""Calibration: what `observe` says is what the tensors hold, however they are gathered, split or ordered."""

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from qonnx.calibrate import Window, Wish, observe
from qonnx.custom_ops.observe import available, keys
from qonnx.errors import QonnxError
from qonnx.macs import macs
from qonnx.notes import note
from qonnx.passes.observe import Observe
from qonnx.runtime import session
from qonnx.stats import Stats, merge

WAYS = [
    pytest.param(False, id="standard"),
    pytest.param(
        True, id="native", marks=[pytest.mark.native, pytest.mark.skipif(not available(), reason="not built")]
    ),
]

NET = """<ir_version: 8, opset_import: ["":17]> net (float[N,4,H,W] x) => (float[N,P,3] y)
<{weights}> {{
  c = Conv<group = 2, strides = [2, 1], pads = [1, 0, 1, 1]>(x, k, b)
  r = HardSwish(c)
  shape = Constant<value_ints = [0, 6, -1]>()
  flat = Reshape(r, shape)
  t = Transpose<perm = [0, 2, 1]>(flat)
  y = MatMul(t, w)
}}"""
WISHES = {
    "x": Wish(channel_axis=1, gram=True, window=Window((3, 3), (2, 1), (1, 0, 1, 1), (1, 1), 2)),
    "c": Wish(channel_axis=1, histogram=True),
    "t": Wish(channel_axis=-1, histogram=True, gram=True),
    "y": Wish(),
}


def net(seed: int = 0) -> ir.Model:
    """A grouped convolution, an activation and a product, with seeded weights."""
    generator = np.random.default_rng(seed)
    shapes = {"k": (6, 2, 3, 3), "b": (6,), "w": (6, 3)}
    arrays = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    weights = ", ".join(
        f"float{list(x.shape)} {name} = {{{', '.join(map(str, x.ravel().tolist()))}}}" for name, x in arrays.items()
    )
    return ir.from_onnx_text(NET.format(weights=weights))


def samples(count: int, seed: int = 1, sizes=((9, 8), (5, 12), (7, 7))) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(seed)
    return [
        {"x": (generator.normal(size=(1 + i % 2, 4, *sizes[i % len(sizes)])) * (1 + i)).astype(np.float32)}
        for i in range(count)
    ]


def tensors(model: ir.Model, data, name: str) -> list[np.ndarray]:
    """Values of one tensor for each sample, read out of ONNX Runtime as a graph output."""
    copy = model.clone()
    values = {v.name: v for node in copy.graph for v in node.outputs}
    if name in values and values[name] not in copy.graph.outputs:
        copy.graph.outputs.append(values[name])
    runner = session(copy)
    return [sample[name] if name in sample else runner.run([name], sample)[0] for sample in data]


def assert_same(a: dict[str, Stats], b: dict[str, Stats], *, exact: bool) -> None:
    """Equal in all that counts exactly; sums and Gram matrices to the rounding of float32 sums."""
    assert a.keys() == b.keys()
    for name in a:
        for field in ("samples", "elements", "non_finite", "channel_axis"):
            assert getattr(a[name], field) == getattr(b[name], field), (name, field)
        for field in ("minimum", "maximum", "channel_minimum", "channel_maximum"):
            if exact:
                np.testing.assert_array_equal(getattr(a[name], field), getattr(b[name], field), err_msg=name)
            elif getattr(b[name], field) is not None:
                np.testing.assert_allclose(getattr(a[name], field), getattr(b[name], field), rtol=1e-5, atol=1e-5)
        if b[name].channel_sum is not None:
            size = max(1.0, np.abs(b[name].channel_sum).max())
            np.testing.assert_allclose(a[name].channel_sum, b[name].channel_sum, atol=1e-5 * size, err_msg=name)
        one, two = a[name].histogram, b[name].histogram
        assert (one is None) == (two is None)
        if one is not None and exact:
            assert (one.exponent, one.first) == (two.exponent, two.first)
            np.testing.assert_array_equal(one.counts, two.counts)
        one, two = a[name].gram, b[name].gram
        assert (one is None) == (two is None)
        if one is not None:
            assert (one.rows, one.window) == (two.rows, two.window)
            np.testing.assert_allclose(one.matrix, two.matrix, atol=1e-5 * np.abs(two.matrix).max())
            np.testing.assert_allclose(one.mean, two.mean, atol=1e-5 * np.sqrt(np.abs(two.matrix).max()))


@pytest.mark.parametrize("native", WAYS)
def test_statistics_are_those_of_the_tensors(native):
    model, data = net(), samples(5)
    found = observe(model, data, WISHES, native=native)
    for name, wish in WISHES.items():
        seen, got = tensors(model, data, name), found[name]
        axis = wish.channel_axis
        everything = np.concatenate([x.ravel() for x in seen])
        assert got.samples == 5 and got.elements == everything.size and got.shape == seen[0].shape
        np.testing.assert_allclose([got.minimum, got.maximum], [everything.min(), everything.max()], rtol=1e-6)
        if axis is not None:
            rows = np.concatenate([np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]) for x in seen]).astype(
                np.float64
            )
            np.testing.assert_allclose(got.channel_minimum, rows.min(0), rtol=1e-5)
            np.testing.assert_allclose(got.channel_maximum, rows.max(0), rtol=1e-5)
            np.testing.assert_allclose(got.channel_mean, rows.mean(0), atol=1e-5 * np.abs(rows).max())
        if wish.histogram:
            counts, _ = np.histogram(everything.astype(np.float64), got.histogram.edges)
            assert np.abs(got.histogram.counts - counts).sum() <= 4, "taps may change the last bit of a few values"
        if wish.gram and wish.window is None:
            np.testing.assert_allclose(got.gram.matrix[0], rows.T @ rows, atol=1e-5 * np.abs(rows.T @ rows).max())
            assert got.gram.rows == len(rows)


@pytest.mark.parametrize("native", WAYS)
def test_gram_matrix_of_patches_predicts_the_power_of_the_outputs(native):
    """Σ y² of a convolution is Σ wᵀ G w: ties patches to how ONNX Runtime convolves, with groups and padding."""
    model, data = net(), samples(4)
    gram = observe(model, data, WISHES, native=native)["x"].gram
    weight = model.graph.initializers["k"].const_value.numpy().reshape(2, 3, -1).astype(np.float64)
    bias = model.graph.initializers["b"].const_value.numpy().reshape(2, 3)
    outputs = np.concatenate([np.moveaxis(x, 1, -1).reshape(-1, 2, 3) for x in tensors(model, data, "c")]) - bias
    power = np.einsum("gok,gkl,gol->go", weight, gram.matrix, weight)
    np.testing.assert_allclose(power, (outputs.astype(np.float64) ** 2).sum(0), rtol=1e-5)
    np.testing.assert_allclose(np.einsum("gok,gk->go", weight, gram.mean), outputs.mean(0), atol=1e-4)


@pytest.mark.native
@pytest.mark.skipif(not available(), reason="not built")
def test_both_ways_agree():
    model, data = net(), samples(6)
    one, two = (observe(model, data, WISHES, native=native) for native in (True, False))
    assert_same(one, two, exact=True)


@pytest.mark.parametrize("native", WAYS)
def test_observing_two_halves_and_merging_is_observing_all(native):
    model, data = net(), samples(6)
    first, second = (observe(model, half, WISHES, native=native) for half in (data[:4], data[4:]))
    merged = {name: merge(first[name], second[name]) for name in first}
    assert_same(merged, observe(model, data, WISHES, native=native), exact=True)


@pytest.mark.parametrize("native", WAYS)
def test_the_order_of_samples_does_not_matter(native):
    model, data = net(), samples(6)
    one = observe(model, data, WISHES, native=native)
    two = observe(model, [data[i] for i in (4, 2, 0, 5, 3, 1)], WISHES, native=native)
    assert_same(one, two, exact=True)


@pytest.mark.parametrize("native", WAYS)
def test_the_model_of_the_caller_is_left_alone(native):
    model = net()
    before, weight = ir.to_onnx_text(model), model.graph.initializers["k"].const_value
    observe(model, samples(1), WISHES, native=native)
    assert ir.to_onnx_text(model) == before
    assert model.graph.initializers["k"].const_value is weight


@pytest.mark.parametrize("native", WAYS)
def test_half_precision_is_summed_in_wider_numbers(native):
    """65504 is the largest float16: 400 rows of 500 sum to three times that."""
    text = '<ir_version: 8, opset_import: ["":17]> g (float16[N,8] x) => (float16[N,8] y) { y = Relu(x) }'
    data = [{"x": np.full((400, 8), 500, np.float16)} for _ in range(3)]
    wishes = {"y": Wish(channel_axis=-1, histogram=True, gram=True)}
    got = observe(ir.from_onnx_text(text), data, wishes, native=native)["y"]
    assert got.non_finite == 0 and got.maximum == 500
    np.testing.assert_array_equal(got.channel_sum, np.full(8, 600000.0))
    np.testing.assert_allclose(got.gram.matrix, 500.0**2 * 1200, rtol=1e-6)
    assert got.histogram.total == 9600


@pytest.mark.parametrize("native", WAYS)
def test_nan_and_infinity_are_counted_and_left_out(native):
    text = '<ir_version: 8, opset_import: ["":17]> g (float[N,3] x) => (float[N,3] y) { t = Neg(x) y = Neg(t) }'
    bad = np.arange(12, dtype=np.float32).reshape(4, 3)
    bad[0, 0], bad[1, 1], bad[2, 1] = np.nan, np.inf, -np.inf
    data = [{"x": np.ones((2, 3), np.float32)}, {"x": bad}, {"x": -np.ones((2, 3), np.float32)}]
    wishes = {"x": Wish(), "t": Wish(channel_axis=1, histogram=True), "y": Wish()}
    found = observe(ir.from_onnx_text(text), data, wishes, native=native)
    assert {name: stats.non_finite for name, stats in found.items()} == {"x": 3, "t": 3, "y": 3}
    assert (found["y"].minimum, found["y"].maximum) == (-1.0, 11.0)
    assert found["t"].channel_minimum.tolist() == [-9.0, -10.0, -11.0] and found["t"].histogram.total == 24 - 3
    assert found["t"].channel_sum.tolist() == [-(3 + 6 + 9), -(1 + 10), -(2 + 5 + 8 + 11)]


@pytest.mark.parametrize("native", WAYS)
def test_a_number_of_channels_that_changes_leaves_ranges_of_the_tensor(native):
    text = '<ir_version: 8, opset_import: ["":17]> g (float[N,C] x) => (float[N,C] y) { y = Relu(x) }'
    data = [{"x": np.full((2, n), n, np.float32)} for n in (3, 5)]
    got = observe(ir.from_onnx_text(text), data, {"y": Wish(channel_axis=-1, gram=True)}, native=native)["y"]
    assert got.channel_axis is None and got.channel_minimum is None
    assert (got.minimum, got.maximum, got.elements) == (3.0, 5.0, 16)


BRANCH = """<ir_version: 8, opset_import: ["":17]> g (float[2] x, bool c) => (float[2] y) {
  a = Neg(x)
  y = If(c) <
    then_branch = t () => (float[2] t) { s = Exp(a) t = Neg(s) }, else_branch = e () => (float[2] e) { e = Abs(a) }>
}"""


@pytest.mark.parametrize("native", WAYS)
def test_tensors_in_bodies_and_integers_are_missing_from_the_result(native):
    data = [{"x": np.ones(2, np.float32), "c": np.array(True)}]
    wishes = {name: Wish() for name in ("a", "s", "y", "c", "nowhere")}
    assert set(observe(ir.from_onnx_text(BRANCH), data, wishes, native=native)) == {"a", "y"}


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_channels_of_every_axis_in_every_opset(opset, axis):
    text = f'<ir_version: 7, opset_import: ["":{opset}]> g (float[A,B,C] x) => (float[A,B,C] y) {{ y = Neg(x) }}'
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    got = observe(ir.from_onnx_text(text), [{"x": x}], {"y": Wish(channel_axis=axis)}, native=False)["y"]
    rest = tuple(i for i in range(3) if i != axis % 3)
    np.testing.assert_array_equal(got.channel_minimum, (-x).min(axis=rest))
    np.testing.assert_array_equal(got.channel_maximum, (-x).max(axis=rest))
    np.testing.assert_allclose(got.channel_sum, (-x).sum(axis=rest), atol=1e-5)


@pytest.mark.parametrize("axis", [1, -1])
def test_channels_without_a_known_rank(axis):
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["":17]> g (float[A,B,C] x) => (float[A,B,C] y) { z = Neg(x) y = Neg(z) }'
    )
    for value in (v for node in model.graph for v in node.outputs):
        value.shape = None
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    got = observe(model, [{"x": x}], {"z": Wish(channel_axis=axis)}, native=False)["z"]
    np.testing.assert_array_equal(got.channel_maximum, np.moveaxis(-x, axis, -1).reshape(-1, x.shape[axis]).max(0))


def test_names_of_observers_avoid_those_of_the_model():
    model = net()
    for node in model.graph:
        if node.op_type == "HardSwish":
            node.outputs[0].name = "observer/1"
    found = observe(model, samples(1), {"observer/1": Wish(channel_axis=1)}, native=False)
    assert found["observer/1"].elements


def test_no_data_and_wrong_data_are_said():
    with pytest.raises(QonnxError, match="no samples"):
        observe(net(), [], WISHES)
    with pytest.raises(QonnxError, match=r"sample 1 \(x \[1, 3, 9, 9\]\) does not run"):
        observe(net(), [*samples(1), {"x": np.zeros((1, 3, 9, 9), np.float32)}], WISHES)


@pytest.mark.native
@pytest.mark.skipif(not available(), reason="not built")
def test_native_memory_is_given_back_even_after_an_error():
    with pytest.raises(QonnxError):
        observe(net(), [*samples(1), {"x": np.zeros((1, 3, 9, 9), np.float32)}], WISHES, native=True)
    observe(net(), samples(1), WISHES, native=True)
    assert keys("calibrate/") == []


def test_progress_counts_samples():
    seen = []
    observe(net(), samples(3), {"y": Wish()}, progress=seen.append)
    assert seen == [1, 2, 3]


def test_multiply_adds_of_a_sample():
    model, sample = net(), samples(1)[0]
    for index, node in enumerate(model.graph):
        node.name = f"{node.op_type}_{index}"
    out = tensors(model, [sample], "c")[0].shape
    assert macs(model, sample) == {"Conv_0": int(np.prod(out)) * 2 * 9, "MatMul_5": int(np.prod(out)) * 3}


def test_pass_notes_what_it_saw():
    model, data = net(), samples(3)
    result = Observe(data=data, gram=True)(model)
    assert not result.changes and not result.modified
    values = {v.name: v for node in model.graph for v in node.outputs} | {"x": model.graph.inputs[0]}
    noted = {name: note(value).stats for name, value in values.items() if note(value).stats}
    assert set(noted) == {"x", "c", "t", "y"}
    assert noted["x"].gram.window == WISHES["x"].window and noted["t"].gram.matrix.shape == (1, 6, 6)
    assert noted["c"].channel_axis == 1 and noted["y"].channel_axis == -1
    assert all(note(node).macs for node in model.graph if node.op_type in ("Conv", "MatMul"))


def test_pass_keeps_histograms_where_an_activation_follows_or_where_asked():
    model, data = net(), samples(2)
    value = next(iter(model.graph)).outputs[0]
    note(value).after = "HardSwish"
    Observe(data=data)(model)
    with_histogram = {v.name for node in model.graph for v in node.outputs if note(v).stats and note(v).stats.histogram}
    assert with_histogram == {"c"}
    Observe(data=data, histogram=True)(model)
    with_histogram = {v.name for node in model.graph for v in node.outputs if note(v).stats and note(v).stats.histogram}
    assert with_histogram == {"c", "t", "y"}


def test_pass_resumes_from_its_file(tmp_path):
    data, path = samples(5), str(tmp_path / "stats.npz")
    whole, model = net(), net()
    Observe(data=data)(whole)
    Observe(data=data[:2], stats_file=path)(model)
    Observe(data=data[2:], stats_file=path)(model)
    again = net()
    Observe(stats_file=path)(again)
    for one, two, three in zip(*(list(m.graph)[-1].outputs for m in (whole, model, again)), strict=True):
        assert note(two).stats.samples == note(three).stats.samples == 5
        assert_same({"y": note(two).stats}, {"y": note(one).stats}, exact=True)
        assert_same({"y": note(three).stats}, {"y": note(two).stats}, exact=True)
    with pytest.raises(QonnxError, match="another model"):
        Observe(data=data, stats_file=path)(net(seed=5))


def test_pass_without_data_or_file_is_refused(tmp_path):
    with pytest.raises(QonnxError, match="neither data nor"):
        Observe()(net())
    with pytest.raises(QonnxError, match="does not exist"):
        Observe(stats_file=str(tmp_path / "none.npz"))(net())


def test_a_tensor_of_two_readers_gets_the_richer_wish():
    model = ir.from_onnx_text("""<ir_version: 8, opset_import: ["":17]> g (float[N,4] x) => (float[N,4] y, float[N,N] z)
    <float[4,4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}> {
      t = Transpose<perm = [1, 0]>(x)
      z = MatMul(x, t)
      y = MatMul(x, w)
    }""")
    wish = Observe(gram=True).wishes(model)["x"]
    assert wish == Wish(channel_axis=-1, gram=True)
    assert dataclasses.replace(wish, gram=False) == Observe().wishes(model)["x"]


MEMORY = '''
import resource, sys
import numpy as np, onnx_ir as ir
from qonnx.calibrate import Wish, observe
text = """<ir_version: 8, opset_import: ["":17]> g (float[N,256] x) => (float[N,256] y) {
  a = Relu(x) b = Neg(a) y = Relu(b) }"""
def data(count):
    for seed in range(count):
        yield {"x": np.random.default_rng(seed).normal(size=(2000, 256)).astype(np.float32)}
wishes = {n: Wish(channel_axis=-1, histogram=True, gram=True) for n in "xaby"}
observe(ir.from_onnx_text(text), data(int(sys.argv[1])), wishes, threads=1, native=sys.argv[2] == "True")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
'''


@pytest.mark.slow
@pytest.mark.parametrize("native", WAYS)
def test_memory_does_not_grow_with_the_data(native):
    """One sample is 2 MB: 120 more of them kept, in any of four tensors, would show as 240 MB."""
    import subprocess
    import sys

    def peak(count: int) -> int:
        run = subprocess.run(
            [sys.executable, "-c", MEMORY, str(count), str(native)], capture_output=True, text=True, check=True
        )
        return int(run.stdout) // 1024

    assert peak(128) - peak(8) < 40
