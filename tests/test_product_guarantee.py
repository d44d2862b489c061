"""The check of products at numbers that overflow sees a breach of each of its rules, and none where there is none."""

import numpy as np
import pytest

from tests.operator_cases import EPSILON, EXAMPLES, Size
from tests.product_guarantee import PRODUCTS, breach, owed


def case_of(op, **values):
    """(rows of x, what is owed for a case with some of its numbers replaced): name = (place, number)."""
    case = EXAMPLES[op](op, Size(lead=(3,), dtype=np.float32))
    arrays = {name: array.astype(np.float32) if name == "scale" else array for name, array in case.arrays.items()}
    for name, (place, number) in values.items():
        arrays[name] = arrays[name].copy()
        arrays[name][place] = number
    return owed(arrays, case.attributes)


def judged(op, owed_here, found, body=None):
    body = owed_here.exact if body is None else body
    return breach(op, owed_here, found.astype(np.float32), body.astype(np.float32), EPSILON[np.dtype(np.float32)])


@pytest.mark.parametrize("op", PRODUCTS)
def test_right_results_pass(op):
    here = case_of(op)
    assert here.body.all() and not here.spoiled.any()
    assert judged(op, here, here.exact) is None


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize(("name", "place", "rows"), [("x", (1, 3), np.s_[1]), ("scale", (4, 0), np.s_[:, 4])])
@pytest.mark.parametrize("op", PRODUCTS)
def test_what_is_not_finite_stays_so_and_stays_where_it_is(op, name, place, rows, number):
    here = case_of(op, **{name: (place, number)})
    found = np.where(np.isfinite(here.exact), here.exact, np.nan)
    found[rows] = np.inf
    assert judged(op, here, found) is None
    hidden = found.copy()
    hidden[rows] = 0
    assert "against rule 1" in judged(op, here, hidden)
    spread = found.copy()
    spread[2, 7] = np.nan
    assert "against rule 2" in judged(op, here, spread)


@pytest.mark.parametrize("op", PRODUCTS)
def test_where_numbers_may_overflow_a_result_is_right_or_not_finite(op):
    here = case_of(op, x=((0, 0), 1e35))
    assert not here.body[0].any() and here.body[1:].all() and not here.spoiled.any()
    found = here.exact.copy()
    found[0] = np.inf
    assert judged(op, here, found) is None and judged(op, here, here.exact) is None
    found[0] = here.exact[0] + 2 * (here.rounding[0] + here.quantization[0])
    assert "against rule 3" in judged(op, here, found)
