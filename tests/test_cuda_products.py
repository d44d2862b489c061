"""Low-bit products of the CUDA kernels on the emulated device, against numpy: formats, types, shapes, schedules."""

import numpy as np
import pytest

from qonnx.custom_ops.lowbit import EXACT, INT8
from tests.cuda_build import build, needs_compiler
from tests.cuda_emulation import SCHEDULES, Device, PackedLowBit
from tests.cuda_product_cases import DTYPES, KINDS, LARGE, SHAPES, check, check_product, numbers
from tests.low_bit_cases import weight_of

pytestmark = needs_compiler
OPERATORS = (EXACT, INT8)
types = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
operators = pytest.mark.parametrize("op", OPERATORS)


@pytest.fixture(scope="module")
def device():
    return Device(build())


@types
@operators
@pytest.mark.parametrize("kind", KINDS)
def test_every_code_is_decoded_exactly(device, kind, op, dtype):
    """Row n holds code n mod levels everywhere; unit vectors read single weights, so sums cannot hide an error."""
    weight = weight_of(kind, 259, 37, 16)
    weight.codes[:] = (np.arange(259) % weight.levels)[:, None]
    x = np.concatenate([np.eye(37)[33:], -np.eye(37)[:2]]).astype(dtype)
    check(op, device.product(PackedLowBit(device, weight, dtype, op == INT8), x), x, weight)


@operators
@pytest.mark.parametrize("kind", KINDS)
def test_formats_and_shapes(device, kind, op):
    """Every format at a few shapes; which of them, and of which type, differs from format to format."""
    for i in range(3):
        at = KINDS.index(kind) + 3 * i
        check_product(device, kind, op, DTYPES[at % 3], SHAPES[at % len(SHAPES)], (np.float32, np.float16)[i % 2])


@types
@operators
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_and_types(device, shape, op, dtype):
    check_product(device, "b4/rows", op, dtype, shape)


@operators
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_large_shapes(device, shape, op):
    check_product(device, "b4", op, np.float16, shape, np.float16)


@operators
@pytest.mark.parametrize("shape", [(70, 1300, 64, 8, 1), (64, 640, 32, 16, 2), (128, 320, 64, 64, 1)], ids=str)
def test_every_schedule_gives_the_same_bits(device, shape, op):
    results = set()
    for seed in SCHEDULES:
        device.seed(seed)
        results.add(check_product(device, "b3/rows", op, np.float16, shape).tobytes())
    device.seed(0)
    assert len(results) == 1


@operators
def test_numbers_that_are_not_finite_spoil_their_row_only(device, op):
    weight = weight_of("b4", 40, 64, 32)
    for dtype in DTYPES:
        x = numbers((3, 64), dtype)
        x[1, 5], clean = np.nan, x.copy()
        y = device.product(PackedLowBit(device, weight, dtype, op == INT8), x)
        assert np.isnan(y[1]).all()
        clean[1] = 0
        check(op, y[::2], clean[::2], weight)


@operators
def test_tiny_and_huge_rows_stay_exact_to_rounding(device, op):
    weight = weight_of("b4", 33, 64, 32)
    packed = PackedLowBit(device, weight, np.float32, op == INT8)
    for size in (1e-30, 1e-10, 1e10, 1e34):
        x = numbers((6, 64)) * np.float32(size)
        check(op, device.product(packed, x), x, weight)


def test_a_large_table_is_refused_with_a_sentence(device):
    weight = weight_of("b5", 9, 32, 16)
    weight.__dict__["table"] = np.arange(32, dtype=np.float32) ** 2
    with pytest.raises(RuntimeError, match=r"a table of 32 entries .* has no kernel"):
        PackedLowBit(device, weight, np.float16, False)


def test_any_shape_fills_the_processors(device):
    """Through splits of the columns: two blocks for every processor wherever the columns allow it."""
    for processors in (16, 72, 108, 132):
        for outputs in (256, 1024, 4096):
            packed = PackedLowBit(device, weight_of("b1", outputs, 2048, 128), np.float16, False)
            for rows in (1, 8, 16):
                plan, _ = packed.plan(np.float16, rows, processors)
                blocks = -(-outputs // 64) * plan.splits
                assert blocks >= 2 * processors or plan.splits == 2048 // 64 // 8 or blocks >= 1.7 * processors
