"""PVQ: points of the integer pyramid, counted and chosen."""

import dataclasses
import itertools

import numpy as np
import pytest

from qonnx.formats import FORMATS
from qonnx.solvers import SOLVERS
from qonnx.solvers.pvq import points, pvq, pyramid


@pytest.mark.parametrize(("length", "pulses"), [(1, 3), (2, 4), (3, 3), (4, 2), (3, 0)])
def test_points_are_counted(length, pulses):
    every = itertools.product(range(-pulses, pulses + 1), repeat=length)
    assert points(length, pulses) == sum(sum(map(abs, y)) == pulses for y in every)


def test_pulses_point_where_the_block_does():
    """Against all points of small pyramids: the greedy answer's angle is at most a little wider."""
    rng = np.random.default_rng(0)
    every = np.array([y for y in itertools.product(range(6), repeat=3) if sum(y) == 5])
    for x in np.abs(rng.standard_normal((50, 3))):
        cosine = every @ x / np.linalg.norm(every, axis=1)
        y = pyramid(x[None], 5, 5)[0]
        assert y.sum() == 5 and y @ x / np.linalg.norm(y) >= 0.98 * cosine.max()


def test_codes_stay_in_the_type_and_full_blocks_end():
    y = pyramid(np.array([[9.0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]), 40, 7)
    assert y.max() == 7 and (y.sum(1) == 28).all()


@pytest.mark.parametrize("block", [0, 16])
def test_a_point_of_the_pyramid_is_kept(block):
    rng = np.random.default_rng(1)
    format = dataclasses.replace(FORMATS["s4"], granularity="block" if block else "channel", block=block)
    y = pyramid(np.abs(rng.standard_normal((6, block or 32))), 24, 7) * rng.choice([-1, 1], (6, block or 32))
    rows = (0.125 * y).reshape(1, -1, 32).astype(np.float32)
    found = pvq(rows, format, pulses=24)
    np.testing.assert_allclose(found.decode(), rows, rtol=1e-6)
    np.testing.assert_array_equal(found.codes.reshape(y.shape), y)


def test_it_beats_rounding_of_whole_ranges():
    rows = np.random.default_rng(2).standard_t(4, (1, 32, 64)).astype(np.float32)
    format = dataclasses.replace(FORMATS["s4"], granularity="block", block=32)
    miss = {name: ((SOLVERS[name](rows, format).decode() - rows) ** 2).sum() for name in ("pvq", "nearest")}
    assert miss["pvq"] < miss["nearest"]
