"""Laws of every solver and granularity: codes in range, less loss from better solvers, shapes that come back."""

import dataclasses
import itertools

import numpy as np
import onnx_ir as ir
import pytest

from qonnx.formats import FORMATS
from qonnx.passes.solve_array import fitted, rounded_scale, to_tensor
from qonnx.solvers import SOLVERS, Layout
from qonnx.solvers.loss import losses
from qonnx.solvers.nearest import nearest
from qonnx.solvers.rescale import rescale

GRANULARITIES = {
    "tensor": {},
    "channel": {"granularity": "channel"},
    "block": {"granularity": "block", "block": 16},
}
LAYOUTS = {
    "MatMul": Layout("MatMul", (24, 10)),
    "MatMul, K = 1": Layout("MatMul", (1, 10)),
    "Gemm": Layout("Gemm", (24, 10)),
    "Gemm, transB": Layout("Gemm", (10, 24), transposed=True),
    "Conv": Layout("Conv", (6, 5, 3, 2)),
    "Conv, groups": Layout("Conv", (6, 5, 3, 2), groups=3),
    "Conv, depthwise": Layout("Conv", (8, 1, 3, 3), groups=8),
    "Conv, 1-D": Layout("Conv", (6, 5, 3)),
    "ConvTranspose": Layout("ConvTranspose", (6, 5, 3, 2)),
    "ConvTranspose, groups": Layout("ConvTranspose", (6, 5, 3, 2), groups=3),
    "Gather": Layout("Gather", (20, 12)),
}
solvers = pytest.mark.parametrize("solver", SOLVERS)
granularities = pytest.mark.parametrize("granularity", GRANULARITIES)
bits = pytest.mark.parametrize("number", ["s8", "s4", "u4", "s2", "u2"])


def format_of(number: str, granularity: str):
    return dataclasses.replace(FORMATS[number], **GRANULARITIES[granularity])


