"""Channel → layer: the fold changes no output, and its per-tensor codes are those of a per-channel quantizer."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from models.tiny import build
from qonnx.formats import FORMATS
from qonnx.notes import note
from qonnx.passes.infer_shapes import InferShapes
from qonnx.passes.observe import Observe
from qonnx.passes.reparameterize import Reparameterize
from qonnx.passes.rewire import array
from qonnx.runtime import session
from qonnx.settings import Settings

HEAD = '<ir_version: 10, opset_import: ["": 21]>'
NORM = f"""{HEAD}
g (float[B,5,8] x, float[8] gamma, float[8] beta, float[8,6] w, float[6] b, float[8,4] w2)
    => (float[B,5,6] y, float[B,5,4] z) {{
    n = LayerNormalization(x, gamma, beta)
    m = MatMul(n, w)
    y = Add(m, b)
    z = MatMul(n, w2)
}}"""
RESIDUAL = NORM.replace("z = MatMul(n, w2)", "z = MatMul(n, w2)\n    r = Add(n, n)").replace(
    "float[B,5,4] z)", "float[B,5,4] z, float[B,5,8] r)"
)


def observed(text: str = NORM) -> tuple[ir.Model, list[dict]]:
    """The model with one channel of the norm a hundred times the others, its statistics noted."""
    model = build(text)
    for value in model.graph.initializers.values():
        array = value.const_value.numpy().copy()
        if value.name == "gamma":
            array[3] = 100.0
        value.const_value = ir.tensor(array, name=value.name)
    data = [{"x": np.random.default_rng(i).normal(size=(2, 5, 8)).astype(np.float32)} for i in range(4)]
    Observe(data)(model)
    return model, data


def run(model: ir.Model, feeds: dict) -> list[np.ndarray]:
    return session(model.clone(), optimization="none").run(None, feeds)


@pytest.mark.parametrize(("rule", "strength"), [("ranges", 0.25), ("ranges", 0.5), ("ranges", 1.0), ("smooth", None)])
def test_the_fold_changes_no_output(rule, strength):
    model, data = observed()
    before, norm = run(model, data[0]), np.abs(tapped(model, "n", data[:1]))
    constants = model.graph.initializers
    sizes = [(norm @ np.abs(constants[name].const_value.numpy())).max() for name in ("w", "w2")]
    assert Reparameterize(rule=rule, strength=strength)(model).changes
    for a, b, size in zip(before, run(model, data[0]), sizes, strict=True):
        # eight terms, each of four rounded factors and one addition on both sides: 2·(4 + 8)·2⁻²⁴ of Σ|n||w|, and shift
        assert np.abs(a - b).max() <= 2 * 24 * 2**-24 * size


def test_statistics_after_the_fold_are_those_of_the_new_tensor():
    model, data = observed()
    Reparameterize(strength=1.0)(model)
    folded = {v.name: note(v).stats for node in model.graph for v in node.outputs}
    Observe(data)(model)
    for node in model.graph:
        if node.op_type in ("LayerNormalization", "MatMul"):
            claimed, real = folded[node.outputs[0].name], note(node.outputs[0]).stats
            size = np.abs(real.channel_maximum).max()
            np.testing.assert_allclose(claimed.channel_minimum, real.channel_minimum, atol=1e-5 * size)
            np.testing.assert_allclose(claimed.channel_maximum, real.channel_maximum, atol=1e-5 * size)
            np.testing.assert_allclose(claimed.channel_mean, real.channel_mean, atol=1e-5 * size)


def test_codes_equal_those_of_a_per_channel_quantizer():
    """RepQ-ViT eq. 8–11: with an integer target zero point the per-tensor codes are the per-channel ones."""
    model, data = observed()
    norm = next(node for node in model.graph if node.op_type == "LayerNormalization")
    stats, name = note(norm.outputs[0]).stats, norm.outputs[0].name
    x = tapped(model, name, data)
    low, high = stats.channel_minimum, stats.channel_maximum
    step = (high - low) / 255
    zero_point = np.rint(-low / step)
    reference = np.clip(np.rint(x / step) + zero_point, 0, 255)

    Reparameterize(strength=1.0)(model)
    moved = tapped(model, name, data)
    common = np.exp(np.log(step).mean())
    codes = np.rint(moved / common) + 128
    ties = np.abs(np.abs(moved / common - np.trunc(moved / common)) - 0.5) < 1e-3  # float32 decides those either way
    assert (codes == reference)[~ties].all()
    assert ties.mean() < 0.01
    assert codes.min() >= -1 and codes.max() <= 256  # the target grid holds them all, give or take a rounding


def tapped(model: ir.Model, name: str, data: list[dict]) -> np.ndarray:
    copy = model.clone()
    copy.graph.outputs.append(next(v for node in copy.graph for v in node.outputs if v.name == name))
    opened = session(copy, optimization="none")
    return np.concatenate([opened.run([name], feeds)[0] for feeds in data]).astype(np.float64)


def test_the_default_folds_an_outlier_channel_and_leaves_an_even_norm_alone():
    model, _ = observed()
    assert len(Reparameterize()(model).changes) == 1
    even = build(NORM)
    Observe([{"x": np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)}])(even)
    assert not Reparameterize()(even).changes


def test_smoothquant_balances_activations_and_weights():
    model, _ = observed()
    norm = next(node for node in model.graph if node.op_type == "LayerNormalization")
    Reparameterize(rule="smooth")(model)
    stats = note(norm.outputs[0]).stats
    wide = np.maximum(-stats.channel_minimum, stats.channel_maximum)
    weights = [use.node.inputs[1].const_value.numpy() for use in norm.outputs[0].uses()]
    heavy = np.max([np.abs(weight).max(1) for weight in weights], axis=0)
    share = wide / heavy  # with α = ½ both sides of the product have the same largest entry, up to one common factor
    np.testing.assert_allclose(share, share[0], rtol=1e-5)


def test_a_second_time_changes_nothing():
    model, _ = observed()
    Reparameterize(strength=1.0)(model)
    assert not Reparameterize(strength=1.0)(model).changes


@pytest.mark.parametrize(
    ("text", "settings"),
    [(RESIDUAL, None), (NORM, Settings(op_types_to_exclude=("MatMul",)))],
    ids=["a residual branch reads the norm", "its readers are excluded"],
)
def test_left_alone(text, settings):
    model, _ = observed(text)
    assert not Reparameterize(settings=settings, strength=1.0)(model).changes


def test_the_fold_lowers_the_error_of_the_small_channels():
    model, data = observed()
    name = next(node for node in model.graph if node.op_type == "LayerNormalization").outputs[0].name
    plain = channel_noise(tapped(model, name, data))
    Reparameterize(strength=1.0)(model)
    folded = channel_noise(tapped(model, name, data))
    # channel 3 is about a hundred times as wide as the median: its fold gains 40 dB for the others and costs it nothing
    assert np.median(folded) < np.median(plain) / 1000
    assert folded.max() < 1e-3


def channel_noise(x: np.ndarray) -> np.ndarray:
    """Error power of each channel on one 8-bit grid for all, relative to the channel's variance."""
    format = FORMATS["u8"]
    scale, zero_point = format.scale_and_zero_point(x.min(), x.max())
    error = format.decode(format.encode(x, scale, zero_point), scale, zero_point) - x
    return np.square(error).mean((0, 1)) / x.var((0, 1))


