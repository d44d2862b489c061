"""Ridge least squares: the normal equations, the error that moments predict, and the choice of the ridge."""

import numpy as np
import pytest

from qonnx.solvers.ridge import RIDGES, Regression, choose_ridge, fitted


def sums(x: np.ndarray, y: np.ndarray, parts: int = 1) -> Regression:
    """The sums over inputs [groups, n, columns] and targets [groups, n, rows], gathered in parts."""
    found = Regression.zeros(x.shape[0], y.shape[2], x.shape[2])
    for some in np.array_split(np.arange(x.shape[1]), parts):
        found.add(x[:, some], y[:, some])
    return found


def layer(seed: int = 0, count: int = 200, noise: float = 0.1):
    """Float weights [2, 5, 12], the float layer's targets, and inputs that came with noise and an offset."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(2, 5, 12)).astype(np.float32)
    x = (generator.normal(size=(2, count, 12)) @ generator.normal(size=(2, 12, 12)) + 1).astype(np.float32)
    seen = (x * 0.9 + 0.3 + noise * generator.normal(size=x.shape)).astype(np.float32)
    return rows, seen, x @ rows.swapaxes(1, 2)


@pytest.mark.parametrize("ridge", [0.01, 1.0, 30.0])
def test_fitted_is_the_least_of_errors_and_distance(ridge):
    """Against numpy's least squares on data with √λ·I beneath."""
    rows, x, y = layer()
    found = fitted(rows, sums(x, y), ridge)
    for g in range(len(rows)):
        weight = np.sqrt(ridge * np.square(x[g].astype(np.float64)).sum() / x.shape[2])
        left = np.vstack([x[g], weight * np.eye(x.shape[2])])
        right = np.vstack([y[g], weight * rows[g].T])
        np.testing.assert_allclose(found[g], np.linalg.lstsq(left, right, rcond=None)[0].T, rtol=1e-3, atol=1e-3)


def test_sums_know_the_error_and_its_mean():
    rows, x, y = layer()
    whole = sums(x, y, parts=3)
    for candidate in (rows, rows * 0.9, fitted(rows, whole, 0.1)):
        difference = x @ candidate.swapaxes(1, 2) - y
        mean = difference.mean(1, keepdims=True)
        np.testing.assert_allclose(whole.shift(candidate), mean[:, 0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(whole.error(candidate), np.square(difference).sum(), rtol=2e-3)


def test_parts_add_up():
    rows, x, y = layer()
    one, both = sums(x, y), sums(x[:, :50], y[:, :50]) + sums(x[:, 50:], y[:, 50:])
    assert one.count == both.count
    np.testing.assert_allclose(one.gram, both.gram, rtol=1e-4)
    np.testing.assert_allclose(fitted(rows, one, 0.3), fitted(rows, both, 0.3), rtol=1e-3, atol=1e-4)


def test_weights_of_rows_are_repetitions_of_them():
    rows, x, y = layer()
    often = np.arange(x.shape[1]) % 4
    weighed, repeated = Regression.zeros(*rows.shape), sums(np.repeat(x, often, 1), np.repeat(y, often, 1))
    weighed.add(x, y, often.astype(np.float32))
    np.testing.assert_allclose(weighed.gram, repeated.gram, rtol=1e-4)
    np.testing.assert_allclose(fitted(rows, weighed, 0.3), fitted(rows, repeated, 0.3), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(weighed.error(rows), repeated.error(rows), rtol=2e-3)
    np.testing.assert_allclose(weighed.shift(rows), sums(x, y).shift(rows))


def test_an_infinite_ridge_keeps_the_weights():
    rows, x, y = layer()
    assert fitted(rows, sums(x, y), float("inf")) is rows


def test_ridge_grows_with_what_a_fit_would_invent():
    """Plenty of rows and little noise ask for a small ridge; fewer rows than columns and much noise for a large one."""
    rows, x, y = layer(count=4000, noise=0.05)
    plenty = choose_ridge(rows, sums(x[:, :3000], y[:, :3000]), sums(x[:, 3000:], y[:, 3000:]))
    generator = np.random.default_rng(1)
    wild = (y + 30 * generator.normal(size=y.shape)).astype(np.float32)
    scarce = choose_ridge(rows, sums(x[:, :10], wild[:, :10]), sums(x[:, 10:200], wild[:, 10:200]))
    assert plenty == min(RIDGES) and scarce > 1


def test_silent_inputs_leave_the_weights():
    rows, x, y = layer()
    np.testing.assert_array_equal(fitted(rows, sums(0 * x, y), 0.1), rows)