def correlated(groups: int, columns: int, seed: int = 0) -> np.ndarray:
    """Gram matrices of inputs with strong common directions and a few loud channels."""
    generator = np.random.default_rng(seed)
    grams = []
    for _ in range(groups):
        mixing = generator.normal(size=(columns, max(1, columns // 4)))
        x = generator.normal(size=(400, mixing.shape[1])) @ mixing.T + 0.3 * generator.normal(size=(400, columns))
        x *= np.exp(generator.normal(0, 1, columns))
        grams.append(x.T @ x / len(x))
    return np.array(grams, np.float32)


def loss(rows: np.ndarray, codes, gram: np.ndarray) -> float:
    """Σ over groups of tr((W − Ŵ) H (W − Ŵ)ᵀ), the mean square error of the layer's output."""
    error = (rows - codes.decode()).astype(np.float64)
    return float(np.einsum("gri,gij,grj->", error, gram.astype(np.float64), error))


@solvers
@granularities
@bits
def test_codes_and_zero_points_lie_in_the_range_of_the_format(solver, granularity, number):
    format = format_of(number, granularity)
    rows = np.random.default_rng(3).normal(size=(2, 7, 40)).astype(np.float32)
    for gram in (None, correlated(2, 40)):
        codes = SOLVERS[solver](rows, format, gram)
        assert codes.codes.shape == rows.shape and codes.codes.dtype == np.int32
        assert codes.codes.min() >= format.minimum and codes.codes.max() <= format.maximum
        assert codes.zero_point.min() >= format.minimum and codes.zero_point.max() <= format.maximum
        assert np.isfinite(codes.decode()).all() and (codes.scale > 0).all()


@granularities
@pytest.mark.parametrize("number", ["s4", "u4", "s2", "u2"])
@pytest.mark.parametrize("seed", range(3))
def test_better_solvers_lose_less_on_correlated_inputs(granularity, number, seed):
    format = format_of(number, granularity)
    rows = np.random.default_rng(seed).standard_t(4, size=(1, 24, 64)).astype(np.float32)
    gram = correlated(1, 64, seed)
    plain, searched, gptq = (
        loss(rows, SOLVERS[name](rows, format, gram), gram) for name in ("nearest", "nearest-searched", "gptq")
    )
    assert gptq < searched
    assert gptq < 0.8 * plain


@granularities
@pytest.mark.parametrize("number", ["s8", "s4", "u4", "s2", "u2"])
@pytest.mark.parametrize("inputs", ["correlated", "independent", "few rows"])
def test_each_solver_loses_no_more_than_the_one_before(granularity, number, inputs):
    """tr((W − Ŵ)H(W − Ŵ)ᵀ): QuantEase ≤ GPTQ ≤ round to nearest, as a whole and row by row."""
    format = format_of(number, granularity)
    generator = np.random.default_rng(12)
    rows = generator.standard_t(4, size=(2, 16, 48)).astype(np.float32)
    gram = correlated(2, 48, 3)
    if inputs == "independent":
        gram = np.broadcast_to(np.diag(generator.uniform(0.1, 2, 48)), (2, 48, 48)).astype(np.float32)
    if inputs == "few rows":
        x = generator.normal(size=(2, 12, 48)).astype(np.float32)
        gram = x.swapaxes(1, 2) @ x
    order = [losses(rows, SOLVERS[name](rows, format, gram), gram) for name in ("quantease", "gptq", "nearest")]
    for less, more in itertools.pairwise(order):
        assert less.sum() <= more.sum() * (1 + 1e-9)
        if granularity != "tensor":
            assert (less <= more * (1 + 1e-9) + 1e-9).all()


def test_coordinate_descent_gains_on_gptq():
    """With plain correlation, not only in the last digits: 3 per cent and more at 4 bits."""
    format, rows = format_of("u4", "channel"), np.random.default_rng(13).normal(size=(1, 64, 96)).astype(np.float32)
    gram = correlated(1, 96, 5)
    assert loss(rows, SOLVERS["quantease"](rows, format, gram), gram) < 0.97 * loss(
        rows, SOLVERS["gptq"](rows, format, gram), gram
    )


@granularities
@bits
@pytest.mark.parametrize("solver", ["lwc", "slim"])
def test_searched_clips_lose_no_more_than_rounding(solver, granularity, number):
    format = format_of(number, granularity)
    rows, gram = np.random.default_rng(14).standard_t(3, size=(2, 9, 48)).astype(np.float32), correlated(2, 48, 6)
    found, plain = (losses(rows, SOLVERS[name](rows, format, gram), gram) for name in (solver, "nearest"))
    assert found.sum() <= plain.sum() * (1 + 1e-9)
    if granularity != "tensor":
        assert (found <= plain * (1 + 1e-9)).all()


@pytest.mark.parametrize("number", ["s4", "u4", "u2"])
def test_each_end_of_a_range_may_be_clipped_on_its_own(number):
    """Outliers above only: `lwc` clips them where the inputs that they meet are quiet, and keeps the other end."""
    generator = np.random.default_rng(15)
    rows = generator.normal(size=(1, 40, 64)).astype(np.float32)
    rows[:, :, ::16] = 8
    quiet = np.ones(64)
    quiet[::16] = 1e-4
    gram = np.diag(quiet)[None].astype(np.float32)
    format = format_of(number, "block")
    assert loss(rows, SOLVERS["lwc"](rows, format, gram), gram) < 0.5 * loss(
        rows, SOLVERS["nearest"](rows, format), gram
    )


@pytest.mark.parametrize("granularity", ["channel", "block"])
@pytest.mark.parametrize("number", ["s8", "s4", "u4", "s2", "u2"])
def test_half_quadratic_rounding_gains_in_its_norm(granularity, number):
    """Σ|w − ŵ|^0.7 of every row; the gain is real where there are outliers and few bits."""
    format = format_of(number, granularity)
    rows = np.random.default_rng(16).standard_t(2, size=(2, 12, 64)).astype(np.float32)
    found, plain = ((np.abs(rows - SOLVERS[name](rows, format).decode()) ** 0.7).sum(-1) for name in ("hqq", "nearest"))
    assert (found <= plain * (1 + 1e-5)).all()
    if format.bits < 8:
        assert found.sum() < 0.99 * plain.sum()


@pytest.mark.parametrize("granularity", ["channel", "block"])
@pytest.mark.parametrize("number", ["s8", "u4", "u2"])
@pytest.mark.parametrize("fraction", [None, 10, 5])
def test_refitted_scales_lose_no_more(granularity, number, fraction):
    """For the codes of rounding, in which there is much to gain; one column more than whole blocks."""
    format = dataclasses.replace(format_of(number, granularity), scale_fraction=fraction)
    rows, gram = np.random.default_rng(17).normal(size=(2, 9, 49)).astype(np.float32), correlated(2, 49, 8)
    codes = nearest(rows, format)
    again = rescale(rows, gram, codes)
    np.testing.assert_array_equal(again.codes, codes.codes)
    less, more = losses(rows, again, gram), losses(rows, codes, gram)
    assert (less <= more * (1 + 1e-9)).all()
    if format.bits < 8 or fraction != 5:  # scales of 8 bits are coarser than what 256 codes leave to gain
        assert less.sum() < more.sum()
    np.testing.assert_array_equal(format.storable(again.scale), again.scale)


def test_refitted_scales_are_the_least_squares_solution():
    """One row: numpy's lstsq on the inputs themselves, without the Gram matrix."""
    generator = np.random.default_rng(18)
    x, rows = generator.normal(size=(500, 32)), generator.normal(size=(1, 1, 32)).astype(np.float32)
    codes = nearest(rows, format_of("s4", "block"))
    parts = np.stack([x[:, b : b + 16] @ codes.codes[0, 0, b : b + 16] for b in (0, 16)], axis=1)
    want = np.linalg.lstsq(parts, x @ rows[0, 0].astype(np.float64), rcond=None)[0]
    found = rescale(rows, (x.T @ x)[None].astype(np.float32), codes).scale[0, 0]
    np.testing.assert_allclose(found, want, rtol=2e-3)  # a thousandth of pull towards the old scales


@granularities
@bits
def test_the_search_loses_no_more_in_what_it_minimises(granularity, number):
    """Σ h (w − ŵ)² with h the diagonal of the Gram matrix; the whole range is among the candidates."""
    format = format_of(number, granularity)
    rows = np.random.default_rng(4).standard_t(3, size=(2, 9, 48)).astype(np.float32)
    gram = correlated(2, 48)
    diagonal = gram * np.eye(48, dtype=np.float32)
    found = loss(rows, SOLVERS["nearest-searched"](rows, format, gram), diagonal)
    plain = loss(rows, SOLVERS["nearest"](rows, format, gram), diagonal)
    assert found <= plain * (1 + 1e-6)


@granularities
def test_gptq_without_correlation_is_rounding_to_nearest(granularity):
    """With H = I nothing is pushed onto other columns; 8 bits take the whole range in both."""
    rows = np.random.default_rng(5).normal(size=(2, 6, 40)).astype(np.float32)
    format = format_of("s8", granularity)
    eye = np.broadcast_to(np.eye(40, dtype=np.float32), (2, 40, 40))
    np.testing.assert_array_equal(SOLVERS["gptq"](rows, format, eye).codes, nearest(rows, format).codes)
    np.testing.assert_array_equal(SOLVERS["quantease"](rows, format, eye).codes, nearest(rows, format).codes)


@solvers
@granularities
@bits
@pytest.mark.parametrize(
    "case", ["zeros", "constant rows", "one column", "one huge entry", "dead columns", "no inputs"]
)
def test_degenerate_weights_and_inputs(solver, granularity, number, case):
    format, generator = format_of(number, granularity), np.random.default_rng(6)
    columns = 1 if case == "one column" else 33
    rows = generator.normal(size=(2, 5, columns)).astype(np.float32)
    gram = correlated(2, columns)
    if case == "zeros":
        rows[:] = 0
    if case == "constant rows":
        rows[:] = np.array([-2.0, 0.0, 1e-3, 5.0, 1e-30], np.float32)[:, None]
    if case == "one huge entry":
        rows[0, 0, 0] = 1e15
    if case == "dead columns":
        gram[:, ::3] = 0
        gram[:, :, ::3] = 0
    if case == "silence":
        gram[:] = 0
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        codes = SOLVERS[solver](rows, format, gram)
    decoded = codes.decode()
    assert np.isfinite(decoded).all()
    assert codes.codes.min() >= format.minimum and codes.codes.max() <= format.maximum
    if case == "zeros":
        assert (decoded == 0).all()
    if case == "constant rows" and granularity != "tensor" and format.bits == 8:
        np.testing.assert_allclose(decoded[:, :4], rows[:, :4], rtol=2**-7)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("taps_first", [False, True])
def test_rows_come_back_as_the_array(layout, taps_first):
    layout = dataclasses.replace(layout, taps_first=taps_first and "Conv" in layout.op)
    array = np.random.default_rng(7).normal(size=layout.shape).astype(np.float32)
    rows = layout.to_rows(array)
    outputs = layout.shape[layout.channel_axis] * (layout.groups if layout.op == "ConvTranspose" else 1)
    assert rows.shape[0] * rows.shape[1] == outputs and rows.size == array.size
    np.testing.assert_array_equal(layout.from_rows(rows), array)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if "Conv" in name])
def test_a_row_holds_the_weights_of_one_output(name):
    """Count the weights behind each output channel by running the operator on ones."""
    layout = LAYOUTS[name]
    array = np.random.default_rng(8).normal(size=layout.shape).astype(np.float32)
    rows = layout.to_rows(array).astype(np.float64)
    channels = rows.sum(-1).reshape(-1)  # what a sum over all inputs and taps gives, group after group
    if layout.op == "Conv":
        want = array.sum(axis=tuple(range(1, array.ndim)))
    else:
        split = array.reshape(layout.groups, -1, *array.shape[1:])
        want = split.sum(axis=(1, *range(3, split.ndim))).reshape(-1)
    np.testing.assert_allclose(channels, want, rtol=1e-4, atol=1e-5)


@solvers
@granularities
@pytest.mark.parametrize("name", LAYOUTS)
def test_stored_arrays_decode_to_what_was_solved_as_onnx_reads_them(solver, granularity, name):
    """DequantizeLinear's rule written out: the scale of entry i is at i // block on the axis, or at its channel."""
    format = format_of("s8", granularity)
    layout = fitted(LAYOUTS[name], format)
    if granularity == "block" and layout.taps_first:  # whole blocks of input channels, as assign_weights demands
        format = dataclasses.replace(format, block=layout.shape[layout.reduction_axis] // _groups(layout))
    array = np.random.default_rng(9).normal(size=layout.shape).astype(np.float32)
    rows = layout.to_rows(array)
    codes = SOLVERS[solver](rows, format, None)
    stored = to_tensor(codes, layout)
    assert stored.codes.shape == layout.shape
    scale = np.asarray(stored.scale)
    if granularity == "channel":
        shape = [1] * len(layout.shape)
        shape[stored.axis] = layout.shape[stored.axis]
        scale = scale.reshape(shape)
    if granularity == "block":
        scale = np.take(scale, np.arange(layout.shape[stored.axis]) // format.block, axis=stored.axis)
        assert scale.shape == layout.shape
    decoded = stored.codes.astype(np.float32) * scale
    np.testing.assert_allclose(decoded, layout.from_rows(codes.decode()), rtol=1e-6)
    assert np.abs(decoded - array).max() <= float(np.max(scale)) * 0.51
    np.testing.assert_allclose(stored.decode(), decoded, rtol=1e-6)


def _groups(layout: Layout) -> int:
    return layout.groups if layout.op == "ConvTranspose" else 1


def test_eight_bit_channels_differ_from_one_scale():
    """A seeded fault: scales put on the wrong axis decode to something else."""
    array = (np.random.default_rng(10).normal(size=(12, 12)) * np.arange(1, 13)).astype(np.float32)
    layout, format = Layout("MatMul", (12, 12)), format_of("s8", "channel")
    stored = to_tensor(nearest(layout.to_rows(array), format), layout)
    wrong = dataclasses.replace(stored, axis=0)
    assert np.abs(stored.decode() - array).max() < 0.1 < np.abs(wrong.decode() - array).max()


@pytest.mark.parametrize("kind", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_sixteen_bit_scales_are_known_to_the_codes(kind):
    """Codes are rounded to the scale that the file holds: the error stays half a step of that scale."""

    rows = np.random.default_rng(11).normal(size=(1, 50, 64)).astype(np.float32)
    format = format_of("s8", "channel")
    rounded = rounded_scale(nearest(rows, format), rows, kind)
    np.testing.assert_array_equal(rounded.scale, rounded.scale.astype(kind.numpy()).astype(np.float32))
    inside = np.abs(rounded.codes) < format.maximum
    error = np.abs(rounded.decode() - rows) / rounded.scale
    assert error[inside].max() <= 0.5 + 1e-4