IMAGES = f"""{HEAD}
g (float[B,8,6,6] x, float[8] gamma, float[8] beta, float[5,8,3,3] w, float[5] b, float[8,4] w2)
    => (float[B,5,H,W] y, float[B,36,4] z)
<int64[3] flat = {{{{0, 8, -1}}}}> {{{{
    n = {{norm}}
    y = Conv<{{pads}}>(n, w, b)
    r = Reshape(n, flat)
    t = Transpose<perm = [0, 2, 1]>(r)
    z = MatMul(t, w2)
}}}}"""
GROUPS = "GroupNormalization<num_groups = 2>(x, gamma, beta)"
BATCHES = "BatchNormalization(x, gamma, beta, beta, gamma)"


def images(norm: str, pads: str) -> tuple[ir.Model, list[dict]]:
    """A norm over images with one channel a hundred times the others, read by a convolution and as rows."""
    model = build(IMAGES.format(norm=norm, pads=pads))
    gamma = model.graph.initializers["gamma"]
    gamma.const_value = ir.tensor(np.float32([1, 0.5, 2, 100, 1, 1, 0.7, 1]), name="gamma")
    data = [{"x": np.random.default_rng(i).normal(size=(2, 8, 6, 6)).astype(np.float32)} for i in range(4)]
    InferShapes()(model)
    Observe(data, gram=True)(model)
    return model, data


@pytest.mark.parametrize("norm", [GROUPS, BATCHES], ids=["groups", "batches"])
@pytest.mark.parametrize("pads", ["pads = [0,0,0,0]", "pads = [1,1,1,1]"], ids=["inside", "padded"])
@pytest.mark.parametrize("rule", ["ranges", "outliers", "smooth"])
def test_norms_of_images_are_folded_into_convolutions_and_products_of_rows(norm, pads, rule):
    model, data = images(norm, pads)
    before = run(model, data[0])
    changes = Reparameterize(rule=rule, strength=1.0, noise=0.5, convolutions=True)(model).changes
    assert [change.what.split(" folded into ")[1].split(",")[0] for change in changes] == ["2 layers"]
    for a, b in zip(before, run(model, data[0]), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=72 * 2**-22 * np.abs(a).max())
    value = next(node for node in model.graph if "Normalization" in node.op_type).outputs[0]
    claimed = note(value).stats
    assert (claimed.gram is None) == ("[0,0,0,0]" in pads)  # only what is not padded may be shifted
    Observe(data, gram=True)(model)
    real = note(value).stats
    size = np.abs(real.channel_maximum).max()
    np.testing.assert_allclose(claimed.channel_maximum, real.channel_maximum, atol=1e-5 * size)
    if claimed.gram is not None:
        scale = np.abs(real.gram.matrix).max()
        np.testing.assert_allclose(claimed.gram.matrix, real.gram.matrix, atol=1e-4 * scale)


