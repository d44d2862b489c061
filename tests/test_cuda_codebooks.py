"""Code-book products of the CUDA kernels on the emulated device, against numpy: forms, types, shapes, schedules."""

import numpy as np
import pytest

from qonnx.custom_ops.codebook import EXACT, INT8
from tests.cuda_build import build, needs_compiler
from tests.cuda_codebook_cases import DTYPES, FORMS, SHAPES, SUMS, SUMS_FORMS, case, check, check_branch, check_product
from tests.cuda_emulation import SCHEDULES, Device, PackedCodebook
from tests.test_kernels_codebook import numbers, weight_of

pytestmark = needs_compiler
OPERATORS = (EXACT, INT8)
types = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
operators = pytest.mark.parametrize("op", OPERATORS)


@pytest.fixture(scope="module")
def device():
    return Device(build())


@types
@operators
@pytest.mark.parametrize("books", [1, 2, 3, 4])
def test_every_vector_of_every_book_is_decoded_exactly(device, books, op, dtype):
    """Row n holds vector n of each book; unit vectors read single numbers, so sums cannot hide an error."""
    weight = weight_of(300, 16, 16, books=books)
    weight.indices[:] = ((np.arange(300)[:, None, None] + np.arange(books)) % 256).astype(weight.indices.dtype)
    x = np.eye(16)[::3].astype(dtype)
    check(op, device.product(PackedCodebook(device, weight, dtype, op == INT8), x), x, weight)


@operators
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_forms_and_shapes(device, form, op):
    """Every form at a few shapes; which of them, and of which type, differs from form to form."""
    for i in range(3):
        at = FORMS.index(form) + 3 * i
        check_product(device, form, op, DTYPES[at % 3], SHAPES[at % len(SHAPES)], (np.float16, np.float32)[i % 2])


@types
@operators
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_and_types(device, shape, op, dtype):
    check_product(device, (256, 6, 2), op, dtype, shape)


@operators
@pytest.mark.parametrize("shared", [20 << 10, 64 << 10, 99 << 10, 227 << 10])
@pytest.mark.parametrize("form", [(256, 8, 2), (4096, 4, 1), (256, 16, 2)], ids=str)
def test_any_room_for_tables_gives_the_same_bits(device, form, op, shared):
    """None, one copy and several; 20 KB hold the stages of few rows, but not every table."""
    shape = (128, 64, 10**6, 2, 1)
    most = check_product(device, form, op, np.float16, shape, np.float16, 227 << 10)
    try:
        y = check_product(device, form, op, np.float16, shape, np.float16, shared)
    except RuntimeError as error:
        assert "failed on the emulated GPU" in str(error) and shared == 20 << 10
    else:
        np.testing.assert_array_equal(y, most)


@operators
@pytest.mark.parametrize("form", SUMS_FORMS, ids=str)
def test_one_or_two_rows_of_x_are_looked_up_as_sums(device, form, op):
    """Both sizes of tables; float32 in three planes, float16 and bfloat16."""
    for i, shape in enumerate(SUMS):
        dtype, shared = DTYPES[i % 3], (99, 163)[i % 2] << 10
        packed = PackedCodebook(device, case(form, shape), dtype, op == INT8)
        regime = packed.plan(dtype, shape[3], shape[4], shared=shared)[0].regime
        assert (regime == "sums") == (form[1] > 4 or op == EXACT)
        check_product(device, form, op, dtype, shape, (np.float16, np.float32)[i % 2], shared)


def test_sums_are_for_few_rows_of_large_weights_and_devices_with_room(device):
    packed = PackedCodebook(device, case((256, 8, 1), SUMS[0]), np.float16, False)
    assert [packed.plan(np.float16, rows, 8)[0].regime for rows in (1, 2, 3, 9, 17)] == ["sums"] * 2 + [
        "few",
        "some",
        "many",
    ]
    assert packed.plan(np.float16, 1, 8, shared=48 << 10)[0].regime == "few"
    small = PackedCodebook(device, case((256, 8, 1), (2000, 8, 10**6, 1, 1)), np.float16, False)
    assert small.plan(np.float16, 1, 8)[0].regime == "few"


@operators
def test_books_of_equal_size_that_fill_a_byte(device, op):
    """Two books whose largest numbers are 63.5 steps each: their sum, 128, does not fit in a byte."""
    weight = weight_of(40, 64, 64, books=2, levels=16)
    np.copyto(weight.codebooks, np.where(weight.codebooks > 0, 1, -1))
    x = np.concatenate([np.ones((1, 64)), np.eye(64)[:3]]).astype(np.float16)
    check(op, device.product(PackedCodebook(device, weight, np.float16, op == INT8), x), x, weight)


@operators
@pytest.mark.parametrize("size", [1e-7, 1e-3, 3e5])
def test_books_of_any_size(device, op, size):
    weight = weight_of(40, 64, 64)
    weight.codebooks[:] *= np.float32(size)
    for dtype in (np.float32, np.float16):
        x = numbers((3, 64), dtype)
        if size == 1e-3 or dtype is np.float32:  # outputs of others are no normal float16 numbers
            check(op, device.product(PackedCodebook(device, weight, dtype, op == INT8), x), x, weight)


@operators
@pytest.mark.parametrize(
    "shape", [(70, 160, 100, 8, 1), (64, 80, 32, 16, 2), (128, 24, 64, 64, 1), (2048, 6, 10**6, 1, 1)], ids=str
)
def test_every_schedule_gives_the_same_bits(device, shape, op):
    results = set()
    for seed in SCHEDULES:
        device.seed(seed)
        results.add(check_product(device, (256, 8, 2), op, np.float16, shape, np.float16).tobytes())
    device.seed(0)
    assert len(results) == 1


@operators
def test_numbers_that_are_not_finite_spoil_their_row_only(device, op):
    weight = weight_of(40, 60, 33, length=6)
    for dtype in DTYPES:
        x = numbers((3, 60), dtype)
        x[1, 5], clean = np.nan, x.copy()
        y = device.product(PackedCodebook(device, weight, dtype, op == INT8), x)
        assert np.isnan(y[1]).all()
        clean[1] = 0
        check(op, y[::2], clean[::2], weight)


def test_books_that_are_not_finite_are_refused_with_a_sentence(device):
    weight = weight_of(9, 32, 32)
    weight.codebooks[1, 7, 3] = np.inf
    with pytest.raises(RuntimeError, match="the code books hold a number that is not finite"):
        PackedCodebook(device, weight, np.float16, False)


@operators
@pytest.mark.parametrize(("rank", "rows"), [(1, 3), (32, 17), (40, 70)])
def test_a_low_rank_branch_is_added(device, op, rank, rows):
    for dtype in DTYPES:
        check_branch(device, op, dtype, rank, rows)
