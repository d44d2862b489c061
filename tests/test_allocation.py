"""Allocation: the optimum of every small knapsack, found by trying all; fronts that fall; budgets that cannot hold."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qonnx.allocation import Choice, allocate, cheapest, pareto
from qonnx.errors import QonnxError


def layers_of(seed: int, count: int, choices: int) -> list[list[Choice]]:
    """Layers of different size and sensitivity; harm falls by about 6 dB a bit."""
    generator = np.random.default_rng(seed)
    layers = []
    for _ in range(count):
        weights, sensitivity = int(generator.integers(100, 5000)), generator.lognormal(-5, 2)
        bits = generator.choice(np.arange(1, 9), choices, replace=False)
        harm = sensitivity * 4.0**-bits * generator.lognormal(0, 0.3, choices)
        layers.append([Choice(f"u{b}", int(weights * b) // 8, float(h)) for b, h in zip(bits, harm, strict=True)])
    return layers


def everything(layers) -> list[tuple[int, float]]:
    """Size and harm of every combination."""
    return [(sum(c.size for c in taken), sum(c.harm for c in taken)) for taken in itertools.product(*layers)]


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 4), st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_the_optimum_is_that_of_trying_all(seed, count, choices, share):
    layers = layers_of(seed, count, choices)
    known = everything(layers)
    low, high = min(s for s, _ in known), max(s for s, _ in known)
    budget = int(low + share * (high - low))
    best = min(h for s, h in known if s <= budget)
    found = allocate(layers, budget)
    assert found.size <= budget
    # HiGHS stops within 1e-6 of a scale on which the largest harm of one choice is 1.
    assert found.harm <= best + 1e-6 * max(c.harm for choices in layers for c in choices)
    assert found.harm == pytest.approx(sum(layers[i][j].harm for i, j in enumerate(found.chosen)))


@pytest.mark.parametrize("seed", range(3))
def test_better_than_one_format_for_all_at_equal_bytes(seed):
    layers = layers_of(seed, 30, 8)
    uniform = [next(c for c in choices if c.name == "u4") for choices in layers]
    found = allocate(layers, sum(c.size for c in uniform))
    assert found.harm < 0.7 * sum(c.harm for c in uniform)


@pytest.mark.parametrize("seed", range(3))
def test_the_cheapest_that_holds_a_bound(seed):
    layers = layers_of(seed, 5, 3)
    known = everything(layers)
    bound = float(np.median([h for _, h in known]))
    found = cheapest(layers, bound)
    assert found.harm <= bound and found.size == min(s for s, h in known if h <= bound)


def test_a_front_falls():
    front = pareto(layers_of(4, 20, 5))
    assert len(front) > 5
    for one, other in itertools.pairwise(front):
        assert one.size < other.size and one.harm > other.harm


def test_what_cannot_hold_is_said():
    layers = layers_of(5, 4, 2)
    with pytest.raises(QonnxError, match="smallest formats take"):
        allocate(layers, 10)
    with pytest.raises(QonnxError, match="least harmful formats"):
        cheapest(layers, 1e-30)
    with pytest.raises(QonnxError, match="not a finite number"):
        allocate([[Choice("u4", 1, float("nan"))]], 10)