def test_a_norm_behind_which_channels_are_kept_apart_is_left_alone():
    for old, new in [("float[5,8,3,3] w", "float[8,1,3,3] w"), ("perm = [0, 2, 1]", "perm = [0, 1, 2]")]:
        text = IMAGES.replace(old, new)
        if new.endswith("w"):
            text = text.replace("float[5] b", "float[8] b").replace("float[B,5,H,W] y", "float[B,8,H,W] y")
            text = text.replace("Conv<{pads}>", "Conv<group = 8, {pads}>")
        else:
            text = text.replace("float[8,4] w2", "float[36,4] w2").replace("float[B,36,4] z", "float[B,8,4] z")
        assert text != IMAGES
        model = build(text.format(norm=GROUPS, pads="pads = [0,0,0,0]"))
        data = [{"x": np.random.default_rng(0).normal(size=(2, 8, 6, 6)).astype(np.float32)}]
        InferShapes()(model)
        Observe(data, gram=True)(model)
        assert not Reparameterize(strength=1.0, convolutions=True)(model).changes


def test_outlier_suppression_leaves_channels_below_the_threshold_their_size():
    model, data = observed()
    before = np.abs(tapped(model, "n", data)).max((0, 1))
    Reparameterize(rule="outliers")(model)
    after = np.ptp(tapped(model, "n", data).reshape(-1, 8), axis=0)
    spread = np.ptp(after) / after.max()
    assert np.argmax(before) == 3 and after[3] < 0.2 * 2 * before[3] and spread < 1


def test_noise_moves_channels_by_less_than_a_step_and_is_the_same_each_time():
    twins = [observed()[0] for _ in range(2)]
    plain = note(next(n for n in observed()[0].graph if n.op_type == "LayerNormalization").outputs[0]).stats
    moved = []
    for model in twins:
        Reparameterize(strength=0.0, noise=0.5)(model)
        norm = next(node for node in model.graph if node.op_type == "LayerNormalization")
        moved.append(note(norm.outputs[0]).stats.channel_minimum - plain.channel_minimum)
    np.testing.assert_array_equal(*moved)
    step = (plain.maximum - plain.minimum) / 255
    assert 0 < np.abs(moved[0]).max() <= 0.5 * step and np.ptp(moved[0]) > 0.1 * step


def test_clipping_by_deviations_narrows_the_grid_and_changes_no_output():
    model, data = observed()
    Observe(data, gram=True)(model)
    norm = next(node for node in model.graph if node.op_type == "LayerNormalization")
    before, whole = run(model, data[0]), note(norm.outputs[0]).stats
    x = tapped(model, norm.outputs[0].name, data).reshape(-1, 8)
    Reparameterize(strength=1.0, deviations=1.5)(model)
    for a, b in zip(before, run(model, data[0]), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=72 * 2**-22 * np.abs(a).max())
    mean, reach = x.mean(0), 1.5 * x.std(0)
    low, high = np.maximum(x.min(0), mean - reach), np.minimum(x.max(0), mean + reach)
    moved = tapped(model, norm.outputs[0].name, data).reshape(-1, 8)
    stats = note(norm.outputs[0]).stats
    inside = (moved >= stats.minimum) & (moved <= stats.maximum)
    np.testing.assert_array_equal(inside[:, 0], (x[:, 0] >= low[0] - 1e-4) & (x[:, 0] <= high[0] + 1e-4))
    assert 0.8 < inside.mean() < 1.0
    assert (stats.channel_maximum - stats.channel_minimum).max() < (whole.maximum - whole.minimum)


def test_clipping_is_told_to_the_grid_even_where_no_fold_pays():
    model, data = observed()
    Observe(data, gram=True)(model)
    norm = next(node for node in model.graph if node.op_type == "LayerNormalization")
    whole = note(norm.outputs[0]).stats
    Reparameterize(strength=0.0, deviations=1.0)(model)
    clipped = note(norm.outputs[0]).stats
    assert whole.minimum < clipped.minimum <= 0 <= clipped.maximum < whole.maximum


def test_powers_of_two_round_no_weight():
    model, data = observed()
    weight = model.graph.initializers["w"].const_value.numpy().copy()
    before = run(model, data[0])
    Reparameterize(strength=1.0, powers=True)(model)
    layer = next(node for node in model.graph if node.op_type == "MatMul")
    ratio = array(layer.inputs[1]) / weight
    mantissas, _ = np.frexp(ratio)
    assert (mantissas == 0.5).all() and np.ptp(ratio) > 4
    for a, b in zip(before, run(model, data[0]), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=48 * 2**-24 * 100 * np.abs(a).max())
