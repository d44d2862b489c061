"""Code books: formats and their real sizes, search, least squares, and solvers against each other."""

import dataclasses
import itertools

import numpy as np
import pytest

from qonnx.codebooks import CODEBOOK_SOLVERS, CODEBOOKS, CodebookFormat, search, solve_codebook
from qonnx.codebooks.feedback import propagate
from qonnx.codebooks.kmeans import kmeans, residual_books
from qonnx.codebooks.refine import loss, solve_books, solve_scale, sweep
from qonnx.codebooks.vptq import vptq
from qonnx.custom_ops.codebook import CodebookWeight
from qonnx.solvers import Layout

SMALL = CodebookFormat(2, 4, 4)  # two books of 16 vectors of 4
ACROSS = dataclasses.replace(SMALL, along="outputs")


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def gram_of(columns, seed=0):
    """Of correlated inputs with a few loud channels, as transformers have."""
    x = normal(4 * columns, columns, seed=seed) @ (
        np.eye(columns) + 0.7 * normal(columns, columns, seed=1) / columns**0.5
    )
    x[:, :: max(columns // 5, 1)] *= 4
    return (x.T @ x / len(x)).astype(np.float32)


def losses(rows, gram, weight):
    return loss(rows, weight.decode().astype(np.float32), gram)


# Formats


@pytest.mark.parametrize("name", CODEBOOKS)
def test_stored_bits_are_the_bytes_of_the_arrays(name):
    format = CODEBOOKS[name]
    rows, columns = 96, 48 * 4
    scale = np.ones((rows, columns // (format.block or columns)), np.float16)
    books = np.zeros((format.books, format.levels, format.length), np.float16)
    indices = np.zeros((rows, columns // format.length, format.books), np.int64)
    weight = CodebookWeight(indices, books, scale, format.block or columns)
    assert format.fits(columns)
    assert format.stored_bits(rows, columns) == 8 * sum(array.nbytes for array in weight.arrays().values())


@pytest.mark.parametrize("name", [name for name, format in CODEBOOKS.items() if format.bits <= 4])
def test_a_large_weight_takes_a_seventh_of_what_double_the_float_takes(name):
    """2048 × 2048: 16.8 MB in float32; files of twice that exist for it."""
    assert CODEBOOKS[name].stored_bits(2048, 2048) / 8 <= 2 * 4 * 2048**2 / 7


@pytest.mark.parametrize(
    "wrong", [{"books": 0}, {"index_bits": 17}, {"length": 17}, {"along": "rows"}, {"block": 6}], ids=str
)
def test_formats_that_nothing_can_store_are_refused(wrong):
    with pytest.raises(ValueError, match="CodebookFormat"):
        dataclasses.replace(SMALL, **wrong)


# Search


@pytest.mark.parametrize("levels", [2, 16, 100, 256])
def test_nearest_is_nearest(levels):
    z, book = normal(50, 6), normal(levels, 6)
    wanted = ((z[:, None] - book) ** 2).sum(2).argmin(1)
    np.testing.assert_array_equal(search.nearest(z, book), wanted)


@pytest.mark.parametrize("find", [search.beam_search_numpy, search.beam_search])
def test_a_beam_as_wide_as_the_first_book_finds_the_best_sum(find):
    z, books = normal(40, 4), normal(2, 8, 4)
    sums = (books[0][:, None] + books[1]).reshape(-1, 4)
    best = ((z[:, None] - sums) ** 2).sum(2).argmin(1)
    np.testing.assert_array_equal(find(z, books, 8), np.stack([best // 8, best % 8], 1))


@pytest.mark.native
@pytest.mark.skipif(search.native() is None, reason="no native library with a beam search")
@pytest.mark.parametrize("tier", ["scalar", "avx2", "avx512", "avx512vnni"])
@pytest.mark.parametrize(
    ("books", "levels", "length"), [(1, 256, 4), (2, 256, 8), (3, 17, 5), (4, 16, 16), (1, 4096, 6)]
)
def test_the_native_search_finds_what_numpy_finds(tier, books, levels, length, monkeypatch):
    monkeypatch.setenv("QONNX_CPU", tier)
    z, made = normal(64, length), normal(books, levels, length)
    wanted = search.descend(z, made, search.beam_search_numpy(z, made, 3), 1)
    found = search.beam_search(z, made, 3)
    miss = lambda codes: ((z - search.gathered(made, codes)) ** 2).sum(1)  # noqa: E731 - ties may go either way
    np.testing.assert_allclose(miss(found), miss(wanted), rtol=0, atol=64 * 2.0**-24 * float((z**2).sum(1).max()))


def test_descent_never_moves_away():
    z, books = normal(60, 4), normal(3, 16, 4)
    codes = np.random.default_rng(0).integers(0, 16, (60, 3))
    before = ((z - search.gathered(books, codes)) ** 2).sum(1)
    after = ((z - search.gathered(books, search.descend(z, books, codes))) ** 2).sum(1)
    assert (after <= before * (1 + 1e-6)).all() and after.sum() < 0.8 * before.sum()


def test_scattered_is_the_transpose_of_gathered():
    books, values, codes = normal(2, 8, 4), normal(30, 4), np.random.default_rng(0).integers(0, 8, (30, 2))
    left = (search.gathered(books, codes) * values).sum(dtype=np.float64)
    right = (books * search.scattered(values, codes, 8)).sum(dtype=np.float64)
    assert abs(left - right) <= 1e-5 * abs(left)


# Books


def test_kmeans_finds_clusters_and_heavy_points_pull():
    centres = np.array([[0, 0], [9, 0], [0, 9]], np.float32)
    points = np.repeat(centres, 30, 0) + 0.01 * normal(90, 2)
    book = kmeans(points, 3, seed=1)
    assert abs(book[:, None] - centres).sum(2).min(0).max() < 0.1
    line = np.array([[0.0], [1.0], [2.0]], np.float32)
    even, heavy = (kmeans(np.repeat(line, 10, 0), 1, np.repeat(w, 10)) for w in ([1, 1, 1], [1, 1, 8]))
    assert even[0, 0] == pytest.approx(1) and heavy[0, 0] == pytest.approx(1.7)


def test_points_that_fit_in_a_book_are_kept():
    points = normal(10, 3)
    assert {tuple(p) for p in points} <= {tuple(v) for v in kmeans(points, 16)}


def test_residual_books_lower_the_error():
    points = normal(600, 4)
    misses = []
    for count in (1, 2, 3):
        books = residual_books(points, count, 8)
        codes = search.beam_search(points, books, 8)
        misses.append(((points - search.gathered(books, codes)) ** 2).mean())
    assert misses[0] > 1.3 * misses[1] > 1.3**2 * misses[2]


# Steps under the Gram matrix


def state(seed=0):
    rows, gram = normal(24, 32, seed=seed), gram_of(32)
    books = residual_books(rows.reshape(-1, 4), 2, 16)
    codes = search.beam_search(rows.reshape(-1, 4), books, 4).reshape(24, 8, 2)
    return rows, gram, books, codes, np.ones_like(rows)


def test_least_squares_of_books_reach_the_normal_equations():
    rows, gram, books, codes, scale = state()
    solved = solve_books(rows, gram, books, codes, scale, steps=400)
    root = np.linalg.cholesky(gram.astype(np.float64))
    design = np.zeros((24, 32, 2 * 16 * 4))
    for n, j, b, t in itertools.product(range(24), range(8), range(2), range(4)):
        design[n, 4 * j + t, (b * 16 + codes[n, j, b]) * 4 + t] = 1
    matrix = np.einsum("nkp,kl->nlp", design, root).reshape(-1, design.shape[2])
    best = np.linalg.lstsq(matrix, (rows @ root).reshape(-1), rcond=None)[0]
    least = float(((matrix @ best - (rows @ root).reshape(-1)) ** 2).sum())
    reached = loss(rows, search.gathered(solved, codes).reshape(rows.shape), gram)
    assert least <= reached * (1 + 1e-4) and reached <= 1.01 * least
    assert loss(rows, search.gathered(books, codes).reshape(rows.shape), gram) > 1.05 * least


def test_a_sweep_never_raises_the_loss():
    rows, gram, books, codes, scale = state()
    value = lambda c: loss(rows, search.gathered(books, c).reshape(rows.shape) * scale, gram)  # noqa: E731
    history = [value(codes)]
    for _ in range(3):
        codes = sweep(rows, gram, books, codes, scale, 4)
        history.append(value(codes))
    assert all(b <= a * (1 + 1e-5) for a, b in itertools.pairwise(history)) and history[-1] < 0.8 * history[0]


def test_scales_are_least_squares():
    rows, gram, books, codes, _ = state()
    shape = search.gathered(books, codes).reshape(rows.shape)
    factor = solve_scale(rows, gram, shape)
    best = loss(rows, shape * factor[:, None], gram)
    for nudge in (0.99, 1.01):
        assert loss(rows, shape * factor[:, None] * nudge, gram) > best


def test_feedback_does_better_than_the_same_books_without():
    rows, gram, books, codes, _ = state()

    def choose(wanted, metric, j):
        found = search.beam_search(wanted @ metric, books @ metric, 4)
        return found, search.gathered(books, found)

    fed = propagate(rows, gram, 4, choose, 0.01)
    of = lambda c: loss(rows, search.gathered(books, c).reshape(rows.shape), gram)  # noqa: E731
    assert of(fed) < 0.8 * of(codes)


# Solvers


@pytest.mark.parametrize("solver", CODEBOOK_SOLVERS)
@pytest.mark.parametrize("block", [0, 16])
def test_every_solver_finds_a_weight_made_of_few_vectors(solver, block):
    """As many vectors as the book has: nothing is lost but the rounding of books and scales to float16."""
    format = CodebookFormat(1, 4, 4, block)
    vectors = normal(8, 4)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)  # all rows have one root mean square
    rows = vectors[np.random.default_rng(0).integers(0, 8, (16, 8))].reshape(16, 32)
    found = CODEBOOK_SOLVERS[solver](rows, format, None).decode()
    if solver == "low-rank":
        assert np.abs(found - rows).max() < np.abs(rows).max()
        return
    np.testing.assert_allclose(found, rows, atol=4 * 2.0**-11 * np.abs(rows).max())


@pytest.mark.parametrize("seed", [0, 1])
def test_losses_are_in_order(seed):
    rows, gram = normal(64, 64, seed=seed), gram_of(64, seed)
    plain = losses(rows, gram, CODEBOOK_SOLVERS["kmeans"](rows, SMALL, gram))
    parts, _ = vptq(rows, ACROSS, gram)
    across = loss(rows, parts[0].decode().T.astype(np.float32), gram)
    assert losses(rows, gram, CODEBOOK_SOLVERS["additive"](rows, SMALL, gram)) < 0.6 * plain
    assert across < 0.9 * plain


def test_books_of_low_rank_have_it():
    weight = CODEBOOK_SOLVERS["low-rank"](normal(32, 32), SMALL, None)
    for book in weight.codebooks.astype(np.float32):
        values = np.linalg.svd(book, compute_uv=False)
        assert values[3] <= 2.0**-10 * values[0] < values[2]


def test_loud_columns_have_books_of_their_own():
    rows, gram = normal(16, 20), np.diag(np.r_[np.ones(18), 100, 50]).astype(np.float32)
    parts, order = vptq(rows, ACROSS, gram, outliers=0.1)
    assert [part.shape for part in parts] == [(2, 16), (18, 16)]
    assert set(order[:2]) == {18, 19}
    stacked = np.concatenate([part.decode() for part in parts])[np.argsort(order)].T
    error = ((stacked - rows) ** 2).mean(0)
    assert error[18:].max() < 0.1 * error[:18].mean()


@pytest.mark.parametrize("format", [SMALL, ACROSS], ids=["inputs", "outputs"])
@pytest.mark.parametrize(("op", "transposed"), [("MatMul", False), ("Gemm", True)])
def test_a_tensor_decodes_into_the_layout_of_its_weight(format, op, transposed):
    rows = normal(16, 24)
    weight = rows if transposed else np.ascontiguousarray(rows.T)
    layout = Layout(op, weight.shape, transposed=transposed)
    solved = solve_codebook(weight, layout, format, gram_of(24)[None])
    assert solved.decode().shape == weight.shape and solved.decode().dtype == np.float32
    assert ((solved.decode() - weight) ** 2).mean() < 0.5 * (weight**2).mean()
    assert solved.nbytes == sum(a.nbytes for part in solved.parts for a in part.arrays().values())
